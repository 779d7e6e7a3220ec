"""`measure laptop`: how long a newcomer waits.

Clean clone to first fulfilled order, a second `make run`, and latencies of orders. The benchmark clones the committed
state of this checkout into a temporary directory. Afterwards it stops that local cloud and removes the directory.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from measure import placing, report
from orderctl.cloud import server_process
from orderctl.cloud.state import ROOT, CloudState
from orderctl.demo import samples
from orderctl.exits import Exit, Stop
from orderctl.options import Json
from orderctl.stack import target as targets
from orderctl.stack.target import Target
from orderctl.ui import console

GOALS = {
    "cloneToFirstOrderS": 90.0,
    "secondRunS": 25.0,
    "submitP50Ms": 30.0,
    "placedToFulfilledP50S": 3.0,
    "testsS": 360.0,
}
END_TIMEOUT_S = 60.0


def make(checkout: Path, *arguments: str, until: str | None = None) -> tuple[float, float]:
    """Run make; returns seconds until a line of its output holds `until`, and until its end.

    Raises Stop(STEP_FAILED), with the end of its output, if it fails.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("AWS_") and name not in ("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL")
    }
    began = time.monotonic()
    seen = 0.0
    output: list[str] = []
    with subprocess.Popen(
        ["make", *arguments],
        cwd=checkout,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout
        for line in process.stdout:
            output.append(line)
            if until and until in line and not seen:
                seen = time.monotonic() - began
    if process.returncode:
        raise Stop(Exit.STEP_FAILED, f"`make {' '.join(arguments)}` failed:\n{''.join(output[-40:])}")
    return seen, time.monotonic() - began


def target_of(checkout: Path) -> Target:
    """Return the default local cloud of another checkout."""
    state = CloudState(**json.loads((checkout / ".local/cloud/default/state.json").read_text()))
    return targets.of_state(state)


def submission_ms(customer: placing.Customer, count: int) -> list[float]:
    """Place `count` orders one after the other; returns milliseconds to each one's answer."""
    body = samples.read_order("fulfilled")
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        customer.place(body)
        taken.append((time.perf_counter() - began) * 1000)
    return taken


def follow_orders(target: Target, customer: placing.Customer, count: int) -> tuple[list[float], list[float]]:
    """Place orders one at a time, each once the one before has ended.

    Returns milliseconds to each one's answer, and seconds from PLACED to FULFILLED.
    """
    body = samples.read_order("fulfilled")
    submitted, fulfilled = [], []
    for _ in range(count):
        began = time.perf_counter()
        order_id = customer.place(body)
        submitted.append((time.perf_counter() - began) * 1000)
        ended = placing.wait_until_ended(target, order_id, END_TIMEOUT_S)
        at = {entry.what: datetime.fromisoformat(entry.at) for entry in ended.timeline}
        fulfilled.append((at["FULFILLED"] - at["PLACED"]).total_seconds())
    return submitted, fulfilled


def percentile(values: list[float], percent: int) -> float:
    """Return a percentile of the values."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def measure(checkout: Path, port: int, orders: int, *, tests: bool, cold_cache: bool) -> dict[str, float]:
    """Run everything in a fresh clone at `checkout`; returns the figures."""
    figures: dict[str, float] = {}
    if cold_cache:
        os.environ["UV_CACHE_DIR"] = str(checkout.parent / "uv-cache")
        os.environ["PIP_NO_CACHE_DIR"] = "1"
    began = time.monotonic()
    subprocess.run(["git", "clone", "--quiet", ROOT, checkout], check=True)
    clone_s = time.monotonic() - began
    with console.step("The first `make run`"):
        first, whole = make(checkout, "run", f"PORT={port}", until="FULFILLED")
    figures["cloneToFirstOrderS"] = clone_s + first
    figures["firstRunS"] = whole
    with console.step("The second `make run`"):
        _, figures["secondRunS"] = make(checkout, "run", f"PORT={port}")
    target = target_of(checkout)
    customer = placing.Customer(target)
    with console.step(f"Placing {orders} orders"):
        submission_ms(customer, 20)  # warm-up
        time.sleep(5)  # until these orders have ended
        submissions, journeys = follow_orders(target, customer, max(10, orders // 10))
        figures["submitP50Ms"] = percentile(submissions, 50)
        figures["submitP95Ms"] = percentile(submissions, 95)
        figures["placedToFulfilledP50S"] = percentile(journeys, 50)
        figures["placedToFulfilledP95S"] = percentile(journeys, 95)
        # Without a pause, the orders before take the processors that the next submission needs.
        submissions = submission_ms(customer, orders)
    figures["submitBackToBackP50Ms"] = percentile(submissions, 50)
    figures["submitBackToBackP95Ms"] = percentile(submissions, 95)
    if tests:
        with console.step("`make test`"):
            _, figures["testsS"] = make(checkout, "test")
    return {name: round(value, 3) for name, value in figures.items()}


def run(orders: int, *, tests: bool, cold_cache: bool) -> dict[str, float]:
    """Measure in a temporary clone and remove it; returns the figures in seconds (S) and milliseconds (Ms)."""
    targets.forget_aws_environment()
    directory = Path(tempfile.mkdtemp(prefix="order-pipeline-"))
    orderctl = directory / "clone/.venv/bin/orderctl"
    try:
        figures = measure(directory / "clone", server_process.free_port(), orders, tests=tests, cold_cache=cold_cache)
    finally:
        if orderctl.exists():
            subprocess.run([orderctl, "down", "--all"], capture_output=True, check=False)
        shutil.rmtree(directory, ignore_errors=True)
    return {**figures, "loadAverage": round(os.getloadavg()[0], 1)}


def shown(figures: dict[str, float]) -> Iterator[Table]:
    """Yield the table of `run`'s figures."""
    rows = [[name, f"{value:g}", f"<= {GOALS[name]:g}" if name in GOALS else ""] for name, value in figures.items()]
    yield report.table("From clone to order", ["", "measured", "goal"], rows)


def command(
    *,
    orders: Annotated[int, typer.Option(min=1, help="Submissions to measure.")] = 200,
    tests: Annotated[bool, typer.Option("--tests", help="Measure `make test`, too.")] = False,
    cold_cache: Annotated[bool, typer.Option("--cold-cache", help="Download every package anew.")] = False,
    as_json: Json = False,
) -> None:
    """Measure clean clone to first order, a second `make run`, and latencies, on a local cloud of its own."""
    figures = run(orders, tests=tests, cold_cache=cold_cache)
    report.deliver("laptop", figures, shown(figures), as_json=as_json)
