"""`measure cost`: what an order uses of AWS, and what that costs."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from measure import cost, report, usage
from orderctl.cloud.state import ROOT, Cloud
from orderctl.defaults import DEFAULT_NAME
from orderctl.options import Json, Name
from orderctl.stack.target import local_target
from orderctl.ui import console

JOURNEYS = ["fulfilled", "declined", "out-of-stock", "provider-down"]


def command(
    *,
    orders_per_month: Annotated[int | None, typer.Option(min=0, help="Also show the bill of a month.")] = None,
    profile: Annotated[
        str, typer.Option(help=f"Which orders: {', '.join(cost.PROFILES)}, or the name of a sample order.")
    ] = "clean",
    count: Annotated[
        bool, typer.Option("--count", help="Count the units again on the running local cloud and keep the counts.")
    ] = False,
    orders: Annotated[int, typer.Option(min=1, max=1000, help="With --count: how many of each sample order.")] = 20,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Show what a million orders cost on AWS: units counted on the local cloud times list prices."""
    if count:
        with console.step(f"Counting what {orders} of each of {len(JOURNEYS)} sample orders use"):
            counted = usage.Meter(local_target(Cloud(name))).measure(JOURNEYS, orders)
        cost.USAGE_FILE.write_text(json.dumps(counted, indent=2) + "\n")
        console.say(f"The counts are in {cost.USAGE_FILE.relative_to(ROOT)}.")
    counted = cost.load_usage()
    found = cost.report(counted, cost.load_prices(), profile, orders_per_month)
    if as_json:
        console.emit_json(found)
    else:
        _show(found, counted)


def _show(found: dict[str, Any], counted: dict[str, Any]) -> None:
    console.out.print(_calls(found["counted"], counted["read"]))
    console.out.print(_lines(found))
    for title, key in (("by design choice", "byChoice"), ("what if", "whatIf")):
        console.out.print(_sums(title, found[key], found["perMillionOrders"] if key == "whatIf" else None))
    fixed = ", ".join(f"{what} ${dollars:.2f}" for what, dollars in found["fixedPerMonth"].items())
    console.out.print(f"A million reads of an order cost ${found['perMillionReads']:.2f}. Each month: {fixed}.")
    if "perMonth" in found:
        console.out.print(f"[bold]{found['ordersPerMonth']:,} orders a month: ${found['perMonth']:,.2f}[/]")
    assumed = ", ".join(f"{name} {value:g}" for name, value in found["assumptions"].items())
    console.out.print(
        f"Counted on {found['measuredAt']} on {found['measuredOn']}; list prices of "
        f"{found['prices']['region']}, {found['prices']['asOf']}. Assumed: {assumed}."
    )


def _calls(average: dict[str, Any], read: dict[str, Any]) -> Table:
    functions = [*average["functions"].items(), *((f"{name} (a read)", f) for name, f in read["functions"].items())]
    rows = [
        [
            name,
            f"{function['invocations']:g}",
            f"{function['durationMs']:.0f}",
            f"{sum(function['logBytes'].values()):.0f}",
            *_counted(function["calls"]),
        ]
        for name, function in functions
    ]
    workflow = average["workflow"]
    milliseconds = f"{workflow['seconds'] * 1000:.0f}"
    rows.append(["workflow", f"{workflow['executions']:g}", milliseconds, "", *_counted(workflow["calls"])])
    in_all = sum(sum(function["calls"].values()) for function in average["functions"].values())
    rows.append(["the whole journey", "", "", "", f"[bold]{in_all + sum(workflow['calls'].values()):g}[/]"])
    columns: list[str | Column] = ["", "invocations", "ms", "log bytes", "AWS calls", Column("", overflow="fold")]
    return report.table("What an order uses", columns, rows)


def _counted(calls: dict[str, float]) -> tuple[str, str]:
    return f"{sum(calls.values()):g}", "\n".join(f"{number:g} {call}" for call, number in calls.items())


def _lines(found: dict[str, Any]) -> Table:
    rows = []
    for service, dollars in found["byService"].items():
        rows.append([f"[bold]{service}[/]", "", f"[bold]{dollars:.2f}[/]"])
        rows += [
            [f"  {line['what']}", f"{line['units']:.4g}", f"{line['perMillion']:.2f}"]
            for line in found["lines"]
            if line["service"] == service and line["perMillion"] >= 0.005
        ]
    rows.append(["[bold]all in[/]", "", f"[bold]{found['perMillionOrders']:.2f}[/]"])
    return report.table("Dollars for a million orders", ["", "units an order", "dollars"], rows)


def _sums(title: str, sums: dict[str, float], base: float | None) -> Table:
    rows = [
        [what, f"{dollars:.2f}", "" if base is None else f"{dollars - base:+.2f}"] for what, dollars in sums.items()
    ]
    return report.table(f"Dollars for a million orders, {title}", ["", "", ""], rows)
