"""A product's stock and its shards: look at them, split, merge, restock.

Each change is a transaction of its own, on condition of what it takes and changes. So nothing is lost or invented
while orders run, while another operator works on the same product, or when a run ends half-way; a second run goes
on. The changes are generators: each step is one transaction, and yields a sentence on the progress.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from orderctl import hints
from orderctl.exits import Exit, Stop
from orders.domain.errors import Busy
from orders.domain.stock import MAX_SHARDS, stock_key
from orders.storage.dynamodb import from_item, get_items, to_item
from orders.storage.orders import TRANSIENT

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient

ATTEMPTS = 12
BATCH_GET_QUOTA = 100
CHANGED = "somebody else changes the shards of this product"


class Figures(Struct, frozen=True):
    """The pieces of a shard."""

    available: int = 0
    reserved: int = 0
    sold: int = 0
    moved: int = 0


class Layout(Struct, frozen=True):
    """The item of a product as far as it concerns the stock: see `orders.domain.pricing.Product`."""

    sku: str
    name: str = ""
    shards: int = 1
    closing: list[int] = []
    epoch: int = 0

    @property
    def numbers(self) -> list[int]:
        """The numbers of all shards."""
        return [*range(self.shards), *self.closing]


class ProductStock(Struct, frozen=True):
    """A product's shards by number, as read one after the other; the sums are exact while no order changes them."""

    layout: Layout
    shards: dict[int, Figures]

    @property
    def total(self) -> Figures:
        """The pieces of all shards."""
        return Figures(
            *(sum(getattr(each, name) for each in self.shards.values()) for name in Figures.__struct_fields__)
        )

    def as_json(self) -> dict[str, Any]:
        """The stock for a program to read."""
        return {
            "sku": self.layout.sku,
            **_pieces(self.total),
            "shards": [
                {"shard": number, **_pieces(each), **({"closed": True} if number in self.layout.closing else {})}
                for number, each in self.shards.items()
            ],
        }


def _pieces(figures: Figures) -> dict[str, int]:
    return {"available": figures.available, "reserved": figures.reserved, "sold": figures.sold}


class Step(Struct, frozen=True):
    """The progress of a change, as a sentence; `waits` says that orders must do something before it goes on."""

    says: str
    waits: bool = False


class Move(Struct, frozen=True):
    """Available pieces that go from one shard to another."""

    source: int
    target: int
    quantity: int


def levelling(available: dict[int, int]) -> list[Move]:
    """The moves after which the shards have equally many available pieces; the first ones may have one more."""
    each, more = divmod(sum(available.values()), len(available))
    surplus = {number: pieces - each - (place < more) for place, (number, pieces) in enumerate(available.items())}
    moves = []
    while any(surplus.values()):
        source, target = max(surplus, key=surplus.__getitem__), min(surplus, key=surplus.__getitem__)
        moves.append(Move(source, target, min(surplus[source], -surplus[target])))
        surplus[source] -= moves[-1].quantity
        surplus[target] += moves[-1].quantity
    return moves


