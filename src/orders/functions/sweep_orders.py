"""Find what stands still without anybody knowing: the net under every other net. Runs on a schedule.

An order that is open longer than promised and isn't in the failure inbox lost an event outside our sight: its
workflow is started again where the order stands. Nothing is asked about running executions: the promise is longer
than the workflow's own time-out, and one more execution of an order that is under way changes nothing. Its name
comes from the order and the promise's multiple, so any number of sweeps start one for each promise broken.
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
from orders.workflow import keeps_sweep_away, order_waits_for, resume_input, sweep_execution_name

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

# What a redriven payload takes to fail again at most: a queue gives up after a minute, an asynchronous function
# after about four. Who fails later makes the record NEW again all the same.
QUIET_S = 900
# Time to finish in, when many things stand still: the next run goes on.
RESERVE_MS = 15_000

_dynamodb = client("dynamodb")
_workflows = client("stepfunctions")
_orders = OrdersTable(_dynamodb)
_failures = FailuresTable(_dynamodb, client("s3"))


class SweepRequest(Struct, rename="camel"):
    """An event of the schedule, or of an operator who doesn't want to wait: both in seconds."""

    promise_seconds: Annotated[float, Meta(gt=0)] | None = None
    quiet_seconds: Annotated[float, Meta(ge=0)] = QUIET_S


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """How many orders were restarted, are in the inbox, are fine, or failed; how many failures were resolved and
    released; and whether that is `complete`.
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
    """Start the workflow of every order that is overdue and in nobody's sight; False if time ran out."""
    for customer_id, order_id, _ in _orders.open_longest(timestamp_before(promise_s)):
        if context.get_remaining_time_in_millis() < RESERVE_MS:
            return False
        try:
            counts[_restart(customer_id, order_id, promise_s)] += 1
        except Exception:
            # One order that can't be read or started must not keep the others from it.
            logger.exception("order not restarted", extra={"order_id": order_id})
            counts["failed"] += 1
    return True


def _restart(customer_id: str, order_id: str, promise_s: float) -> str:
    """Start one order's workflow where the order stands; returns under which word to count it."""
    order = _orders.get(customer_id, order_id, consistent=True)
    if order is None or order.status in TERMINAL:
        return "fine"  # the index lags behind
    if order.status not in TRANSITIONS:
        return "fine"  # newer code is at work on it
    queue, redriven_since = os.environ["FULFILMENT_QUEUE_ARN"], timestamp_before(promise_s)
    if any(
        keeps_sweep_away(record, fulfilment_queue_arn=queue, redriven_since=redriven_since)
        for record in _failures.of_order(order_id)
    ):
        return "inInbox"
    name = sweep_execution_name(order, promise_s)
    try:
        _workflows.start_execution(
            stateMachineArn=os.environ["STATE_MACHINE_ARN"], name=name, input=resume_input(order)
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
    """Close the failures that are over, and give back those that a redrive left half-way; False if time ran out."""
    quiet_since = timestamp_before(quiet_s)
    for status in (FailureStatus.REDRIVEN, FailureStatus.NEW):
        for record in _failures.with_status(status):
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
                continue  # somebody else is at it
            except Exception:
                # One failure whose order can't be read must not keep the others open.
                logger.exception("failure not settled", extra={"failure_id": record.failure_id})
    return True


def _why_over(record: FailureRecord, quiet_since: str) -> str:
    """Why there is nothing left to do about a failure; "" if there is."""
    # An event that wasn't published is missing also where its order has ended: it may have said so.
    waited_for = order_waits_for(record, os.environ["FULFILMENT_QUEUE_ARN"])
    if waited_for and record.redrive.action != Action.PUBLISH and record.order_id and record.customer_id:
        order = _orders.get(record.customer_id, record.order_id, consistent=True)
        return f"the order is {order.status}" if order is not None and order.status in TERMINAL else ""
    if record.status is FailureStatus.REDRIVEN and record.sent_at is not None and record.sent_at < quiet_since:
        return "it was redriven and has not failed again"
    return ""
