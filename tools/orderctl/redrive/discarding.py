"""Discard a failure for good: give up the order that waits for the failure, and have the order undone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from orderctl.stack import records
from orderctl.stack.records import DamagedOrder, StoredOrder
from orderctl.stack.target import Target
from orders.domain.errors import Contended, NotAllowed
from orders.domain.order import CAN_FAIL, GIVEN_UP_REASON, TERMINAL, Status, undoing_of
from orders.inbox.parse import component_of
from orders.inbox.record import SETTLED, Action, FailureRecord, FailureStatus
from orders.inbox.store import FailuresTable
from orders.redrive.sending import CannotSend, Outcome
from orders.workflow import order_waits_for


def discard_one(target: Target, table: FailuresTable, failure_id: str, by: str, reason: str) -> Outcome:
    """Discard a failure, and give up the order that waits for it: from then on the order is only undone.

    The order becomes FAILING, and the event of that starts its undoing. Then the failure is settled. A process that
    dies in between leaves the failure in the inbox, and a second discard continues the first.
    """
    problem = "there is no such failure"
    try:
        record = table.get(failure_id)
    except ValueError as error:
        record, problem = None, f"it can't be read: {error}"
    if record is None:
        return Outcome(failure_id, "refused", problem)
    waited_for = order_waits_for(record, target.output("FulfilmentQueueArn"))
    if refusal := _why_not_discarded(target, record, waited_for):
        return Outcome(failure_id, "refused", refusal, record.order_id)
    done, given_up = what_is_dropped(record), False
    try:
        if waited_for:
            done, given_up = give_order_up(target, table, record)
            reason = f"{reason} ({done})"
        # An order that is given up is only undone, so a changed record may be settled, too.
        version = None if given_up else record.version
        settled = table.settle(failure_id, FailureStatus.DISCARDED, by=by, reason=reason, if_version=version)
    except NotAllowed as error:
        result = "discarded" if given_up else "failed"
        return Outcome(failure_id, result, f"{done}; the failure: {error}", record.order_id, given_up)
    except (CannotSend, ClientError, BotoCoreError, Contended) as error:
        return Outcome(failure_id, "failed", str(error), record.order_id, given_up)
    if settled.status is not FailureStatus.DISCARDED:
        return Outcome(failure_id, "failed", f"it changed meanwhile and is {settled.status}", record.order_id)
    return Outcome(failure_id, "discarded", done, record.order_id, given_up)


def await_undoing(target: Target, outcomes: Iterable[Outcome], timeout_s: float, pause_s: float = 0.5) -> None:
    """Wait at most `timeout_s` for the end of the orders that were given up; each outcome gets its order's status."""
    waiting = [outcome for outcome in outcomes if outcome.given_up and outcome.result == "discarded"]
    deadline = time.monotonic() + timeout_s
    while waiting:
        for outcome in list(waiting):
            order = records.find_order(target, str(outcome.order_id))
            if order is None or order.status in TERMINAL or time.monotonic() > deadline:
                outcome.detail = _progress(target, order) if order else "the order is gone"
                waiting.remove(outcome)
        if waiting:
            time.sleep(pause_s)


def _progress(target: Target, order: StoredOrder) -> str:
    """Return how far the undoing of an order that was given up is; for an open order, with a command to see more."""
    if isinstance(order, DamagedOrder):
        return f"its order {order.order_id} is given up, and can't be read ({order.problem})"
    if order.status in TERMINAL:
        return undoing_of(order)
    return f"{undoing_of(order)}; see its progress: {target.command(f'explain {order.order_id}')}"


def _why_not_discarded(target: Target, record: FailureRecord, waited_for: bool) -> str:
    if record.status in SETTLED:
        discarded = record.status is FailureStatus.DISCARDED and record.order_id
        order = records.find_order(target, record.order_id) if discarded and record.order_id else None
        progress = f"; {_progress(target, order)}" if order and _was_given_up(order) else ""
        return f"it is {record.status} already{progress}"
    if record.status is FailureStatus.REDRIVEN and not waited_for:
        return f"it was redriven at {record.claimed_at}: wait for the result"
    return ""


def _was_given_up(order: StoredOrder) -> bool:
    if isinstance(order, DamagedOrder):
        return order.given_up or order.status == Status.FAILING
    return order.given_up is not None or any(entry.what == Status.FAILING for entry in order.timeline)


# The consequence of a discard, by the component that the payload was for.
DROPPED = {
    "RefundPaymentFunction": "a cancelled order's refund is dropped: if the order was charged, it stays charged",
    "IssueReceiptFunction": "its customer gets no receipt",
    "NotificationsQueue": "its customer gets no mail about it",
}


def what_is_dropped(record: FailureRecord) -> str:
    """Return the consequence of discarding a failure that no order waits for."""
    if record.redrive.action is Action.PUBLISH:
        return "its event is never published: the mail, receipt or refund that follows from the event never comes"
    return DROPPED.get(component_of(record.redrive.to), "nothing needed to be undone")


def give_order_up(target: Target, table: FailuresTable, record: FailureRecord) -> tuple[str, bool]:
    """Make the order that waits for a failure FAILING; the event of that starts its undoing.

    Returns a description of what was done, and whether the order is given up. Raises CannotSend if the order's item
    can't be read.
    """
    customer_id = record.customer_id
    if record.order_id and customer_id is None:
        found = records.find_order(target, record.order_id)
        customer_id = found.customer_id if found else None
    if record.order_id is None or customer_id is None:
        return "it names no order that is in the table, so nothing was undone", False
    later_event = record.redrive.action is Action.PUBLISH and not _says_placed(table.payload_of(record))
    only = (Status.PLACED,) if later_event else CAN_FAIL
    try:
        orders = records.orders_table(target)
        order = orders.start_failing(customer_id, record.order_id, GIVEN_UP_REASON, only=only)
    except LookupError as error:
        return f"{error}, so nothing was undone", False
    except msgspec.ValidationError as error:
        raise CannotSend(
            f"order {record.order_id} is given up, but its item can't be read, so it can't be undone ({error}): "
            "mend the item or delete it, then discard the failure again"
        ) from error
    if order.status is Status.FAILING:
        return "the order is given up and is being undone", True
    if order.status not in TERMINAL:
        return f"the order is {order.status} and goes on{_and_dropped(record)}", False
    if _was_given_up(order):
        return undoing_of(order), True
    return f"the order is {order.status}{_and_dropped(record)}", False


def _and_dropped(record: FailureRecord) -> str:
    return f"; {what_is_dropped(record)}" if record.redrive.action is Action.PUBLISH else ""


def _says_placed(payload: str) -> bool:
    """Whether a stream record is that of a new order, whose event starts the workflow."""
    try:
        return bool(json.loads(payload)["dynamodb"]["NewImage"]["status"] == {"S": "PLACED"})
    except (ValueError, LookupError, TypeError):
        return False
