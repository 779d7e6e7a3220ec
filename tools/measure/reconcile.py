"""The reckoning after a load: each accepted order against tables, ledgers, events, receipts and inbox.

Nobody redrives anything: the load waits until what heals by itself has healed. What is left in the inbox is judged.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from botocore.exceptions import BotoCoreError, ClientError

from measure.load import Fault, Load
from orderctl.redrive.healing import outlooks
from orderctl.stack import archive
from orderctl.stack.records import failures_table
from orderctl.stack.target import Target
from orderctl.ui import console
from orders.inbox.healing import cause_of
from orders.inbox.record import FailureRecord, FailureStatus, Kind
from orders.storage.dynamodb import from_item
from verify import invariants

LOOK_EVERY_S = 1.0
# With no change for this long and every queue empty, nothing more will happen.
QUIET_S = 8.0
QUEUES = ("FulfilmentQueueUrl", "NotificationsQueueUrl", "FailuresQueueUrl")
LOOK_AT_HEALING_EVERY_S = 5.0
REPLAY_TIMEOUT_S = 300.0


class EventLog:
    """Counts the order events that the bus carries during a run, by their ids, with a rule and a queue of its own."""

    def __init__(self, load: Load) -> None:
        self.seen: Counter[str] = Counter()
        self._load = load
        self._name = f"load-{load.run_id}"
        self._over = threading.Event()
        target = load.target
        sqs, events = target.client("sqs"), target.client("events")
        self._url = sqs.create_queue(QueueName=self._name)["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        allow = {
            "Effect": "Allow",
            "Principal": {"Service": "events.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": arn,
        }
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
        sqs.set_queue_attributes(QueueUrl=self._url, Attributes={"Policy": policy})
        bus = target.output("EventBusName")
        pattern = json.dumps({"source": ["orders"]})
        events.put_rule(Name=self._name, EventBusName=bus, EventPattern=pattern)
        events.put_targets(
            Rule=self._name,
            EventBusName=bus,
            Targets=[{"Id": "log", "Arn": arn, "InputPath": "$.detail.metadata.eventId"}],
        )
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        while not self._over.is_set():
            with suppress(ClientError, BotoCoreError):
                if not self._take():
                    self._over.wait(1.0)
                continue
            self._over.wait(1.0)

    def _take(self) -> int:
        sqs = self._load.target.client("sqs")
        messages = sqs.receive_message(QueueUrl=self._url, MaxNumberOfMessages=10).get("Messages", [])
        for message in messages:
            self.seen[message["Body"].strip('"')] += 1
        if messages:
            entries = [
                {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                for number, message in enumerate(messages)
            ]
            sqs.delete_message_batch(QueueUrl=self._url, Entries=entries)
        return len(messages)

    def close(self) -> None:
        """Count the remaining messages, and remove the rule and the queue."""
        self._over.set()
        self._thread.join()
        while self._take():
            pass
        events, bus = self._load.target.client("events"), self._load.target.output("EventBusName")
        events.remove_targets(Rule=self._name, EventBusName=bus, Ids=["log"])
        events.delete_rule(Name=self._name, EventBusName=bus)
        self._load.target.client("sqs").delete_queue(QueueUrl=self._url)


@dataclass
class Inbox:
    """The open failures since a load began: how many heal by themselves, and how many need a human, by cause.

    `poison` counts those that the load sent on purpose. `unexpected` says by id why the others need a human. `orders`
    are the orders of all.
    """

    healing: Counter[str] = field(default_factory=Counter)
    for_humans: Counter[str] = field(default_factory=Counter)
    poison: int = 0
    unexpected: dict[str, str] = field(default_factory=dict)
    orders: set[str] = field(default_factory=set)


def inbox_since(load: Load) -> Inbox:
    """Return what the inbox holds of a load's failures: those of its orders, and new ones of no order."""
    table = failures_table(load.target)
    accepted = {each.order_id for each in load.accepted}
    records = {
        record.failure_id: record
        for record in table.with_status(FailureStatus.NEW, since=load.began_at.isoformat())
        if not record.order_id or record.order_id in accepted
    }
    found = Inbox(orders={record.order_id for record in records.values() if record.order_id})
    for failure_id, outlook in outlooks(load.target, table, records.values()).items():
        record = records[failure_id]
        cause = str(cause_of(record))
        if not outlook.human:
            found.healing[cause] += 1
            continue
        found.for_humans[cause] += 1
        if _is_poison(load, table.get(failure_id)):
            found.poison += 1
        else:
            found.unexpected[failure_id] = f"{cause}: {record.error_message[:200]}; {outlook.human}"
    return found


def _is_poison(load: Load, record: FailureRecord | None) -> bool:
    """Whether the load has sent the message of a failure. A workflow reports no order, and not what it was sent."""
    if record is None:
        return False
    nameless = record.kind is Kind.EXECUTION and not record.order_id and Fault.POISON in load.faults
    return nameless or f"poison {load.run_id}".encode() in msgspec.json.encode(record)


