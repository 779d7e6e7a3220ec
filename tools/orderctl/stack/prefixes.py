"""Abbreviated ids: the start of a failure's or an order's id is enough where only one id begins with it.

A prefix is compared with the ids that the tables' indexes list: the failures by status, the open orders, and the
orders of those failures. Nothing is scanned, so an order that has ended without a failure needs its whole id.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from orderctl.exits import Exit, Stop
from orderctl.stack import records
from orderctl.stack.records import StoredOrder
from orderctl.stack.target import Target
from orders.inbox.record import SETTLED, FailureRecord, FailureStatus
from orders.inbox.store import FailuresTable

SHORTEST = 4
FAILURE_ID_LENGTH = 20
ORDER_ID_LENGTH = 36
MOST_SETTLED = 1000  # of each settled status, the failures seen last; of the open ones, all
MOST_NAMED = 10


def failure_ids(table: FailuresTable, typed: Iterable[str]) -> list[str]:
    """Return whole failure ids, each once. A prefix of no failure is returned unchanged.

    Raises Stop(REFUSED) for a prefix of several failures, Stop(USAGE) for one that is too short.
    """
    wanted = [each.strip().lower() for each in typed]
    if all(len(each) >= FAILURE_ID_LENGTH for each in wanted):
        return list(dict.fromkeys(wanted))
    unreadable: list[str] = []
    known = {
        record.failure_id: f"{record.status}, {record.component}: {record.error_name}"
        for record in _listed(table, unreadable)
    }
    known |= dict.fromkeys(unreadable, "can't be read")
    return list(dict.fromkeys(_only(each, FAILURE_ID_LENGTH, known, "failure") for each in wanted))


def order_id(target: Target, typed: str) -> str:
    """Return a whole order id. A prefix of no order is returned unchanged.

    Raises Stop(REFUSED) for a prefix of several orders, Stop(USAGE) for one that is too short.
    """
    wanted = typed.strip().lower()
    if len(wanted) >= ORDER_ID_LENGTH:
        return wanted
    failures = _listed(records.failures_table(target), [])
    known = {record.order_id: "has a failure" for record in failures if record.order_id}
    known |= {each.order_id: "open" for each in records.orders_table(target).open_longest()}
    return _only(wanted, ORDER_ID_LENGTH, known, "order")


def order(target: Target, typed: str) -> StoredOrder:
    """Return the order with this id or prefix of an id.

    Raises Stop(REFUSED) if there is none or several, Stop(USAGE) for a prefix that is too short.
    """
    whole = order_id(target, typed)
    found = records.find_order(target, whole)
    if found is not None:
        return found
    look = f"List orders with: {target.command('orders')}"
    if len(whole) >= ORDER_ID_LENGTH:
        raise Stop(Exit.REFUSED, f"There is no order {whole!r}.", look)
    raise Stop(
        Exit.REFUSED,
        f"There is no order {whole!r} among those that are open or have a failure.",
        f"An order that has ended needs its whole id. {look}",
    )


def _listed(table: FailuresTable, unreadable: list[str]) -> Iterator[FailureRecord]:
    for status in FailureStatus:
        found = table.with_status(status, unreadable=unreadable)
        yield from islice(found, MOST_SETTLED if status in SETTLED else None)


def _only(typed: str, length: int, known: dict[str, str], noun: str) -> str:
    if len(typed) >= length or typed in known:
        return typed
    if len(typed) < SHORTEST:
        raise Stop(
            Exit.USAGE,
            f"{typed!r} is too short for the start of a{'n' if noun == 'order' else ''} {noun} id.",
            f"Type at least {SHORTEST} characters of the id.",
        )
    fitting = sorted(each for each in known if each.lower().startswith(typed))
    if len(fitting) > 1:
        named = "\n       ".join(f"{each}  {known[each]}" for each in fitting[:MOST_NAMED])
        if len(fitting) > MOST_NAMED:
            named += f"\n       … and {len(fitting) - MOST_NAMED} more"
        raise Stop(
            Exit.REFUSED,
            f"{typed!r} is the start of {len(fitting)} {noun} ids.",
            f"Type more characters of the one that you mean:\n       {named}",
        )
    return fitting[0] if fitting else typed
