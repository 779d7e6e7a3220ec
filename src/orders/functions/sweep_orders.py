"""Find orders and failures that stand still unnoticed: the last safety net. Runs every minute.

An order is idle when it is open and has neither changed nor been restarted within its promise. An idle order that the
failure inbox doesn't hold has lost an event or an execution. The sweep claims the order with one conditional write
and starts its workflow, at the order's present status. After three starts without a change, the order goes to the
inbox. The sweep doesn't look for running executions: the promise is longer than an execution can live, and a second
execution changes nothing.

An order that isn't paid in time expires: the sweep makes it FAILING, and the event of that starts its undoing.
"""

import os
from collections.abc import Iterator
from functools import cache, cached_property
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from botocore.exceptions import ClientError
from msgspec import Meta, Struct

from orders.domain.clock import timestamp, timestamp_before
from orders.domain.errors import Contended, NotAllowed
from orders.domain.order import Reason, Status
from orders.inbox.messages import StuckOrder
from orders.inbox.record import Action, FailureRecord, FailureStatus
from orders.inbox.store import FailuresTable
from orders.runtime.aws import client
from orders.runtime.telemetry import logger, metrics, tracer
from orders.storage.orders import OPEN_SHARDS, IdleOrder, OrdersTable
from orders.workflow import RESTARTS_IN_VAIN, attended_at, execution_name, order_waits_for, workflow_input

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext
    from types_boto3_cloudwatch import CloudWatchClient

# A redriven payload that fails again does so within this time: a queue gives up after a minute, an asynchronous
# function after about four. A later failure makes the record NEW again all the same.
QUIET_S = 900
# The time to finish in. The next run continues.
RESERVE_MS = 10_000
EXPIRED = Reason("Expired", "the order was not paid in time")
UNPAID = (Status.PLACED, Status.RESERVED)
# BatchGetItem's quota.
BATCH = 100
THROTTLED = frozenset({"ThrottlingException", "TooManyRequestsException", "ExecutionLimitExceeded"})
OF_ORDERS = ("restarted", "expired", "toInbox", "later", "failed", "inInbox", "fine")
OF_FAILURES = ("resolved", "released")

_dynamodb = client("dynamodb")
_workflows = client("stepfunctions")
_sqs = client("sqs")
_orders = OrdersTable(_dynamodb)
_failures = FailuresTable(_dynamodb, client("s3"))


@cache
def _cloudwatch() -> "CloudWatchClient":
    # Most runs find nothing to restart, and then ask no alarm.
    return client("cloudwatch")


class SweepRequest(Struct, rename="camel"):
    """The event of the schedule, or of an operator; times in seconds. The defaults are the stack's parameters.

    `promise_seconds` holds for all orders, the PAID ones, too. Only an order that breaks its promise expires.
    """

    promise_seconds: Annotated[float, Meta(gt=0)] | None = None
    expiry_seconds: Annotated[float, Meta(gt=0)] | None = None
    quiet_seconds: Annotated[float, Meta(ge=0)] = QUIET_S
    max_restarts: Annotated[int, Meta(gt=0)] | None = None


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """Sweep, and return the counts.

    An idle order is counted once: it was restarted, has expired, was given to the inbox, is left for a later run,
    failed with an error, is in the inbox already, or is fine. Of the failures, some were resolved, some released. The
    sweep is `complete` unless it ran out of time or left orders for a later run.
    """
    sweep = _Sweep(msgspec.convert(event, SweepRequest), context)
    sweep.take_up_idle_orders()
    sweep.settle_failures()
    counts = sweep.counts
    metrics.add_metric("OrdersRestarted", "Count", counts["restarted"])
    for name, count in (
        ("OrdersNotRestarted", counts["failed"]),
        ("OrdersExpired", counts["expired"]),
        ("OrdersGivenToInbox", counts["toInbox"]),
    ):
        if count:  # each metric is paid for in every hour that it has a value
            metrics.add_metric(name, "Count", count)
    answer = {**counts, "complete": sweep.in_time and not counts["later"]}
    logger.info("swept", extra=answer)
    return answer


