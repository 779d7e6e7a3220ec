"""The outbox's relay: turns what the orders table's stream says into events on the bus.

The only code that calls PutEvents. A record may be published twice (after a crash, or when a later record of
the batch failed); the event id tells its consumers.
"""

import os
import random
import time
from typing import TYPE_CHECKING, Any

import msgspec

from orders.aws import client
from orders.events import bus_entry, event_of
from orders.model import Order
from orders.table import decode_order
from orders.telemetry import logger, metrics, tracer

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

# EventBridge's quotas for one PutEvents call.
MAX_ENTRIES = 10
MAX_BYTES = 1024 * 1024
ATTEMPTS = 4

_events = client("events")
_sqs = client("sqs")
_bus = os.environ["EVENT_BUS_NAME"]
_failures_queue = os.environ["FAILURES_QUEUE_URL"]


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """Publish a batch of stream records; the answer names the first that has to be delivered again.

    For a stream, Lambda goes on from the lowest sequence number reported (`ReportBatchItemFailures`).
    """
    pending: list[tuple[str, dict[str, Any]]] = []
    for record in event["Records"]:
        try:
            order = _order_that_moved(record)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            if not _park(record, error):
                pending.append((_sequence_number(record), {}))
                break
            continue
        if order is not None:
            pending.append((_sequence_number(record), bus_entry(event_of(order), _bus)))
    unpublished = [sequence for sequence, entry in pending if not entry]
    unpublished = _publish([(sequence, entry) for sequence, entry in pending if entry]) + unpublished
    if unpublished:
        metrics.add_metric("EventsNotPublished", "Count", len(unpublished))
        return {"batchItemFailures": [{"itemIdentifier": min(unpublished, key=int)}]}
    return {"batchItemFailures": []}


def _order_that_moved(record: dict[str, Any]) -> Order | None:
    """The order whose status a record changed; None for a change of something else."""
    if record["eventName"] == "REMOVE":
        return None
    change = record["dynamodb"]
    order = decode_order(change["NewImage"])
    before = change.get("OldImage")
    return None if before and before.get("version") == change["NewImage"]["version"] else order


def _park(record: dict[str, Any], error: Exception) -> bool:
    """Send a record that can't be read to the failure inbox, whole, so that it doesn't block its shard."""
    logger.error("stream record can't be read", exc_info=error)
    metrics.add_metric("RecordsParked", "Count", 1)
    body = {"kind": "UnreadableStreamRecord", "error": f"{type(error).__name__}: {error}", "record": record}
    try:
        _sqs.send_message(QueueUrl=_failures_queue, MessageBody=msgspec.json.encode(body, enc_hook=str).decode())
    except Exception:
        logger.exception("the record couldn't be parked; it will be delivered again")
        return False
    return True


def _publish(entries: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """Put entries on the bus; returns the sequence numbers of those that EventBridge wouldn't take."""
    failed: list[str] = []
    for batch in _batches(entries):
        remaining = batch
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(random.uniform(0, 0.1 * 2**attempt))
            remaining = _put(remaining)
            if not remaining:
                break
        failed += [sequence for sequence, _ in remaining]
    metrics.add_metric("EventsPublished", "Count", len(entries) - len(failed))
    return failed


def _put(batch: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    """One PutEvents call; returns what is left to be sent, since the call fails in part without raising."""
    try:
        answer = _events.put_events(Entries=[entry for _, entry in batch])  # type: ignore[misc]
    except Exception:
        logger.exception("PutEvents failed")
        return batch
    left = [item for item, result in zip(batch, answer["Entries"], strict=True) if result.get("ErrorCode")]
    if left:
        codes = sorted({result["ErrorCode"] for result in answer["Entries"] if result.get("ErrorCode")})
        logger.warning("events not taken", extra={"count": len(left), "codes": codes})
    return left


def _batches(entries: list[tuple[str, dict[str, Any]]]) -> list[list[tuple[str, dict[str, Any]]]]:
    batches: list[list[tuple[str, dict[str, Any]]]] = []
    room = 0
    for sequence, entry in entries:
        size = sum(len(entry[part].encode()) for part in ("Source", "DetailType", "Detail"))
        if not batches or len(batches[-1]) == MAX_ENTRIES or size > room:
            batches.append([])
            room = MAX_BYTES
        batches[-1].append((sequence, entry))
        room -= size
    return batches


def _sequence_number(record: dict[str, Any]) -> str:
    number: str = record["dynamodb"]["SequenceNumber"]
    return number
