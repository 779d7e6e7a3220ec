"""How many orders a second the local cloud accepts and fulfils: `python -m measure.benchmarks.throughput`.

Needs a running local cloud (`orderctl up`). A few clients send as fast as they are answered, or at `--rate`; then
it waits until every order has ended. The orders' own timelines say when each was fulfilled, and the CPU time of
the server and of its functions says what a whole machine could do, also where others are busy on it.
"""

# ruff: noqa: T201 - what a benchmark finds goes to stdout
from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

from measure import report
from orderctl.cloud import processes
from orderctl.cloud.state import Cloud
from orderctl.demo import samples
from orderctl.stack import records, rest, signin, target

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has taken, 0 if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS_A_SECOND


def run(cloud: Cloud, orders: int, clients: int, rate: float | None) -> dict[str, Any]:
    """Send the orders, wait for their ends, and return the figures; SystemExit if one isn't fulfilled.

    With a rate, an order is sent when it is due and its latency counts from then.
    """
    there = target.local_target(cloud)
    state = cloud.load()
    if state is None:
        raise SystemExit(f"The local cloud {cloud.name!r} is not running.")
    tokens = signin.token_source(there, None, None)
    body = samples.read_order("fulfilled")
    local = threading.local()

    def submit(number: int) -> tuple[str, float]:
        if not hasattr(local, "api"):
            local.api = rest.OrdersApi(there.api_url, tokens)
        began = time.perf_counter()
        if rate is not None and first_due:
            due = first_due[0] + number / rate
            time.sleep(max(0.0, due - began))
            began = due
        answer = local.api.submit(body, str(uuid.uuid4()))
        rest.require_success(answer)
        return answer.json()["orderId"], time.perf_counter() - began

    first_due: list[float] = []
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(submit, range(clients * 4)))  # cold starts are no part of it
        time.sleep(5)
        before = {pid: cpu_seconds(pid) for pid in processes.group_members(state.pid)}
        began = time.time()
        first_due.append(time.perf_counter())
        accepted = list(pool.map(submit, range(orders)))
        sending = time.time() - began
    ended = wait(there, [order_id for order_id, _ in accepted])
    after = processes.group_members(state.pid)
    cpu = {pid: cpu_seconds(pid) - before.get(pid, 0.0) for pid in after}
    latencies = sorted(seconds for _, seconds in accepted)
    fulfilled = sorted(ended.values())
    whole = fulfilled[-1] - began
    return {
        "orders": orders,
        "clients": clients,
        "rate": rate,
        "acceptedASecond": round(orders / sending, 1),
        "acceptP50Ms": round(statistics.median(latencies) * 1000, 1),
        "acceptP99Ms": round(latencies[int(0.99 * (len(latencies) - 1))] * 1000, 1),
        "fulfilledASecond": round(orders / whole, 1),
        "memoryMb": processes.memory_mb(state.pid),
        "functionProcesses": len(after) - 1,
        "cpuOfServer": round(cpu[state.pid] / whole, 2),
        "cpuOfFunctions": round(sum(seconds for pid, seconds in cpu.items() if pid != state.pid) / whole, 2),
        "cpuMsAnOrderServer": round(cpu[state.pid] / orders * 1000, 1),
        "cpuMsAnOrderFunctions": round((sum(cpu.values()) - cpu[state.pid]) / orders * 1000, 1),
        # The server is one Python process, so it fills one core at most.
        "ordersASecondByCpu": round(min(2 * orders / sum(cpu.values()), orders / cpu[state.pid]), 1),
        "loadAverage": os.getloadavg()[0],
    }


def wait(there: target.Target, order_ids: list[str], timeout_s: float = 600) -> dict[str, float]:
    """Return when each order was fulfilled, as seconds since 1970."""
    waiting, ended = set(order_ids), dict[str, float]()
    deadline = time.monotonic() + timeout_s
    while waiting:
        for order_id in sorted(waiting):
            order = records.find_order(there, order_id)
            if order is None or order["status"] not in rest.TERMINAL:
                break  # those behind it have hardly ended either
            if order["status"] != "FULFILLED":
                raise SystemExit(f"Order {order_id} is {order['status']}.")
            ended[order_id] = datetime.fromisoformat(order["updatedAt"]).timestamp()
            waiting.discard(order_id)
        if time.monotonic() > deadline:
            raise SystemExit(f"{len(waiting)} orders have not ended after {timeout_s:.0f} s.")
        time.sleep(0.5 if waiting else 0)
    return ended


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="default", help="which local cloud")
    parser.add_argument("--orders", type=int, default=300)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rate", type=float, help="orders a second; without it as fast as they are answered")
    options = parser.parse_args()
    found = run(Cloud(options.name), options.orders, options.clients, options.rate)
    report.table("The local cloud under load", ["", ""], [[name, value] for name, value in found.items()])
    print(f"\n{report.save('throughput', found)}")


if __name__ == "__main__":
    main()