@dataclass
class Reckoning:
    """Where the accepted orders are; `lost` and `doubled` say of each id what is wrong with it.

    `lost` also has what is missing of an order that has ended, such as its receipt.
    """

    accepted: int = 0
    fulfilled: int = 0
    failed: int = 0
    in_inbox: int = 0
    under_way: list[str] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)
    doubled: dict[str, str] = field(default_factory=dict)
    inbox: Inbox = field(default_factory=Inbox)
    placed_to_fulfilled_s: list[float] = field(default_factory=list)
    last_end: str = ""

    @property
    def well(self) -> bool:
        """Whether nothing is lost or doubled, and the inbox has only what was sent there on purpose."""
        return not (self.lost or self.doubled or self.inbox.healing or self.inbox.unexpected)


def reckon(load: Load, log: EventLog | None, *, final: bool) -> Reckoning:
    """Compare what clients were told with what there is. Without `final`, what stands still isn't lost yet."""
    target = load.target
    orders = {order["orderId"]: order for order in _scan(target, "OrdersTable")}
    payments = {entry["idempotencyKey"]: entry for entry in _scan(target, "PaymentsTable")}
    shipments = {entry["orderId"]: entry for entry in _scan(target, "ShipmentsTable")}
    receipts = _receipts(target)
    found = Reckoning(accepted=len(load.accepted), inbox=inbox_since(load))
    for each in load.accepted:
        order = orders.get(each.order_id)
        if order is None:
            found.lost[each.order_id] = "it isn't in the table"
            continue
        status = order["status"]
        stuck = each.order_id in found.inbox.orders
        ended = invariants.has_ended(order)
        if ended:
            found.last_end = max(found.last_end, order["updatedAt"])
        if status == "FULFILLED":
            found.fulfilled += 1
            found.placed_to_fulfilled_s.append(_seconds_between(order, "PLACED", "FULFILLED"))
        elif ended:
            found.failed += 1
        elif stuck:
            found.in_inbox += 1
        else:
            found.under_way.append(each.order_id)
            if final:
                found.lost[each.order_id] = f"it stands still as {status} and isn't in the inbox"
        payment, shipment = payments.get(each.order_id, {}), shipments.get(each.order_id, {})
        wrong = invariants.check_ledgers(each.order_id, payment, shipment)
        if wrong := wrong + invariants.check_end(order, payment, shipment):
            found.doubled[each.order_id] = "; ".join(wrong)
        lacks = invariants.check_effects(order, receipts=each.order_id in receipts, events=log.seen if log else None)
        if final and ended and not stuck and lacks:
            found.lost[each.order_id] = "; ".join(lacks)
    ids = Counter(each.order_id for each in load.accepted)
    found.doubled |= {order_id: "two keys made one order" for order_id, number in ids.items() if number > 1}
    wrong = invariants.check_stock(_scan(target, "CatalogueTable"), orders.values())
    found.lost |= {"stock": "; ".join(wrong)} if wrong else {}
    return found


def settle(load: Load, timeout_s: float) -> Reckoning:
    """Wait until every order has ended and nothing is left that heals by itself, or until the time is over.

    Returns the reckoning at the first moment of quiet, before most of the healing.
    """
    deadline = time.monotonic() + timeout_s
    with console.step("Waiting until nothing changes any more"):
        wait_until_quiet(load, deadline)
    first = reckon(load, None, final=False)
    _wait_until_healed(load, deadline)
    if Fault.RESTART in load.faults:
        _replay(load)
        _wait_until_healed(load, deadline)
    with console.step("Waiting until nothing changes any more"):
        wait_until_quiet(load, deadline)
    return first


def _wait_until_healed(load: Load, deadline: float) -> None:
    """Return once every order has ended with its receipt and no failure heals, or at the deadline."""
    accepted = {each.order_id for each in load.accepted}
    with console.step("Waiting until everything has healed by itself") as note:
        while time.monotonic() < deadline:
            statuses = {order["orderId"]: order for order in _scan(load.target, "OrdersTable", "orderId", "status")}
            inbox = inbox_since(load)
            mine = [order for order_id, order in statuses.items() if order_id in accepted]
            open_orders = {order["orderId"] for order in mine if not invariants.has_ended(order)}
            fulfilled = {order["orderId"] for order in mine if order["status"] == "FULFILLED"}
            healing = inbox.healing.total()
            without_receipt = len(fulfilled - _receipts(load.target)) if not open_orders else 0
            # What needs a human, or is replayed below, is not waited for.
            waiting = len(open_orders - inbox.orders)
            if not (waiting or healing or (without_receipt and Fault.RESTART not in load.faults)):
                return
            note(f"{len(open_orders)} orders open, {healing} failures heal, {without_receipt} receipts missing")
            time.sleep(LOOK_AT_HEALING_EVERY_S)


