"""The benchmarks that need neither a running local cloud nor minutes: `make bench`.

Runs each in a process of its own, with its own tables, and then shows the results against their goals.
"""

# ruff: noqa: T201 - what a benchmark finds goes to stdout
from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from measure import cost, report

RUNS = {
    "warm": ["measure.benchmarks.warm"],
    "coldstart": ["measure.benchmarks.coldstart", "--rounds", "5"],
    "scaling": ["measure.benchmarks.scaling"],
    "cost-peers": ["measure.benchmarks.cost_peers"],
}


def goals(found: dict[str, dict[str, Any]]) -> list[list[object]]:
    """Return the summary's rows: what, measured, goal, whether it is met."""
    rows: list[list[object]] = []

    def row(what: str, value: float | None, most: float, unit: str = "") -> None:
        shown = "not measured" if value is None else f"{value:g}{unit}"
        met = "" if value is None else "yes" if value <= most else "no"
        rows.append([what, shown, f"<= {most:g}{unit}", met])

    warm = found.get("warm", {})
    for trace, words in (("sampled", "trace sampled"), ("notSampled", "trace not sampled")):
        measured = warm.get(trace, {})
        row(f"accepted order, CPU against the reference, {words}", measured.get("http", {}).get("ratio"), 0.75)
        row(f"accepted order, CPU, {words}", measured.get("http", {}).get("oursUs"), 1000, " us")
        row(f"accepted order, CPU in front of the SDK, {words}", measured.get("client", {}).get("oursUs"), 220, " us")
    for result in found.get("coldstart", {}).get("results", []):
        for reference, most in result["budgets"].items():
            row(f"INIT of {result['name']} against {reference}", result["initRatios"].get(reference), most)
    usage = cost.load_usage()
    order = usage["journeys"]["fulfilled"]["functions"]
    row("AWS calls to accept an order", sum(order["AcceptOrder"]["calls"].values()), 1)
    row("AWS calls to read an order", sum(usage["read"]["functions"]["QueryOrders"]["calls"].values()), 1)
    bill = cost.report(usage, cost.load_prices(), "clean", None)
    row("dollars for a million orders, all in", bill["perMillionOrders"], 150)
    row("of these, not for state transitions", bill["perMillionOrders"] - bill["byService"]["Step Functions"], 50)
    return rows


def main() -> None:
    """Run everything; a benchmark that can't run here is named and left out."""
    found: dict[str, dict[str, Any]] = {}
    for name, module in RUNS.items():
        result = report.RESULTS / f"{name}.json"
        before = result.stat().st_mtime_ns if result.exists() else 0
        finished = subprocess.run([sys.executable, "-m", *module], cwd=report.ROOT, check=False)
        if result.exists() and result.stat().st_mtime_ns != before:
            found[name] = json.loads(result.read_text())
        if finished.returncode:
            print(f"\n{name} ended with {finished.returncode}.")
    rows = goals(found)
    report.table("Against the goals", ["", "measured", "goal", "met"], rows)
    keys = ("what", "measured", "goal", "met")
    print(f"\n{report.save('summary', {'rows': [dict(zip(keys, row, strict=True)) for row in rows]})}")


if __name__ == "__main__":
    main()