class StockTable:
    """The stock in the catalogue table."""

    def __init__(self, client: DynamoDBClient, name: str, command: Callable[[str], str] = hints.command) -> None:
        """`command` returns a whole command line of orderctl, for the next step after an error."""
        self._client = client
        self._name = name
        self._command = command

    def layout(self, sku: str) -> Layout:
        """The product's layout as it is now. Raises `Stop` if there is no such product."""
        item = self._items([sku]).get(sku)
        if item is None or "#" in sku:
            raise Stop(
                Exit.REFUSED,
                f"The catalogue has no product {sku!r}.",
                f"List the products with: {self._command('stock show')}",
            )
        return msgspec.convert(item, Layout)

    def read(self, sku: str) -> ProductStock:
        """The product's stock as it is now. Raises `Stop` if there is no such product."""
        return self._with_shards([self.layout(sku)])[0]

    def products(self, limit: int) -> list[ProductStock]:
        """The stock of at most `limit` products, by sku; damaged items are left out."""
        pages = self._client.get_paginator("scan").paginate(
            TableName=self._name, FilterExpression="attribute_exists(price)", ConsistentRead=True
        )
        layouts = (layout for page in pages for item in page["Items"] if (layout := _layout_in(item)))
        return self._with_shards(sorted(islice(layouts, limit), key=lambda layout: layout.sku))

    def split(self, sku: str, shards: int) -> Iterator[Step]:
        """Raise the number of shards and level their available pieces; with the present number, only level them.

        Raises `Stop` for fewer shards than there are and while shards are being merged away, and `Busy`.
        """
        layout = self.layout(sku)
        if layout.closing:
            raise Stop(
                Exit.REFUSED,
                f"{sku} is still being merged: {_shards(layout.closing)} must be empty and removed first.",
                f"Go on with: {self._command(f'stock merge {sku} --shards {layout.shards}')}",
            )
        if not layout.shards <= shards <= MAX_SHARDS:
            raise Stop(
                Exit.REFUSED,
                f"{sku} has {layout.shards} shards and can be split into {layout.shards} to {MAX_SHARDS}.",
                f"Lower the number with: {self._command(f'stock merge {sku} --shards N')}",
            )
        if layout.shards < shards:
            self._open(layout, shards)
            yield Step(f"{sku} has {shards} shards")
        yield from self.level(sku)

    def level(self, sku: str) -> Iterator[Step]:
        """Move available pieces until the open shards have equally many, but for what orders take meanwhile."""
        stock = self.read(sku)
        moves = levelling({number: stock.shards[number].available for number in range(stock.layout.shards)})
        for done, move in enumerate(moves, start=1):
            # Refused where orders have taken the pieces meanwhile, or the target has been closed: they stay.
            self._move(sku, move)
            yield Step(f"move {done} of {len(moves)}")

    def merge(self, sku: str, shards: int) -> Iterator[Step]:
        """Lower the number of shards: close the last ones, and remove each when its pieces are gone.

        What is available in a closed shard goes to shard 0. What is reserved there must be sold or released first, so
        this yields again and again until the caller stops. Raises `Stop` for more shards than there are, and
        `Busy`.
        """
        layout = self.layout(sku)
        if not 1 <= shards <= layout.shards:
            raise Stop(
                Exit.REFUSED,
                f"{sku} has {layout.shards} shards and can be merged into 1 to {layout.shards}.",
                f"Raise the number with: {self._command(f'stock split {sku} --shards N')}",
            )
        while layout.shards > shards:
            self._close(layout)
            layout = self.layout(sku)
            yield Step(f"{sku} has {layout.shards} shards")
        while layout.closing:
            written = 0
            for number in layout.closing:
                if self._empty(sku, number):
                    written += 1
                    yield Step(f"emptying {_shards(layout.closing)}")
            if not written:
                yield Step(f"waiting for orders that hold pieces in {_shards(layout.closing)}", waits=True)
            layout = self.layout(sku)
        yield from self.level(sku)

    def add(self, sku: str, quantity: int) -> None:
        """Add new pieces to shard 0; `level` spreads them. Raises `Stop` and `Busy`."""
        if not self._write(self._update(sku, "ADD available :new", "attribute_exists(price)", {":new": quantity})):
            raise Stop(
                Exit.REFUSED,
                f"The catalogue has no product {sku!r}.",
                f"List the products with: {self._command('stock show')}",
            )

    # ---- Steps: each is one transaction

    def _open(self, layout: Layout, shards: int) -> None:
        """Create all new shards, and say so in the product."""
        fresh = {"available": 0, "reserved": 0, "sold": 0, "moved": 0, "epoch": layout.epoch}
        created = [
            {
                "Put": {
                    "TableName": self._name,
                    "Item": to_item({"sku": stock_key(layout.sku, number), **fresh}),
                    "ConditionExpression": "attribute_not_exists(sku)",
                }
            }
            for number in range(layout.shards, shards)
        ]
        if not self._write_layout(layout, "SET shards = :to", {":to": shards}, *created):
            raise Busy(CHANGED)

    def _close(self, layout: Layout) -> None:
        """Close the last open shard, and say so in the product."""
        last = layout.shards - 1
        shard = self._update(
            stock_key(layout.sku, last), "SET closed = :yes", "attribute_exists(sku)", {":yes": True}
        )
        closing = [*layout.closing, last]
        if not self._write_layout(layout, "SET shards = :to, closing = :all", {":to": last, ":all": closing}, shard):
            raise Busy(CHANGED)

    def _empty(self, sku: str, number: int) -> bool:
        """Move the available pieces of a closed shard to shard 0; if nothing is left there, remove the shard.

        False if there is nothing to do before an order's reservation ends.
        """
        stock = self.read(sku)
        figures = stock.shards.get(number)
        if figures is None or (figures.reserved and not figures.available):
            return False
        if figures.available:
            self._move(sku, Move(number, 0, figures.available))
        else:
            self._remove(stock.layout, number, figures)
        return True

    def _remove(self, layout: Layout, number: int, figures: Figures) -> None:
        """Remove a closed shard in which nothing is left; shard 0 takes over its counters."""
        removed = {
            "Delete": {
                "TableName": self._name,
                "Key": to_item({"sku": stock_key(layout.sku, number)}),
                "ConditionExpression": (
                    "available = :zero AND reserved = :zero AND sold = :sold AND closed = :yes "
                    "AND (moved = :moved OR attribute_not_exists(moved))"
                ),
                "ExpressionAttributeValues": to_item(
                    {":zero": 0, ":sold": figures.sold, ":moved": figures.moved, ":yes": True}
                ),
            }
        }
        # Refused where a late sale or cancellation came first: the next round sees that.
        self._write_layout(
            layout,
            "SET closing = :left, epoch = :next ADD sold :sold, moved :moved",
            {
                ":left": [each for each in layout.closing if each != number],
                ":next": layout.epoch + 1,
                ":sold": figures.sold,
                ":moved": figures.moved,
            },
            removed,
        )

    def _move(self, sku: str, move: Move) -> bool:
        """Move available pieces; False if the source has fewer by now, or the target is closed or gone."""
        pieces = move.quantity
        return self._write(
            self._update(
                stock_key(sku, move.source),
                "ADD available :less, moved :less",
                "available >= :pieces",
                {":less": -pieces, ":pieces": pieces},
            ),
            self._update(
                stock_key(sku, move.target),
                "ADD available :pieces, moved :pieces",
                "attribute_exists(sku) AND attribute_not_exists(closed)",
                {":pieces": pieces},
            ),
        )

    # ---- Requests

    def _write_layout(self, layout: Layout, expression: str, values: dict[str, Any], *others: dict[str, Any]) -> bool:
        """Change a product's layout together with its shards; False if any of them has changed meanwhile."""
        conditions, expected = ["attribute_exists(price)"], dict[str, Any]()
        for name in ("shards", "closing", "epoch"):
            value = getattr(layout, name)
            missing = f" OR attribute_not_exists({name})" if value == getattr(Layout(layout.sku), name) else ""
            conditions.append(f"({name} = :{name}{missing})")
            expected[f":{name}"] = value
        product = self._update(layout.sku, expression, " AND ".join(conditions), {**expected, **values})
        return self._write(product, *others)

    def _update(self, key: str, expression: str, condition: str, values: dict[str, Any]) -> dict[str, Any]:
        return {
            "Update": {
                "TableName": self._name,
                "Key": to_item({"sku": key}),
                "UpdateExpression": expression,
                "ConditionExpression": condition,
                "ExpressionAttributeValues": to_item(values),
            }
        }

    def _write(self, *writes: dict[str, Any]) -> bool:
        """Write all or nothing; False if a condition refuses. Raises `Busy` after conflicts at each attempt."""
        for attempt in range(ATTEMPTS):
            try:
                self._client.transact_write_items(TransactItems=list(writes))  # type: ignore[arg-type]
            except self._client.exceptions.TransactionCanceledException as error:
                codes = {reason.get("Code") for reason in error.response.get("CancellationReasons", [])}
                if "ConditionalCheckFailed" in codes:
                    return False
                if TRANSIENT.isdisjoint(codes):
                    raise
                time.sleep(random.uniform(0, min(1.0, 0.025 * 2**attempt)))
            else:
                return True
        raise Busy("orders write to the same stock at each attempt")

    def _items(self, keys: list[str]) -> dict[str, dict[str, Any]]:
        """The items with these keys, by key."""
        found: dict[str, dict[str, Any]] = {}
        for start in range(0, len(keys), BATCH_GET_QUOTA):
            batch = [to_item({"sku": key}) for key in keys[start : start + BATCH_GET_QUOTA]]
            for item in get_items(self._client, self._name, batch, consistent=True):
                fields = from_item(item)
                found[fields["sku"]] = fields
        return found

    def _with_shards(self, layouts: list[Layout]) -> list[ProductStock]:
        keys = [stock_key(layout.sku, number) for layout in layouts for number in layout.numbers]
        items = self._items(keys)
        return [
            ProductStock(
                layout,
                {
                    number: msgspec.convert(items.get(stock_key(layout.sku, number), {}), Figures)
                    for number in layout.numbers
                },
            )
            for layout in layouts
        ]


def _layout_in(item: dict[str, Any]) -> Layout | None:
    try:
        return msgspec.convert(from_item(item), Layout)
    except ValueError:
        return None


def _shards(numbers: list[int]) -> str:
    return f"shard{'' if len(numbers) == 1 else 's'} {', '.join(map(str, sorted(numbers)))}"
