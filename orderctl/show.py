"""How orders look on a terminal."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

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
    return f"[{COLOURS.get(word, 'cyan')}]{word}[/]"


def order(found: dict[str, Any]) -> Table:
    """Return one order with its timeline."""
    grid = Table.grid(padding=(0, 2))
    grid.add_row("Order", found["orderId"])
    grid.add_row("Status", status(found["status"]))
    if reason := found.get("reason"):
        grid.add_row("Reason", escape(f"{reason['code']}: {reason['message']}"))
    if "customerId" in found:
        grid.add_row("Customer", escape(f"{found['customerId']} {found.get('email', '')}".strip()))
    for index, line in enumerate(found["lines"]):
        price = money(line.get("unitPrice"), found["currency"])
        text = f"{line['quantity']} x {line['sku']}" + (f" at {price}" if price else "")
        grid.add_row("" if index else "Lines", escape(text))
    grid.add_row("Total", money(found.get("total"), found["currency"]) or "not priced yet")
    grid.add_row("Correlation id", escape(str(found.get("correlationId", ""))))
    for index, entry in enumerate(found.get("timeline", [])):
        detail = f"  {entry['detail']}" if entry.get("detail") else ""
        grid.add_row("" if index else "Timeline", escape(f"{entry['at']}  {entry['what']}{detail}"))
    return grid


def orders(found: list[dict[str, Any]]) -> Table:
    """Return a list of orders as a table."""
    table = Table("Placed at", box=None, pad_edge=False)
    table.add_column("Order", min_width=36, no_wrap=True)  # whole, to be copied
    for column in ("Status", "Total", "Reason"):
        table.add_column(column)
    for each in found:
        reason = each.get("reason") or {}
        table.add_row(
            each["placedAt"],
            each["orderId"],
            status(each["status"]),
            money(each.get("total"), each["currency"]),
            escape(reason.get("code", "")),
        )
    return table


def steps(found: dict[str, Any]) -> str:
    """Return the timeline in one line, repetitions counted: "PLACED, PaymentAttemptFailed x2, PAID"."""
    names: list[tuple[str, int]] = []
    for entry in found.get("timeline", []):
        if names and names[-1][0] == entry["what"]:
            names[-1] = (entry["what"], names[-1][1] + 1)
        else:
            names.append((entry["what"], 1))
    return ", ".join(name if count == 1 else f"{name} x{count}" for name, count in names)
