"""The command `orderctl cost`: what an order uses of AWS and what that costs."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table

from measure import cost
from orderctl.cloud.state import DEFAULT_NAME, ROOT
from orderctl.options import Json, Name
from orderctl.ui import console

JOURNEYS = ["fulfilled", "declined", "out-of-stock", "provider-down"]


def command(
    *,
    orders_per_month: Annotated[int | None, typer.Option(min=0, help="Also show the bill of a month.")] = None,
    profile: Annotated[
        str, typer.Option(help=f"Which orders: {', '.join(cost.PROFILES)}, or the name of a sample order.")
    ] = "clean",
    measure: Annotated[
        bool, typer.Option("--measure", help="Count again on the running local cloud and keep the counts.")
    ] = False,
    orders: Annotated[int, typer.Option(min=1, max=1000, help="With --measure: how many of each sample order.")] = 20,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Show what a million orders cost on AWS, from units counted on the local cloud and list prices."""
    if measure:
        from measure import usage  # noqa: PLC0415
        from orderctl.cloud.state import Cloud  # noqa: PLC0415
        from orderctl.stack import target  # noqa: PLC0415

        with console.step(f"Counting what {orders} of each of {len(JOURNEYS)} sample orders use"):
            counted = usage.Meter(target.local_target(Cloud(name))).measure(JOURNEYS, orders)
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
    table = Table(title="What an order uses", title_justify="left", box=None, header_style="bold")
    table.add_column("")
    for column in ("invocations", "ms", "log bytes", "AWS calls"):
        table.add_column(column, justify="right")
    table.add_column("", overflow="fold")
    functions = [*average["functions"].items(), *((f"{name} (a read)", f) for name, f in read["functions"].items())]
    for name, function in functions:
        calls = "\n".join(f"{count:g} {call}" for call, count in function["calls"].items())
        table.add_row(
            name,
            f"{function['invocations']:g}",
            f"{function['durationMs']:.0f}",
            f"{sum(function['logBytes'].values()):.0f}",
            f"{sum(function['calls'].values()):g}",
            calls,
        )
    workflow = average["workflow"]
    calls = "\n".join(f"{count:g} {call}" for call, count in workflow["calls"].items())
    table.add_row(
        "workflow", f"{workflow['transitions']:g} states", "", "", f"{sum(workflow['calls'].values()):g}", calls
    )
    in_all = sum(sum(function["calls"].values()) for function in average["functions"].values())
    table.add_row("the whole journey", "", "", "", f"[bold]{in_all + sum(workflow['calls'].values()):g}[/]", "")
    return table


def _lines(found: dict[str, Any]) -> Table:
    table = Table(title="\nDollars for a million orders", title_justify="left", box=None, header_style="bold")
    table.add_column("")
    table.add_column("units an order", justify="right")
    table.add_column("dollars", justify="right")
    for service, dollars in found["byService"].items():
        table.add_row(f"[bold]{service}[/]", "", f"[bold]{dollars:.2f}[/]")
        for line in found["lines"]:
            if line["service"] == service and line["perMillion"] >= 0.005:
                table.add_row(f"  {line['what']}", f"{line['units']:.4g}", f"{line['perMillion']:.2f}")
    table.add_row("[bold]all in[/]", "", f"[bold]{found['perMillionOrders']:.2f}[/]")
    return table


def _sums(title: str, sums: dict[str, float], base: float | None) -> Table:
    table = Table(title=f"\nDollars for a million orders, {title}", title_justify="left", box=None, show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    table.add_column("", justify="right")
    for what, dollars in sums.items():
        table.add_row(what, f"{dollars:.2f}", "" if base is None else f"{dollars - base:+.2f}")
    return table
