"""Ids typed in part: the start of a failure's or an order's id is enough where only one fits.

A prefix is looked for among what an index lists: the failures by their status, the open orders, and the orders of
those failures. Nothing is scanned, so the id of an order that has ended without a failure has to be typed whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from orderctl.exits import Exit, Stop

if TYPE_CHECKING:
    from orderctl.stack.target import Target
    from orders.inbox.record import FailureRecord
    from orders.inbox.store import FailuresTable

SHORTEST = 4
FAILURE_ID_LENGTH = 20
ORDER_ID_LENGTH = 36
MOST_SETTLED = 1000  # of each settled status, the last seen; open failures are all looked through
MOST_NAMED = 10


def failure_ids(table: FailuresTable, typed: Iterable[str]) -> list[str]:
    """Return whole failure ids, each once. What fits no failure is returned as it is, to be refused as unknown.

    Raises Stop(REFUSED) for a prefix that fits several failures, Stop(USAGE) for one that is too short.
    """
    wanted = [each.strip().lower() for each in typed]
    if all(len(each) >= FAILURE_ID_LENGTH for each in wanted):
        return list(dict.fromkeys(wanted))
    known = {
        record.failure_id: f"{record.status}, {record.component}: {record.error_name}" for record in _listed(table)
    }
    return list(dict.fromkeys(_only(each, FAILURE_ID_LENGTH, known, "failure") for each in wanted))


def order_id(there: Target, typed: str) -> str:
    """Return a whole order id; what fits no order is returned as it is.

    Raises Stop(REFUSED) for a prefix that fits several orders, Stop(USAGE) for one that is too short.
    """
    wanted = typed.strip().lower()
    if len(wanted) >= ORDER_ID_LENGTH:
        return wanted
    from orderctl import redrive  # noqa: PLC0415
    from orderctl.stack import records  # noqa: PLC0415

    inbox = redrive.open_table(there)
    known = {record.order_id: "has a failure" for record in _listed(inbox) if record.order_id}
    known |= dict.fromkeys(records.open_order_ids(there), "open")
    return _only(wanted, ORDER_ID_LENGTH, known, "order")


def _listed(table: FailuresTable) -> Iterator[FailureRecord]:
    from orders.inbox.record import SETTLED, FailureStatus  # noqa: PLC0415

    for status in FailureStatus:
        yield from islice(table.with_status(status), MOST_SETTLED if status in SETTLED else None)


def _only(typed: str, length: int, known: dict[str, str], noun: str) -> str:
    if len(typed) >= length or typed in known:
        return typed
    if len(typed) < SHORTEST:
        raise Stop(
            Exit.USAGE, f"{typed!r} is too short for {noun} ids.", f"Type at least {SHORTEST} characters of the id."
        )
    fitting = sorted(each for each in known if each.lower().startswith(typed))
    if len(fitting) > 1:
        named = "\n       ".join(f"{each}  {known[each]}" for each in fitting[:MOST_NAMED])
        if len(fitting) > MOST_NAMED:
            named += f"\n       … and {len(fitting) - MOST_NAMED} more"
        raise Stop(
            Exit.REFUSED,
            f"{typed!r} is the start of {len(fitting)} {noun} ids.",
            f"Type more of the one that is meant:\n       {named}",
        )
    return fitting[0] if fitting else typed
