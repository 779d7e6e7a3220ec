"""`measure warm`: what an accepted order costs in CPU once the function is warm.

Our `accept_order` and a reference handler run in processes of their own, block by block in turn, each round in
another order. So a busy machine slows both alike: the ratio is the result, the microseconds are for orientation.
AWS is left out in two places. At botocore's `before-send`, all of the SDK but the socket is counted. At the
client's `put_item`, only the code in front of the SDK is counted.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.table import Table

from measure import report
from measure.benchmarks.warm_worker import STUBS
from measure.options import require_known
from orderctl.cloud.state import ROOT
from orderctl.exits import Exit, Stop
from orderctl.options import Json
from orderctl.ui import console

GOALS = {"http": 1000, "client": 220}
GOAL_RATIO = 0.75
TRACES = {"sampled": "trace sampled", "notSampled": "trace not sampled"}
TRACE = "Root=1-67891233-abcdef012345678912345678;Parent=53995c3f42cd8ad8;Sampled="
PROFILED_CALLS = 2000
WORKER = [sys.executable, "-m", "measure.benchmarks.warm_worker"]


def function_environment(sampled: bool) -> dict[str, str]:
    """The environment of a function. Nothing answers at the addresses in it."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "tools")]),
        "PYTHONHASHSEED": "0",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_SESSION_TOKEN": "t" * 600,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_LAMBDA_FUNCTION_NAME": "orders-AcceptOrderFunction-AbCdEfGhIjKl",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
        "AWS_LAMBDA_LOG_GROUP_NAME": "orders-AcceptOrderLogs-AbCdEfGhIjKl",
        "AWS_XRAY_DAEMON_ADDRESS": "127.0.0.1:2000",
        "LAMBDA_TASK_ROOT": str(ROOT / "src"),
        "_X_AMZN_TRACE_ID": f"{TRACE}{int(sampled)}",
        "LOG_LEVEL": "INFO",
        "POWERTOOLS_SERVICE_NAME": "orders",
        "POWERTOOLS_METRICS_NAMESPACE": "OrderPipeline",
        "ORDERS_TABLE": "orders-OrdersTable-AbCdEfGhIjKl",
        "CATALOGUE_TABLE": "orders-CatalogueTable-AbCdEfGhIjKl",
    }


class Worker:
    """One handler in a process of its own."""

    def __init__(self, handler: str, stub: str, sampled: bool) -> None:
        self._process = subprocess.Popen(
            [*WORKER, handler, stub],
            env=function_environment(sampled),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.block_us: list[float] = []

    def run(self, calls: int) -> float:
        """Handle `calls` events; returns microseconds of CPU an event. Stop(STEP_FAILED) if the worker has ended."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the worker has no pipes")
        print(calls, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise Stop(Exit.STEP_FAILED, "A worker of the benchmark ended early.")
        return float(line) / calls * 1e6

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(timeout=10)


def _measure(rounds: int, calls: int, *, sampled: bool) -> dict[str, Any]:
    """Measure every handler with every stub in turn; returns medians over `rounds` blocks of `calls` events."""
    workers = {(handler, stub): Worker(handler, stub, sampled) for stub in STUBS for handler in ("ours", "reference")}
    workers["floor", "client"] = Worker("floor", "client", sampled)
    try:
        for worker in workers.values():
            worker.run(100)
        order = list(workers)
        for _ in range(rounds):
            random.shuffle(order)
            for key in order:
                workers[key].block_us.append(workers[key].run(calls))
    finally:
        for worker in workers.values():
            worker.close()
    figures: dict[str, Any] = {"rounds": rounds, "calls": calls, "sampledTrace": sampled}
    for stub in STUBS:
        ours, reference = (workers[handler, stub].block_us for handler in ("ours", "reference"))
        figures[stub] = {
            "oursUs": round(statistics.median(ours), 1),
            "oursMinUs": round(min(ours), 1),
            "referenceUs": round(statistics.median(reference), 1),
            "ratio": round(statistics.median(a / b for a, b in zip(ours, reference, strict=True)), 3),
            "ratioOfMinima": round(min(ours) / min(reference), 3),
            "goalUs": GOALS[stub],
        }
    figures["floorUs"] = round(statistics.median(workers["floor", "client"].block_us), 1)
    figures["goalRatio"] = GOAL_RATIO
    return figures


def run(rounds: int = 15, calls: int = 200) -> dict[str, Any]:
    """Measure with a sampled trace and without; returns the figures of both by the names in `TRACES`."""
    return {name: _measure(rounds, calls, sampled=name == "sampled") for name in TRACES}


def shown(figures: dict[str, Any]) -> Iterator[Table]:
    """Yield the table of `run`'s figures."""
    rows: list[list[object]] = [
        [
            f"{STUBS[stub]}, {trace}",
            *(figures[name][stub][key] for key in ("oursUs", "oursMinUs", "referenceUs", "ratio", "ratioOfMinima")),
            f"<= {GOALS[stub]} us" + (f", <= {GOAL_RATIO}" if stub == "http" else ""),
        ]
        for name, trace in TRACES.items()
        for stub in STUBS
    ]
    rows += [
        [f"Logger, Tracer and Metrics alone, {trace}", figures[name]["floorUs"]] for name, trace in TRACES.items()
    ]
    yield report.table(
        "CPU of an accepted order, warm (microseconds, median of blocks)",
        ["", "ours", "ours min", "reference", "ratio", "of minima", "goal"],
        rows,
    )


def command(
    *,
    rounds: Annotated[int, typer.Option(min=1, help="Blocks of each handler.")] = 15,
    calls: Annotated[int, typer.Option(min=1, help="Events a block.")] = 200,
    profile: Annotated[
        bool, typer.Option("--profile", help="Show where the time of our handler goes instead.")
    ] = False,
    stub: Annotated[str, typer.Option(help=f"With --profile, where AWS is left out: {' or '.join(STUBS)}.")] = "http",
    as_json: Json = False,
) -> None:
    """Measure the CPU of an accepted order on a warm function, against a reference handler.

    Both handlers run in turn, so the ratios hold on a busy machine. The microseconds do not.
    """
    if profile:
        require_known("stub", stub, STUBS)
        environment = {**function_environment(True), "PROFILE_CALLS": str(PROFILED_CALLS)}
        subprocess.run([*WORKER, "ours", stub], env=environment, cwd=ROOT, check=True)
        return
    with console.step(f"Measuring {rounds} rounds of {calls} events, twice"):
        figures = run(rounds, calls)
    report.deliver("warm", figures, shown(figures), as_json=as_json)