def _replay(load: Load) -> None:
    """Replay the run's OrderFulfilled events from the bus's archive to their rule.

    Lambda keeps an asynchronous event until its function has handled it. The local cloud holds such events in memory
    only and loses those in flight when it stops, so they are replayed as an operator would replay them.
    """
    target = load.target
    since = datetime.now(UTC) - timedelta(seconds=time.monotonic() - load.began + 60)
    archive_arn = archive.archive_of(target)["ArchiveArn"]
    rules = sorted(archive.rules_of(target, ["OrderFulfilled"]).values())
    name = archive.begin_replay(target, archive_arn, since, datetime.now(UTC), rules)
    archive.wait_for_replay(target, name, REPLAY_TIMEOUT_S)
    load.count("replays of the archive")


def wait_until_quiet(load: Load, deadline: float) -> None:
    """Return once no order has changed for QUIET_S and every queue is empty, or at the deadline."""
    before: tuple[int, ...] = ()
    since = time.monotonic()
    while time.monotonic() < deadline:
        now = _progress(load.target)
        if now != before or any(now[1:]):
            before, since = now, time.monotonic()
        if time.monotonic() - since >= QUIET_S:
            return
        time.sleep(LOOK_EVERY_S)


def _progress(target: Target) -> tuple[int, ...]:
    """Return a number that grows with every change of status, and how many messages each queue holds."""
    versions = sum(order["version"] for order in _scan(target, "OrdersTable", "version"))
    sqs = target.client("sqs")
    waiting = []
    for queue in QUEUES:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        held = sqs.get_queue_attributes(QueueUrl=target.output(queue), AttributeNames=names)["Attributes"]
        waiting.append(sum(int(held.get(name, 0)) for name in names))
    return (versions, *waiting)


def _scan(target: Target, output: str, *attributes: str) -> Iterator[dict[str, Any]]:
    names = {f"#a{number}": name for number, name in enumerate(attributes)}
    only: dict[str, Any] = {}
    if names:
        only = {"ProjectionExpression": ", ".join(names), "ExpressionAttributeNames": names}
    pages = target.client("dynamodb").get_paginator("scan").paginate(TableName=target.output(output), **only)
    for page in pages:
        for item in page["Items"]:
            yield from_item(item)


def _receipts(target: Target) -> set[str]:
    """Return the ids of the orders that have a receipt."""
    pages = target.client("s3").get_paginator("list_objects_v2").paginate(Bucket=target.output("ReceiptsBucket"))
    keys = [found["Key"] for page in pages for found in page.get("Contents", [])]
    return {key.rpartition("/")[2].removesuffix(".json") for key in keys}


def _seconds_between(order: dict[str, Any], first: str, last: str) -> float:
    at = {entry["what"]: entry["at"] for entry in order["timeline"]}
    return (datetime.fromisoformat(at[last]) - datetime.fromisoformat(at[first])).total_seconds()


def percentiles(values: list[float]) -> dict[str, float]:
    """Return p50, p95, p99 and the maximum of values in seconds; empty if there are no values."""
    if not values:
        return {}
    ordered = sorted(values)

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)

    return {"p50": at(0.50), "p95": at(0.95), "p99": at(0.99), "max": round(ordered[-1], 3)}


def report(load: Load, first: Reckoning, last: Reckoning) -> dict[str, Any]:
    """Return all findings, for JSON. Orders a second count from when the first order was due."""
    accepting_s = load.answered - load.began
    ended = first.fulfilled + first.failed
    ending_s = (datetime.fromisoformat(first.last_end) - load.began_at).total_seconds() if ended else 0.0
    return {
        "orders": load.orders,
        "ratePerSecond": load.rate,
        "faults": sorted(load.faults),
        "seed": load.seed,
        "accepted": last.accepted,
        "refused": load.refused,
        "fulfilled": last.fulfilled,
        "failed": last.failed,
        "inInbox": last.in_inbox,
        "lost": last.lost,
        "doubled": last.doubled,
        "beforeHealing": {
            "fulfilled": first.fulfilled,
            "failed": first.failed,
            "inInbox": first.in_inbox,
            "standingStill": len(first.under_way),
        },
        "inbox": {
            "healing": dict(last.inbox.healing),
            "forHumans": dict(last.inbox.for_humans),
            "poison": last.inbox.poison,
            "unexpected": last.inbox.unexpected,
        },
        "injected": load.injected,
        "serverErrors": load.server_errors,
        "requestRetries": sum(each.attempts - 1 for each in load.accepted),
        "acceptanceSeconds": percentiles([each.seconds for each in load.accepted]),
        "placedToFulfilledSeconds": percentiles(last.placed_to_fulfilled_s),
        "acceptedPerSecond": round(last.accepted / accepting_s, 1) if last.accepted else 0,
        "endedPerSecond": round(ended / ending_s, 1) if ended else 0,
        "memoryMb": load.memory_mb,
    }
