"""`measure load`: orders under faults, and the reckoning of each one."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from measure import load, reconcile
from measure.options import require_known
from orderctl.cloud.state import Cloud
from orderctl.defaults import DEFAULT_NAME
from orderctl.exits import Exit
from orderctl.options import Json, Name
from orderctl.ui import console, tables

MOST_SHOWN = 20


def command(
    *,
    orders: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many orders.")] = 500,
    rate: Annotated[
        float, typer.Option(min=0.1, max=10_000, help="Orders a second, however slow the answers are.")
    ] = 20,
    faults: Annotated[
        str, typer.Option(metavar="PROFILE", help=f"Which faults: {', '.join(load.PROFILES)}.")
    ] = "clean",
    seed: Annotated[int, typer.Option(help="The same seed gives the same orders.")] = 1,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds to wait at most until every order has ended.")
    ] = 1800,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Send orders at a steady rate to the local cloud, inject faults, and account for each order.

    Afterwards failures heal by themselves until every order has ended. Ends with exit code 5 if an order was lost,
    something happened twice, or the inbox holds more than the messages that nobody can read.
    """
    require_known("profile", faults, load.PROFILES)
    profile = load.PROFILES[faults]
    cloud = Cloud(name)
    run = load.Load(load.local_target(cloud, profile), orders, rate, profile, seed)
    with closing(reconcile.EventLog(run)) as log:
        chaos = load.Chaos(run, cloud)
        try:
            load.send(run, chaos)
        finally:
            chaos.end()
        first = reconcile.settle(run, timeout)
    last = reconcile.reckon(run, log, final=True)
    found = reconcile.report(run, first, last)
    if as_json:
        console.emit_json(found)
    else:
        _show(found)
    if not last.well or last.accepted + len(run.refused) != orders:
        raise SystemExit(int(Exit.NOT_AS_EXPECTED))


def _show(found: dict[str, Any]) -> None:
    table = tables.details()
    table.add_row("Accepted", f"{found['accepted']} of {found['orders']}")
    for title, key in (("Fulfilled", "fulfilled"), ("Failed", "failed"), ("In the inbox", "inInbox")):
        table.add_row(title, f"{found[key]}  [dim]before healing: {found['beforeHealing'][key]}[/]")
    for title, key in (("Lost", "lost"), ("Doubled", "doubled")):
        _list(table, title, found[key])
    inbox = found["inbox"]
    _list(table, "Not healed", {cause: str(number) for cause, number in inbox["healing"].items()})
    _list(table, "Needs a human", inbox["unexpected"])
    table.add_row("Unreadable on purpose", f"{inbox['poison']} in the inbox")
    faults = ", ".join(f"{number} {what}" for what, number in found["injected"].items())
    table.add_row("Injected", faults or "nothing")
    table.add_row("Requests retried", f"{found['requestRetries']}, of them answered 5xx: {found['serverErrors']}")
    for title, key in (("Acceptance", "acceptanceSeconds"), ("Placed to fulfilled", "placedToFulfilledSeconds")):
        table.add_row(title, ", ".join(f"{name} {seconds:.3f} s" for name, seconds in found[key].items()))
    table.add_row("Accepted a second", f"{found['acceptedPerSecond']:.1f}")
    table.add_row("Ended a second", f"{found['endedPerSecond']:.1f}")
    if found["memoryMb"] is not None:
        table.add_row("Memory", f"{found['memoryMb']} MB")
    console.out.print(table)


def _list(table: Table, title: str, wrong: dict[str, str]) -> None:
    """Add a row with the number of things that are wrong, and one for each of the first."""
    table.add_row(title, f"[{'red' if wrong else 'green'}]{len(wrong)}[/]")
    for name, why in list(wrong.items())[:MOST_SHOWN]:
        table.add_row("", escape(f"{name}: {why}"))
