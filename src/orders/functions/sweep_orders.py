"""Find orders and failures that stand still unnoticed: the last safety net. Runs on a schedule.

An order that is open for longer than the promise, and that the failure inbox doesn't hold, has lost an event. The
sweep starts its workflow again, at the order's present status. The sweep doesn't look for running executions: the
promise is longer than the workflow's time-out, and a second execution of the same order changes nothing.
"""

import os
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from orders.domain.clock import timestamp_before
from orders.domain.errors import Contended, NotAllowed
from orders.domain.order import TERMINAL, TRANSITIONS
from orders.inbox.record import Action, FailureRecord, FailureStatus
from orders.inbox.store import FailuresTable
from orders.runtime.aws import client
from orders.runtime.telemetry import logger, metrics, tracer
from orders.storage.orders import OrdersTable
from orders.workflow import execution_name, keeps_sweep_away, order_waits_for, workflow_input

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

# A redriven payload that fails again does so within this time: a queue gives up after a minute, an asynchronous
# function after about four. A later failure makes the record NEW again all the same.
QUIET_S = 900
# The time to finish in. The next run continues.
RESERVE_MS = 15_000

_dynamodb = client("dynamodb")
_workflows = client("stepfunctions")
_orders = OrdersTable(_dynamodb)
_failures = FailuresTable(_dynamodb, client("s3"))


class SweepRequest(Struct, rename="camel"):
    """The event of the schedule, or of an operator; both fields in seconds."""

    promise_seconds: Annotated[float, Meta(gt=0)] | None = None
    quiet_seconds: Annotated[float, Meta(ge=0)] = QUIET_S


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """Sweep, and return the counts.

    They are the number of orders that were restarted, are in the inbox, are fine or failed; the number of failures
    that were resolved and released; and whether the sweep is `complete`.
    """
    request = msgspec.convert(event, SweepRequest)
    promise_s = request.promise_seconds or float(os.environ["ORDER_PROMISE_SECONDS"])
    counts = dict.fromkeys(("restarted", "inInbox", "fine", "failed", "resolved", "released"), 0)
    complete = _restart_overdue(counts, promise_s, context)
    complete = _settle(counts, request.quiet_seconds, context) and complete
    metrics.add_metric("OrdersRestarted", "Count", counts["restarted"])
    metrics.add_metric("OrdersNotRestarted", "Count", counts["failed"])
    logger.info("swept", extra={**counts, "complete": complete})
    return {**counts, "complete": complete}


def _restart_overdue(counts: dict[str, int], promise_s: float, context: "LambdaContext") -> bool:
    """Start the workflow of every overdue order that nobody works on; False if time ran out."""
    for entry in _orders.open_longest(timestamp_before(promise_s)):
        customer_id, order_id = entry.customer_id, entry.order_id
        if context.get_remaining_time_in_millis() < RESERVE_MS:
            return False
        try:
            counts[_restart(customer_id, order_id, promise_s)] += 1
        except Exception:
            # An order that can't be read or started must not stop the others.
            logger.exception("order not restarted", extra={"order_id": order_id})
            counts["failed"] += 1
    return True


def _restart(customer_id: str, order_id: str, promise_s: float) -> str:
    """Start one order's workflow at the order's present status; returns the word to count the order under."""
    order = _orders.get(customer_id, order_id, consistent=True)
    if order is None or order.status in TERMINAL:
        return "fine"  # the index lags behind
    if order.status not in TRANSITIONS:
        return "fine"  # only newer code knows this status
    queue, redriven_since = os.environ["FULFILMENT_QUEUE_ARN"], timestamp_before(promise_s)
    if any(
        keeps_sweep_away(record, fulfilment_queue_arn=queue, redriven_since=redriven_since)
        for record in _failures.of_order(order_id)
    ):
        return "inInbox"
    name = execution_name(order_id, "sweep")
    try:
        _workflows.start_execution(
            stateMachineArn=os.environ["STATE_MACHINE_ARN"],
            name=name,
            input=workflow_input(customer_id, order_id, order.correlation_id),
        )
    except _workflows.exceptions.ExecutionAlreadyExists:
        return "fine"
    logger.warning(
        "order restarted",
        extra={
            "order_id": order_id,
            "correlation_id": order.correlation_id,
            "status": order.status,
            "execution": name,
        },
    )
    return "restarted"


def _settle(counts: dict[str, int], quiet_s: float, context: "LambdaContext") -> bool:
    """Resolve the failures that are over, and release those that a redrive left half-done; False if time ran out."""
    quiet_since = timestamp_before(quiet_s)
    unreadable: list[str] = []
    for status in (FailureStatus.REDRIVEN, FailureStatus.NEW):
        for record in _failures.with_status(status, unreadable=unreadable):
            if context.get_remaining_time_in_millis() < RESERVE_MS:
                return False
            try:
                reason = _why_over(record, quiet_since)
                if reason:
                    _failures.settle(
                        record.failure_id,
                        FailureStatus.RESOLVED,
                        by="sweep",
                        reason=reason,
                        if_version=record.version,
                    )
                    counts["resolved"] += 1
                elif (
                    record.status is FailureStatus.REDRIVEN
                    and not record.sent_at
                    and str(record.claimed_at) < quiet_since
                ):
                    _failures.release(record, "it was claimed and never confirmed as sent")
                    counts["released"] += 1
            except (NotAllowed, LookupError, Contended):
                continue  # somebody else changes it
            except Exception:
                # A failure whose order can't be read must not stop the others.
                logger.exception("failure not settled", extra={"failure_id": record.failure_id})
    if unreadable:
        logger.error("failures left out: they can't be read", extra={"failure_ids": unreadable})
    return True


def _why_over(record: FailureRecord, quiet_since: str) -> str:
    """The reason why a failure needs no more action; "" if it needs one."""
    # An unpublished event is missing even if its order has ended: the event may tell of that end.
    waited_for = order_waits_for(record, os.environ["FULFILMENT_QUEUE_ARN"])
    if waited_for and record.redrive.action != Action.PUBLISH and record.order_id and record.customer_id:
        order = _orders.get(record.customer_id, record.order_id, consistent=True)
        return f"the order is {order.status}" if order is not None and order.status in TERMINAL else ""
    if record.status is FailureStatus.REDRIVEN and record.sent_at is not None and record.sent_at < quiet_since:
        return "it was redriven and has not failed again"
    return ""
