"""How orders look on a terminal, and what every table has in common: short ids, ages, a footer."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Column, Table

# ISO 4217: currencies whose minor unit is not a hundredth.
EXPONENTS = {
    **dict.fromkeys(
        [
            "BIF",
            "CLP",
            "DJF",
            "GNF",
            "ISK",
            "JPY",
            "KMF",
            "KRW",
            "PYG",
            "RWF",
            "UGX",
            "UYI",
            "VND",
            "VUV",
            "XAF",
            "XOF",
            "XPF",
        ],
        0,
    ),
    **dict.fromkeys(["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"], 3),
}
COLOURS = {"FULFILLED": "green", "FAILED": "red", "CANCELLED": "yellow"}


def money(minor_units: int | None, currency: str) -> str:
    """Return an amount as people write it ("33.80 EUR"); "" while it is not known."""
    if minor_units is None:
        return ""
    exponent = EXPONENTS.get(currency, 2)
    return f"{minor_units / 10**exponent:.{exponent}f} {currency}"


def status(word: str) -> str:
    """Return a status with its colour, as rich markup."""
    return f"[{COLOURS.get(word, 'cyan')}]{escape(word)}[/]"


# ---- What tables have in common ----------------------------------------------------------------------------------

SHORTEST_ID = 8


def table(*columns: Column | str) -> Table:
    """Return an empty table in orderctl's style; text that doesn't fit is folded, so nothing gets lost."""
    folded = [Column(each, overflow="fold") if isinstance(each, str) else each for each in columns]
    return Table(*folded, box=None, pad_edge=False)


def whole(header: str) -> Column:
    """Return a column whose cells are never folded or shortened, such as ids."""
    return Column(header, no_wrap=True, overflow="ignore", min_width=len(header))


def details() -> Table:
    """Return an empty list of names and values."""
    return Table.grid(Column(no_wrap=True), Column(overflow="fold"), padding=(0, 2))


def short_ids(ids: Iterable[str]) -> dict[str, str]:
    """Return each id's shortest prefix that no other of them has, but no fewer than SHORTEST_ID characters."""
    ordered = sorted(set(ids))
    shared = [_shared(*pair) for pair in pairwise(ordered)]
    return {
        each: each[: max(SHORTEST_ID, before + 1, after + 1)]
        for each, before, after in zip(ordered, [0, *shared], [*shared, 0], strict=False)
    }


def _shared(one: str, other: str) -> int:
    """Return how many characters two different strings have in common at their start."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))


def shorten(text: str, most: int) -> str:
    """Return the text on one line; an ellipsis stands for what is left out."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def age(at: str) -> str:
    """Return how long ago a time (ISO 8601) was: "42 s", "3 min", "5 h", "12 d"."""
    seconds = (datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(at)).total_seconds()
    for unit, size, limit in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < limit:
            return f"{max(0, int(seconds / size))} {unit}"
    return f"{int(seconds / 86400)} d"


def ago(at: str) -> str:
    """Return a time as seen from now: "3 min ago"."""
    return f"{age(at)} ago"


def footer(shown: int, every: int, noun: str, more: str) -> str:
    """Return the line under a table that doesn't show all: "20 of 57 orders; see more with: …"; "" if it does."""
    return f"{shown:,} of {every:,} {noun}; {more}" if shown < every else ""


# ---- Orders ------------------------------------------------------------------------------------------------------


def order(found: dict[str, Any]) -> Table:
    """Return one order with its timeline."""
    grid = details()
    grid.add_row("Order", found["orderId"])
    grid.add_row("Status", status(found["status"]))
    if reason := found.get("reason"):
        grid.add_row("Reason", escape(f"{reason['code']}: {reason['message']}"))
    if given_up := found.get("givenUp"):
        grid.add_row("Given up", escape(f"{given_up['code']}: {given_up['message']}"))
    if "customerId" in found:
        grid.add_row("Customer", escape(f"{found['customerId']} {found.get('email', '')}".strip()))
    for index, line in enumerate(found["lines"]):
        price = money(line.get("unitPrice"), found["currency"])
        text = f"{line['quantity']} x {line['sku']}" + (f" at {price}" if price else "")
        grid.add_row("" if index else "Lines", escape(text))
    grid.add_row("Total", money(found.get("total"), found["currency"]) or "not priced yet")
    grid.add_row("Placed", f"{found['placedAt']}, {ago(found['placedAt'])}")
    grid.add_row("Correlation id", escape(str(found.get("correlationId", ""))))
    for index, entry in enumerate(found.get("timeline", [])):
        detail = f"  {entry['detail']}" if entry.get("detail") else ""
        grid.add_row("" if index else "Timeline", escape(f"{entry['at']}  {entry['what']}{detail}"))
    return grid


def orders(found: list[dict[str, Any]], below: str) -> RenderableType:
    """Return a list of orders as a table with a line below.

    Ids are short only where all orders are open: the id of an ended order has to be typed whole.
    """
    from orders.domain.order import TERMINAL  # noqa: PLC0415

    all_open = not any(each["status"] in TERMINAL for each in found)
    ids = short_ids(each["orderId"] for each in found) if all_open else {}
    rows = table(whole("Order"), whole("Age"), whole("Total"), "Status")
    for each in found:
        reason = each.get("reason") or {}
        rows.add_row(
            escape(ids.get(each["orderId"], each["orderId"])),
            age(each["placedAt"]),
            money(each.get("total"), each["currency"]),
            f"{status(each['status'])} {escape(reason.get('code', ''))}",
        )
    return Group(rows, f"[dim]{escape(below)}[/]") if below else rows


def steps(found: dict[str, Any]) -> str:
    """Return the timeline in one line, repetitions counted: "PLACED, PaymentAttemptFailed x2, PAID"."""
    names: list[tuple[str, int]] = []
    for entry in found.get("timeline", []):
        if names and names[-1][0] == entry["what"]:
            names[-1] = (entry["what"], names[-1][1] + 1)
        else:
            names.append((entry["what"], 1))
    return ", ".join(name if count == 1 else f"{name} x{count}" for name, count in names)
