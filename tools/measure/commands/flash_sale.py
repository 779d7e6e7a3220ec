"""`measure flash-sale`: a product sells out under load, to the last piece and not one more."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape

from measure import flash_sale
from measure.benchmarks import best_seller
from orderctl.cloud.state import Cloud
from orderctl.defaults import DEFAULT_NAME
from orderctl.exits import Exit
from orderctl.options import Json, Name
from orderctl.ui import console, tables
from orders.domain.stock import MAX_SHARDS

# As many transactions conflict as in a sale of 300 orders a second from 32 shards.
CONFLICTS = round(best_seller.conflict_share(300, 32), 2)


def command(
    *,
    orders: Annotated[int, typer.Option(min=1, max=100_000, help="How many orders.")] = 3000,
    rate: Annotated[float, typer.Option(min=0.1, max=1000, help="Orders a second.")] = 12,
    pieces: Annotated[int, typer.Option(min=1, max=100_000, help="How many pieces there are.")] = 1000,
    shards: Annotated[int, typer.Option(min=1, max=MAX_SHARDS, help="In how many shards they are.")] = 8,
    conflicts: Annotated[
        float, typer.Option(min=0, max=0.9, help="The share of writes to the stock that conflict.")
    ] = CONFLICTS,
    seed: Annotated[int, typer.Option(help="The same seed gives the same orders.")] = 1,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds to wait at most until every order has ended.")
    ] = 1800,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Sell a product out on the local cloud, with mixed baskets, cancellations and conflicts of transactions.

    Ends with exit code 5 unless each piece is sold once, every other order is cancelled or out of stock, and the
    inbox is empty.
    """
    found = flash_sale.run(
        Cloud(name),
        orders=orders,
        rate=rate,
        pieces=pieces,
        shards=shards,
        conflicts=conflicts,
        seed=seed,
        timeout_s=timeout,
    )
    if as_json:
        console.emit_json(found)
    else:
        _show(found)
    if found["wrong"]:
        raise SystemExit(int(Exit.NOT_AS_EXPECTED))


def _show(found: dict[str, Any]) -> None:
    table = tables.details()
    table.add_row("Sold", f"{found['sold']} of {found['pieces']} pieces")
    by_shard = sorted(found["shards"].items(), key=lambda each: int(each[0]))
    table.add_row("By shard", ", ".join(f"{shard}: {sold}" for shard, sold in by_shard))
    table.add_row("Orders", ", ".join(f"{number} {end}" for end, number in found["ends"].items()))
    table.add_row("Conflicts", f"{found['conflictShare']:.0%} of the writes to the stock")
    counted = ", ".join(f"{number} {what}" for what, number in found["injected"].items())
    table.add_row("Customers", counted or "no cancellations")
    for title, key in (("Acceptance", "acceptanceSeconds"), ("Placed to fulfilled", "placedToFulfilledSeconds")):
        table.add_row(title, ", ".join(f"{name} {seconds:.3f} s" for name, seconds in found[key].items()))
    wrong = found["wrong"]
    table.add_row("Wrong", f"[{'red' if wrong else 'green'}]{len(wrong)}[/]")
    for each in wrong[:20]:
        table.add_row("", escape(each))
    console.out.print(table)
