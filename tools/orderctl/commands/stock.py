"""The commands on stock: stock show, split, merge, add."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from orderctl.defaults import DEFAULT_NAME
from orderctl.exits import Exit, Stop
from orderctl.options import Json, Name, Profile, Region, Stack, examples
from orderctl.ui import console

if TYPE_CHECKING:
    from orderctl.stack.stock import Step, StockTable
    from orderctl.stack.target import Target

app = typer.Typer(
    name="stock",
    help="Show, split, merge and restock the stock of products.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Sku = Annotated[str, typer.Argument(metavar="SKU", help="The product's code.")]
MAX_ADDED = 1_000_000_000
POLL_S = 1.0


@app.command(
    "show",
    epilog=examples(
        "orderctl stock show", "orderctl stock show TEA-ASSAM-250 --shards", "orderctl stock show --json"
    ),
)
def show(
    skus: Annotated[list[str] | None, typer.Argument(metavar="[SKU]...", help="Products (default: all).")] = None,
    *,
    shards: Annotated[bool, typer.Option("--shards", help="Also each shard.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Without SKU: how many products at most.")] = 1000,
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Show how many pieces of each product are available, reserved and sold.

    Shards are read one after the other: while orders run, pieces that move meanwhile can be missing in the sums or be
    counted twice.
    """
    from orderctl.stack import records
    from orderctl.stack.target import choose
    from orderctl.views import stock_tables

    target = choose(stack, name, profile, region)
    table = records.stock_table(target)
    found = [table.read(sku) for sku in dict.fromkeys(skus)] if skus else table.products(limit)
    if as_json:
        console.emit_json([product.as_json() for product in found])
    elif not found:
        console.out.print("The catalogue is empty.")
    else:
        console.out.print(stock_tables.products(found, with_shards=shards))
        if not skus and len(found) == limit:
            console.say(f"There may be more than {console.count(limit, 'product')}; see more with --limit.")


@app.command(
    "split", epilog=examples("orderctl stock split TEA-ASSAM-250 --shards 32", "orderctl stock split CUP --shards 2")
)
def split(
    sku: Sku,
    *,
    shards: Annotated[int, typer.Option(min=1, max=64, help="How many shards the product shall have.")],
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Keep a product's stock in more shards, so that more orders a second can reserve it, and level the shards.

    With the present number of shards, only level them: that also completes an interrupted run. Safe while orders run.
    """
    target, table = _table(stack, name, profile, region)
    with _going_on(target, f"stock split {sku} --shards {shards}"):
        _run(f"Splitting {sku} into {console.count(shards, 'shard')}", table.split(sku, shards))
    _show(table, sku, as_json)


@app.command("merge", epilog=examples("orderctl stock merge TEA-ASSAM-250 --shards 1 --timeout 300"))
def merge(
    sku: Sku,
    *,
    shards: Annotated[int, typer.Option(min=1, max=64, help="How many shards the product shall have.")],
    timeout: Annotated[
        float, typer.Option(min=0, max=86400, help="For how many seconds to wait for the last reservations.")
    ] = 60,
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Keep a product's stock in fewer shards. Orders take nothing more from the last ones, which are then removed.

    A shard is removed once its last reserved piece is sold or released. Exit 5: that has not happened in time; a
    second run goes on. Safe while orders run.
    """
    target, table = _table(stack, name, profile, region)
    again = f"stock merge {sku} --shards {shards}"
    with _going_on(target, again):
        done = _run(f"Merging {sku} into {console.count(shards, 'shard')}", table.merge(sku, shards), timeout)
    _show(table, sku, as_json)
    if not done:
        raise Stop(
            Exit.NOT_AS_EXPECTED,
            f"Open orders still hold pieces in closed shards of {sku}.",
            f"Go on later with: {target.command(again)}",
        )


@app.command("add", epilog=examples("orderctl stock add TEA-ASSAM-250 500", "orderctl stock add CUP 20 --json"))
def add(
    sku: Sku,
    quantity: Annotated[int, typer.Argument(min=1, max=MAX_ADDED, help="How many new pieces.")],
    *,
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Put new pieces on sale. A second run adds them a second time."""
    from orderctl import interrupts

    target, table = _table(stack, name, profile, region)
    layout = table.layout(sku)
    # An interruption waits for the answer, so that the operator knows whether the pieces were added.
    with _going_on(target, f"stock add {sku} {quantity}"), interrupts.deferred():
        table.add(sku, quantity)
        console.say(f"{console.count(quantity, 'piece')} of {sku} added.")
    if layout.shards > 1:
        with _going_on(target, f"stock split {sku} --shards {layout.shards}"):
            _run(f"Levelling {console.count(layout.shards, 'shard')}", table.level(sku))
    _show(table, sku, as_json)


def _table(stack: str | None, name: str, profile: str | None, region: str | None) -> tuple[Target, StockTable]:
    from orderctl.stack import records
    from orderctl.stack.target import choose

    target = choose(stack, name, profile, region)
    return target, records.stock_table(target)


@contextmanager
def _going_on(target: Target, again: str) -> Iterator[None]:
    """Turn `Busy` into a Stop that names the command that goes on."""
    from orders.domain.errors import Busy

    try:
        yield
    except Busy as error:
        raise Stop(Exit.NOT_AS_EXPECTED, f"Not finished: {error}.", f"Go on with: {target.command(again)}") from error


def _run(title: str, steps: Iterable[Step], timeout: float = 0) -> bool:
    """Take all steps, and show them; False if they had to wait longer than `timeout` seconds."""
    until = time.monotonic() + timeout
    with console.working(title) as note:
        for step in steps:
            note(step.says)
            if step.waits:
                left = until - time.monotonic()
                if left <= 0:
                    return False
                time.sleep(min(POLL_S, left))
    return True


def _show(table: StockTable, sku: str, as_json: bool) -> None:
    from orderctl.views import stock_tables

    stock = table.read(sku)
    if as_json:
        console.emit_json(stock.as_json())
    else:
        console.out.print(stock_tables.products([stock], with_shards=True))
