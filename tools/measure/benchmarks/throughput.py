"""`measure throughput`: how many orders a second the local cloud accepts and fulfils.

A few clients send as fast as they are answered, or at a rate. Then the benchmark waits until every order has ended.
The orders' own timelines say when each was fulfilled. The CPU time of the server and of its functions says what a
whole machine could do, also where other programs are busy on the machine.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from measure import placing, report
from orderctl.cloud import processes
from orderctl.cloud.state import Cloud
from orderctl.defaults import DEFAULT_NAME
from orderctl.demo import samples
from orderctl.exits import Exit, Stop
from orderctl.options import Json, Name
from orderctl.stack import target as targets
from orderctl.ui import console

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
END_TIMEOUT_S = 600.0


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has taken, 0 if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND


def run(cloud: Cloud, orders: int, clients: int, rate: float | None) -> dict[str, Any]:
    """Send the orders, wait until they have ended, and return the figures.

    With a rate, an order is sent when it is due and its latency counts from then. Stop(NOT_AS_EXPECTED) if an order
    isn't fulfilled.
    """
    target = targets.local_target(cloud)
    server = target.local
    if server is None:
        raise Stop(Exit.NO_TARGET, f"The local cloud {cloud.name!r} is not running.")
    customer = placing.Customer(target)
    body = samples.read_order("fulfilled")
    first_due: list[float] = []

    def place(number: int) -> tuple[str, float]:
        began = time.perf_counter()
        if rate is not None and first_due:
            due = first_due[0] + number / rate
            time.sleep(max(0.0, due - began))
            began = due
        return customer.place(body), time.perf_counter() - began

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(place, range(clients * 4)))  # cold starts are no part of it
        time.sleep(5)
        before = {pid: cpu_seconds(pid) for pid in processes.group_members(server.pid)}
        began = time.time()
        first_due.append(time.perf_counter())
        accepted = list(pool.map(place, range(orders)))
        sending = time.time() - began
    fulfilled = placing.wait_until_fulfilled(target, [order_id for order_id, _ in accepted], END_TIMEOUT_S)
    after = processes.group_members(server.pid)
    cpu = {pid: cpu_seconds(pid) - before.get(pid, 0.0) for pid in after}
    latencies = sorted(seconds for _, seconds in accepted)
    whole = max(fulfilled.values()) - began
    return {
        "orders": orders,
        "clients": clients,
        "rate": rate,
        "acceptedASecond": round(orders / sending, 1),
        "acceptP50Ms": round(statistics.median(latencies) * 1000, 1),
        "acceptP99Ms": round(latencies[int(0.99 * (len(latencies) - 1))] * 1000, 1),
        "fulfilledASecond": round(orders / whole, 1),
        "memoryMb": processes.memory_mb(server.pid),
        "functionProcesses": len(after) - 1,
        "cpuOfServer": round(cpu[server.pid] / whole, 2),
        "cpuOfFunctions": round(sum(seconds for pid, seconds in cpu.items() if pid != server.pid) / whole, 2),
        "cpuMsAnOrderServer": round(cpu[server.pid] / orders * 1000, 1),
        "cpuMsAnOrderFunctions": round((sum(cpu.values()) - cpu[server.pid]) / orders * 1000, 1),
        # The server is one Python process, so it fills one core at most.
        "ordersASecondByCpu": round(min(2 * orders / sum(cpu.values()), orders / cpu[server.pid]), 1),
        "loadAverage": round(os.getloadavg()[0], 1),
    }


def shown(figures: dict[str, Any]) -> Iterator[Table]:
    """Yield the table of `run`'s figures."""
    yield report.table("The local cloud under load", ["", ""], figures.items())


def command(
    *,
    orders: Annotated[int, typer.Option(min=1, help="How many orders.")] = 300,
    clients: Annotated[int, typer.Option(min=1, help="How many clients send at the same time.")] = 8,
    rate: Annotated[
        float | None, typer.Option(min=0.1, help="Orders a second. Default: as fast as they are answered.")
    ] = None,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Measure how many orders a second the running local cloud accepts and fulfils."""
    with console.step(f"Sending {orders} orders and waiting until they have ended"):
        figures = run(Cloud(name), orders, clients, rate)
    report.deliver("throughput", figures, shown(figures), as_json=as_json)