class _Sweep:
    """One run. `counts` says what became of the orders and failures, `in_time` whether all were looked at."""

    def __init__(self, request: SweepRequest, context: "LambdaContext") -> None:
        promise_s = request.promise_seconds or float(os.environ["ORDER_PROMISE_SECONDS"])
        paid_promise_s = request.promise_seconds or float(os.environ["WAREHOUSE_PROMISE_SECONDS"])
        expiry_s = request.expiry_seconds or float(os.environ["RESERVATION_EXPIRY_SECONDS"])
        self.counts = dict.fromkeys((*OF_ORDERS, *OF_FAILURES), 0)
        self.in_time = True
        self._context = context
        self._since = timestamp_before(promise_s)
        self._paid_since = timestamp_before(paid_promise_s)
        self._expired_since = timestamp_before(expiry_s)
        self._quiet_since = timestamp_before(request.quiet_seconds)
        self._restarts_left = self._expiries_left = request.max_restarts or int(os.environ["SWEEP_RESTARTS"])

    def take_up_idle_orders(self) -> None:
        """Restart, expire or hand over each order that nobody works on."""
        # A run that ends early must not always leave out the same shards.
        first_shard = int(timestamp()[14:16]) % OPEN_SHARDS
        for page in _orders.idle(since=self._since, paid_since=self._paid_since, first_shard=first_shard):
            for order in page.orders:
                if not self._has_time():
                    return
                try:
                    self.counts[self._take_up(order)] += 1
                except Exception:
                    # An order that can't be changed or started must not stop the others.
                    logger.exception("order not restarted", extra={"order_id": order.order_id})
                    self.counts["failed"] += 1
            if page.unreadable:
                logger.error("orders left out: their entries are damaged", extra={"order_ids": page.unreadable})
                self.counts["failed"] += len(page.unreadable)
            if not self._has_time():
                return

    def _take_up(self, order: IdleOrder) -> str:
        """Do what an idle order needs; returns the word to count the order under."""
        if order.status in UNPAID and order.placed_at < self._expired_since:
            return self._expire(order)
        since = self._paid_since if order.status is Status.PAID else self._since
        if self._attended is not None and self._attended.get(order.order_id, "") > since:
            return "inInbox"
        if self._attended is None or self._restarts_left <= 0 or self._must_wait(order):
            return "later"
        in_vain = order.restarts_in_vain
        if not _orders.claim_restart(order, min(in_vain + 1, RESTARTS_IN_VAIN)):
            return "fine"  # the order has changed, or another sweep has claimed it
        self._restarts_left -= 1
        return _give_to_inbox(order, in_vain) if in_vain >= RESTARTS_IN_VAIN else self._restart(order, in_vain + 1)

    def _expire(self, order: IdleOrder) -> str:
        if self._expiries_left <= 0:
            return "later"
        self._expiries_left -= 1
        now = _orders.start_failing(order.customer_id, order.order_id, EXPIRED, only=UNPAID)
        if now.status is not Status.FAILING:
            return "fine"
        logger.warning("order expired", extra=_log_fields(order))
        return "expired"

    def _restart(self, order: IdleOrder, number: int) -> str:
        name = execution_name(order.order_id, "sweep")
        try:
            _workflows.start_execution(
                stateMachineArn=os.environ["STATE_MACHINE_ARN"],
                name=name,
                input=workflow_input(order.customer_id, order.order_id, order.correlation_id),
            )
        except ClientError as error:
            if error.response["Error"]["Code"] in THROTTLED:
                self._restarts_left = 0
            raise
        logger.warning("order restarted", extra={**_log_fields(order), "execution": name, "restarts": number})
        return "restarted"

    @cached_property
    def _attended(self) -> dict[str, str] | None:
        """When each order of an open failure was last attended to, by order id: see `attended_at`.

        None if the list of failures can't be read to its end: then nobody knows which orders are in the inbox.
        """
        found: dict[str, str] = {}
        queue = os.environ["FULFILMENT_QUEUE_ARN"]
        try:
            for record in _open_failures([]):
                if not self._has_time():
                    return None
                if record.order_id:
                    at = attended_at(record, fulfilment_queue_arn=queue)
                    found[record.order_id] = max(at, found.get(record.order_id, ""))
        except Exception:
            logger.exception("no order is restarted: the inbox can't be read")
            return None
        return found

    def _must_wait(self, order: IdleOrder) -> bool:
        """Whether the order's event or message may still be on its way, or its failure on its way to the inbox."""
        queue_alarm = os.environ["FULFILMENT_BEHIND_ALARM"]
        return any(order.status is Status.PAID or name != queue_alarm for name in self._alarms)

    @cached_property
    def _alarms(self) -> frozenset[str]:
        """The names of those alarms that say that something is behind."""
        names = [*os.environ["BEHIND_ALARMS"].split(","), os.environ["FULFILMENT_BEHIND_ALARM"]]
        try:
            found = _cloudwatch().describe_alarms(AlarmNames=names)["MetricAlarms"]
        except Exception:
            # A restart too early changes nothing; a sweep that doesn't restart is no safety net.
            logger.exception("orders are restarted all the same: nobody knows whether anything is behind")
            return frozenset()
        alarms = frozenset(alarm["AlarmName"] for alarm in found if alarm["StateValue"] == "ALARM")
        if alarms:
            logger.warning("orders wait, because something is behind", extra={"alarms": sorted(alarms)})
        return alarms

    def settle_failures(self) -> None:
        """Resolve the failures that are over, and release those that a redrive left half-done."""
        unreadable: list[str] = []
        records = _open_failures(unreadable)
        while self._has_time() and (batch := list(islice(records, BATCH))):
            try:
                ended = _orders.ended(
                    (record.customer_id, record.order_id)
                    for record in batch
                    if record.customer_id and record.order_id and _over_with_order(record)
                )
            except Exception:
                # Orders that can't be read must not stop the failures of others.
                logger.exception("failures not settled", extra={"failure_ids": [each.failure_id for each in batch]})
                continue
            for record in batch:
                if not self._has_time():
                    return
                self._settle(record, ended)
        if unreadable:
            logger.error("failures left out: they can't be read", extra={"failure_ids": unreadable})

    def _settle(self, record: FailureRecord, ended: dict[str, Status]) -> None:
        try:
            reason = _why_over(record, ended, self._quiet_since)
            if reason:
                _failures.settle(
                    record.failure_id,
                    FailureStatus.RESOLVED,
                    by="sweep",
                    reason=reason,
                    if_version=record.version,
                )
                self.counts["resolved"] += 1
            elif (
                record.status is FailureStatus.REDRIVEN
                and not record.sent_at
                and str(record.claimed_at) < self._quiet_since
            ):
                _failures.release(record, "it was claimed and never confirmed as sent")
                self.counts["released"] += 1
        except (NotAllowed, LookupError, Contended):
            return  # somebody else changes it
        except Exception:
            # A failure that can't be written must not stop the others.
            logger.exception("failure not settled", extra={"failure_id": record.failure_id})

    def _has_time(self) -> bool:
        self.in_time = self._context.get_remaining_time_in_millis() >= RESERVE_MS
        return self.in_time


