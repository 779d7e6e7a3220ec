"""Stock on a terminal: products, and their shards."""

from __future__ import annotations

from collections.abc import Iterable

from rich.markup import escape
from rich.table import Column, Table

from orderctl.stack.stock import ProductStock
from orderctl.ui import tables


def products(found: Iterable[ProductStock], *, with_shards: bool) -> Table:
    """Return the stock of products in pieces; with shards, a line for each shard of a product that has several."""
    pieces = [Column(header, justify="right") for header in ("Available", "Reserved", "Sold")]
    rows = tables.table(tables.whole("Product"), "Name", Column("Shards", justify="right"), *pieces, "")
    for product in found:
        layout, total = product.layout, product.total
        note = f"{len(layout.closing)} closing" if layout.closing else ""
        figures = [f"{each:,}" for each in (total.available, total.reserved, total.sold)]
        rows.add_row(escape(layout.sku), escape(layout.name), str(layout.shards), *figures, note)
        if not with_shards or len(product.shards) == 1:
            continue
        for number, shard in product.shards.items():
            figures = [f"{each:,}" for each in (shard.available, shard.reserved, shard.sold)]
            rows.add_row("", "", f"[dim]{number}[/]", *figures, "closing" if number in layout.closing else "")
    return rows
