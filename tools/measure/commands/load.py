"""The command `orderctl load`."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer
from orderctl.cloud.state import DEFAULT_NAME, Cloud
from orderctl.exits import Exit, Stop
from orderctl.options import Json, Name
from orderctl.ui import console, tables
from rich.markup import escape

if TYPE_CHECKING:
    from measure.load import Load

MOST_SHOWN = 20


def load(
    *,
    orders: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many orders.")] = 500,
    rate: Annotated[
        float, typer.Option(min=0.1, max=10_000, help="So many a second, however slow the answers.")
    ] = 20,
    faults: Annotated[
        str,
        typer.Option(help="clean, full, or one of provider, warehouse, duplicates, poison, kills, restart."),
    ] = "clean",
    seed: Annotated[int, typer.Option(help="The same seed orders the same.")] = 1,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait at most until every order has ended.")] = 900,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Send orders at a steady rate to the local cloud, with faults, and account for every one of them.

    Afterwards the inbox is redriven until every order has ended. Ends with exit code 5 if an order was lost or
    something happened twice.
    """
    from measure import load as the_load  # noqa: PLC0415
    from measure import reconcile  # noqa: PLC0415

    if faults not in the_load.PROFILES:
        raise Stop(Exit.USAGE, f"There is no profile {faults!r}.", f"Profiles: {', '.join(the_load.PROFILES)}.")
    profile = the_load.PROFILES[faults]
    cloud = Cloud(name)
    run = the_load.Load(the_load.local_target(cloud, profile), orders, rate, profile, seed)
    with closing(reconcile.EventLog(run)) as log:
        chaos = the_load.Chaos(run, cloud)
        try:
            the_load.send(run, chaos)
        finally:
            chaos.end()
        reckonings = reconcile.settle(run, timeout)
    last = reconcile.reckon(run, log, final=True)
    found = reconcile.report(run, reckonings[0], last)
    if as_json:
        console.emit_json(found)
    else:
        _show(run, found)
    if last.lost or last.doubled or last.accepted + len(run.refused) != orders:
        raise SystemExit(int(Exit.NOT_AS_EXPECTED))


def _show(run: Load, found: dict[str, Any]) -> None:
    table = tables.details()
    table.add_row("Accepted", f"{found['accepted']} of {run.orders}")
    for title, key in (("Fulfilled", "fulfilled"), ("Failed", "failed"), ("In the inbox", "inInbox")):
        table.add_row(title, f"{found[key]}  [dim]before redriving: {found['beforeRedrive'][key]}[/]")
    for title, key in (("Lost", "lost"), ("Doubled", "doubled")):
        colour = "red" if found[key] else "green"
        table.add_row(title, f"[{colour}]{len(found[key])}[/]")
        for order_id, why in list(found[key].items())[:MOST_SHOWN]:
            table.add_row("", escape(f"{order_id}: {why}"))
    table.add_row(
        "Done to it", ", ".join(f"{number} {what}" for what, number in found["doneToIt"].items()) or "nothing"
    )
    table.add_row("Requests repeated", str(found["requestsRepeated"]))
    for title, key in (("Acceptance", "acceptanceSeconds"), ("Placed to fulfilled", "placedToFulfilledSeconds")):
        table.add_row(title, ", ".join(f"{name} {seconds:.3f} s" for name, seconds in found[key].items()))
    table.add_row("Accepted a second", f"{found['acceptedPerSecond']:.1f}")
    table.add_row("Ended a second", f"{found['endedPerSecond']:.1f}")
    if found["memoryMb"] is not None:
        table.add_row("Memory", f"{found['memoryMb']} MB")
    console.out.print(table)
