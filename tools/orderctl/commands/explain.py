"""The command `orderctl explain`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from orderctl.defaults import DEFAULT_NAME
from orderctl.options import Json, Name, OrderId, Profile, Region, Stack, examples
from orderctl.ui import console

if TYPE_CHECKING:
    from orderctl.explanation import Explanation

app = typer.Typer()


@app.command(epilog=examples("orderctl explain 6f1c2d3e", "orderctl explain 6f1c2d3e --stack orders-prod --json"))
def explain(
    order_id: OrderId,
    *,
    with_logs: Annotated[bool, typer.Option("--logs/--no-logs", help="Read log lines, too; slower.")] = True,
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Say where an order is and why: timeline, workflow, failures, queues and log lines on one page."""
    from orderctl.explanation import examine
    from orderctl.stack import prefixes, records
    from orderctl.stack.target import choose

    target = choose(stack, name, profile, region)
    with records.tables_named(target):
        explanation = examine(target, prefixes.order(target, order_id), with_logs=with_logs)
    if as_json:
        console.emit_json(explanation.as_json())
    else:
        _show(explanation)


def _show(explanation: Explanation) -> None:
    from orderctl.ui import tables
    from orderctl.views import order_tables

    console.out.print(order_tables.order(explanation.order, with_timeline=False))
    console.out.print()
    happened = tables.table(tables.whole("At (UTC)"), "Source", "What happened")
    day = ""
    for line in explanation.lines:
        date, _, clock = line.at.removesuffix("Z").partition("T")
        if date != day:
            day = date
            happened.add_row(date, "", "")
        happened.add_row(clock, escape(line.source), escape(line.what))
    console.out.print(happened)
    console.out.print()
    for queue, counts in explanation.queues.items():
        console.out.print(
            f"Queue {queue}: {counts['waiting']} waiting, {counts['inFlight']} in flight, {counts['delayed']} delayed"
            " (of all orders)"
        )
    console.out.print()
    if explanation.unreadable:
        console.out.print(f"Failures that can't be read: {', '.join(explanation.unreadable)}.", markup=False)
    console.out.print(explanation.sentence, style="bold", markup=False)