def _give_to_inbox(order: IdleOrder, restarts: int) -> str:
    """Send an order to the failures queue. If that fails, the order is idle again after its promise."""
    report = StuckOrder(
        customer_id=order.customer_id,
        order_id=order.order_id,
        correlation_id=order.correlation_id,
        state=order.status,
        error="NoProgress",
        cause=f"restarted {restarts} times without progress",
    )
    _sqs.send_message(QueueUrl=os.environ["FAILURES_QUEUE_URL"], MessageBody=msgspec.json.encode(report).decode())
    logger.warning("order given to the inbox", extra={**_log_fields(order), "restarts": restarts})
    return "toInbox"


def _log_fields(order: IdleOrder) -> dict[str, str]:
    return {"order_id": order.order_id, "correlation_id": order.correlation_id, "status": order.status}


def _open_failures(unreadable: list[str]) -> Iterator[FailureRecord]:
    for status in (FailureStatus.REDRIVEN, FailureStatus.NEW):
        yield from _failures.with_status(status, unreadable=unreadable)


def _over_with_order(record: FailureRecord) -> bool:
    """Whether a failure is over when its order has ended."""
    # An unpublished event is missing even if its order has ended: the event may tell of that end.
    waits = order_waits_for(record, os.environ["FULFILMENT_QUEUE_ARN"])
    return waits and record.redrive.action is not Action.PUBLISH


def _why_over(record: FailureRecord, ended: dict[str, Status], quiet_since: str) -> str:
    """The reason why a failure needs no more action; "" if it needs one. `ended`: see `OrdersTable.ended`."""
    if record.order_id and record.customer_id and _over_with_order(record):
        return f"the order is {ended[record.order_id]}" if record.order_id in ended else ""
    if record.status is FailureStatus.REDRIVEN and record.sent_at is not None and record.sent_at < quiet_since:
        return "it was redriven and has not failed again"
    return ""
