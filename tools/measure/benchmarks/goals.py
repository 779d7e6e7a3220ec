"""`measure all`: the benchmarks that need no running local cloud, and their results against the goals."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

from rich.console import RenderableType

from measure import cost, report
from measure.benchmarks import coldstart, cost_peers, scaling, warm
from orderctl.exits import Exit, Stop
from orderctl.options import Json
from orderctl.ui import console

Figures = dict[str, Any]
DOLLARS_A_MILLION = 46


class Benchmark(NamedTuple):
    """A benchmark: what measures, and what shows the figures."""

    run: Callable[[], Figures]
    shown: Callable[[Figures], Iterable[RenderableType]]


BENCHMARKS = {
    "warm": Benchmark(warm.run, warm.shown),
    "coldstart": Benchmark(partial(coldstart.run, [], 5), coldstart.shown),
    "scaling": Benchmark(scaling.run, scaling.shown),
    "cost-peers": Benchmark(cost_peers.run, cost_peers.shown),
}


class Goal(NamedTuple):
    """A result and the most that it may be; `measured` is None where a benchmark could not run."""

    what: str
    measured: float | None
    most: float
    unit: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None if nothing was measured."""
        return None if self.measured is None else self.measured <= self.most


def goals(found: dict[str, Figures]) -> list[Goal]:
    """Return the goals with what the benchmarks have found, by the names in `BENCHMARKS`."""
    return [
        *_warm(found.get("warm", {})),
        *_cold_start(found.get("coldstart", {})),
        *_scaling(found.get("scaling", {})),
        *_calls_and_dollars(),
    ]


def _warm(figures: Figures) -> Iterable[Goal]:
    for name, trace in warm.TRACES.items():
        http, client = (figures.get(name, {}).get(stub, {}) for stub in ("http", "client"))
        yield Goal(f"accepted order, CPU against the reference, {trace}", http.get("ratio"), warm.GOAL_RATIO)
        yield Goal(f"accepted order, CPU, {trace}", http.get("oursUs"), warm.GOALS["http"], " us")
        yield Goal(
            f"accepted order, CPU in front of the SDK, {trace}", client.get("oursUs"), warm.GOALS["client"], " us"
        )


def _cold_start(figures: Figures) -> Iterable[Goal]:
    for result in figures.get("results", []):
        for reference, most in result["budgets"].items():
            # A budget is exceeded where both are above it, as in `coldstart.summary`.
            measured = min(result["initRatios"][reference], result["cpuRatios"][reference])
            yield Goal(f"INIT or CPU of {result['name']} against {reference}", measured, most)


def _scaling(figures: Figures) -> Iterable[Goal]:
    retries = [row["retriesAnOrder"] for row in figures.get("bestSeller", []) if row["ordersASecond"] == 300]
    yield Goal("retries an order, 300 a second of one product", max(retries, default=None), scaling.MOST_RETRIES)
    waits = [row["longestWaitS"] for row in figures.get("bursts", []) if row["ordersASecond"] == 1_000]
    yield Goal("longest wait at 1,000 orders/s", max(waits, default=None), 0, " s")


def _calls_and_dollars() -> Iterable[Goal]:
    usage = cost.load_usage()
    functions = usage["journeys"]["fulfilled"]["functions"]
    yield Goal("AWS calls to accept an order", sum(functions["AcceptOrder"]["calls"].values()), 1)
    yield Goal("AWS calls to read an order", sum(usage["read"]["functions"]["QueryOrders"]["calls"].values()), 1)
    bill = cost.report(usage, cost.load_prices(), "clean", None)
    dollars = bill["perMillionOrders"]
    yield Goal("dollars for a million orders, all in", dollars, DOLLARS_A_MILLION)


def command(*, as_json: Json = False) -> None:
    """Run the benchmarks warm, coldstart, scaling and cost-peers, and show the results against their goals.

    Ends with exit code 6 if a benchmark can't run here. A goal that is missed does not change the exit code: a busy
    machine can miss those in microseconds.
    """
    found: dict[str, Figures] = {}
    for name, benchmark in BENCHMARKS.items():
        try:
            found[name] = benchmark.run()
        except Stop as stop:
            console.complain(f"{name} can't run here: {stop.what}", stop.next_step)
            continue
        report.save(name, found[name])
        if not as_json:
            for each in benchmark.shown(found[name]):
                console.out.print(each)
    reached = goals(found)
    rows = [
        [
            goal.what,
            "not measured" if goal.measured is None else f"{goal.measured:g}{goal.unit}",
            f"<= {goal.most:g}{goal.unit}",
            "" if goal.met is None else "yes" if goal.met else "no",
        ]
        for goal in reached
    ]
    figures = {"goals": [{**goal._asdict(), "met": goal.met} for goal in reached]}
    table = report.table("Against the goals", ["", "measured", "goal", "met"], rows)
    report.deliver("summary", {**found, **figures}, [table], as_json=as_json)
    if len(found) < len(BENCHMARKS):
        raise SystemExit(int(Exit.STEP_FAILED))
