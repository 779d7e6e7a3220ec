"""Orders on a terminal: one order with its timeline, and a list of orders."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from orderctl.stack.records import DamagedOrder, StoredOrder
from orderctl.ui import tables
from orders.domain.customer_view import OrderView
from orders.domain.order import TERMINAL, Order, PricedLine


def order(found: StoredOrder | OrderView, *, with_timeline: bool = True) -> Table:
    """Return one order as names and values; a damaged one as its stored fields."""
    if isinstance(found, DamagedOrder):
        return _damaged(found)
    grid = tables.details()
    grid.add_row("Order", escape(found.order_id))
    grid.add_row("Status", tables.status(found.status))
    if found.reason:
        grid.add_row("Reason", escape(f"{found.reason.code}: {found.reason.message}"))
    if isinstance(found, Order):
        if found.given_up:
            grid.add_row("Given up", escape(f"{found.given_up.code}: {found.given_up.message}"))
        grid.add_row("Customer", escape(f"{found.customer_id} {found.email or ''}".strip()))
    for index, line in enumerate(_lines(found)):
        grid.add_row("" if index else "Lines", escape(line))
    grid.add_row("Total", escape(tables.money(found.total, found.currency)) or "not priced yet")
    grid.add_row("Placed", escape(f"{found.placed_at}, {tables.ago(found.placed_at)}"))
    grid.add_row("Correlation id", escape(found.correlation_id))
    for index, entry in enumerate(found.timeline if with_timeline else []):
        detail = f"  {entry.detail}" if entry.detail else ""
        grid.add_row("" if index else "Timeline", escape(f"{entry.at}  {entry.what}{detail}"))
    return grid


def _lines(found: Order | OrderView) -> Iterator[str]:
    """Yield each line in words; an operator also sees from which shards the stock was taken."""
    for line in found.lines:
        price = tables.money(line.unit_price, found.currency)
        taken = line.taken if isinstance(line, PricedLine) else None
        shards = ", ".join(f"{part.quantity} from shard {part.shard}" for part in taken or [])
        yield f"{line.quantity} x {line.sku}" + (f" at {price}" if price else "") + (f" ({shards})" if shards else "")


def _damaged(found: DamagedOrder) -> Table:
    grid = tables.details()
    grid.add_row("Order", escape(found.order_id))
    grid.add_row("Can't be read", f"[red]{escape(found.problem)}[/]")
    for name, value in sorted(found.fields.items()):
        if name != "orderId":
            text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
            grid.add_row(escape(name), escape(text))
    return grid


def orders(found: Sequence[StoredOrder | OrderView], below: str) -> RenderableType:
    """Return a list of orders as a table with a line below.

    Ids are abbreviated only if all orders are open: the id of an order that has ended must be typed whole.
    """
    all_open = not any(each.status in TERMINAL for each in found)
    ids = tables.short_ids(each.order_id for each in found) if all_open else {}
    rows = tables.table(tables.whole("Order"), tables.whole("Age"), tables.whole("Total"), "Status")
    for each in found:
        order_id = escape(ids.get(each.order_id, each.order_id))
        if isinstance(each, DamagedOrder):
            rows.add_row(order_id, tables.age(each.placed_at), "", f"{tables.status(each.status)} can't be read")
            continue
        code = each.reason.code if each.reason else ""
        total = escape(tables.money(each.total, each.currency))
        rows.add_row(order_id, tables.age(each.placed_at), total, f"{tables.status(each.status)} {escape(code)}")
    return Group(rows, f"[dim]{escape(below)}[/]") if below else rows
