"""The parts of every table: statuses, amounts, short ids, durations, a footer."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from itertools import pairwise

from rich.markup import escape
from rich.table import Column, Table

from orders.domain.order import TimelineEntry

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
    """Return an amount with its currency, such as "33.80 EUR"; "" for None."""
    if minor_units is None:
        return ""
    exponent = EXPONENTS.get(currency, 2)
    return f"{minor_units / 10**exponent:.{exponent}f} {currency}"


def status(word: str) -> str:
    """Return a status in its colour, as rich markup."""
    return f"[{COLOURS.get(word, 'cyan')}]{escape(word)}[/]"


SHORTEST_ID = 8


def table(*columns: Column | str) -> Table:
    """Return an empty table in orderctl's style; text that does not fit is folded, not cut."""
    folded = [Column(each, overflow="fold") if isinstance(each, str) else each for each in columns]
    return Table(*folded, box=None, pad_edge=False)


def whole(header: str) -> Column:
    """Return a column whose cells are never folded or cut, such as ids."""
    return Column(header, no_wrap=True, overflow="ignore", min_width=len(header))


def details() -> Table:
    """Return an empty table of names and values."""
    return Table.grid(Column(no_wrap=True), Column(overflow="fold"), padding=(0, 2))


def short_ids(ids: Iterable[str]) -> dict[str, str]:
    """Return each id's shortest unique prefix, but no fewer than SHORTEST_ID characters."""
    ordered = sorted(set(ids))
    shared = [_shared(*pair) for pair in pairwise(ordered)]
    return {
        each: each[: max(SHORTEST_ID, before + 1, after + 1)]
        for each, before, after in zip(ordered, [0, *shared], [*shared, 0], strict=False)
    }


def _shared(one: str, other: str) -> int:
    """Return how many characters two different strings share at their start."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))


def shorten(text: str, most: int) -> str:
    """Return the text on one line of at most `most` characters; an ellipsis replaces the rest."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def age(at: str) -> str:
    """Return how long ago a time (ISO 8601) was, as `duration` does; "?" if the text is no time."""
    try:
        then = datetime.datetime.fromisoformat(at)
        return duration((datetime.datetime.now(datetime.UTC) - then).total_seconds())
    except (ValueError, TypeError):
        return "?"


def duration(seconds: float) -> str:
    """Return a duration in one unit: "42 s", "3 min", "5 h", "12 d"."""
    for unit, size, limit in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < limit:
            return f"{max(0, int(seconds / size))} {unit}"
    return f"{int(seconds / 86400)} d"


def ago(at: str) -> str:
    """Return how long ago a time (ISO 8601) was, such as "3 min ago"."""
    return f"{age(at)} ago"


def steps(timeline: Iterable[TimelineEntry]) -> str:
    """Return a timeline in one line, repetitions counted: "PLACED, PaymentAttemptFailed x2, PAID"."""
    names: list[tuple[str, int]] = []
    for entry in timeline:
        if names and names[-1][0] == entry.what:
            names[-1] = (entry.what, names[-1][1] + 1)
        else:
            names.append((entry.what, 1))
    return ", ".join(name if count == 1 else f"{name} x{count}" for name, count in names)
