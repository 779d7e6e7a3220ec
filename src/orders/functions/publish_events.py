"""The outbox's relay: turns what the orders table's stream says into events on the bus.

The only code that calls PutEvents. A record may be published twice (after a crash, or when a later record of
the batch failed); the event id tells its consumers.
"""

import os
import random
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from orders.domain.errors import Unreadable
from orders.domain.events import OrderEvent, bus_entry, event_of
from orders.inbox.messages import UnreadableStreamRecord
from orders.inbox.parse import identify
from orders.runtime.aws import client
from orders.runtime.telemetry import logger, metrics, tracer
from orders.storage.orders import decode_order
from orders.storage.stream import changes_version, sequence_number

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


class _Outgoing(NamedTuple):
    """An event on its way: the sequence number of its record, and its entry for PutEvents."""

    sequence: str
    event: OrderEvent
    entry: dict[str, Any]


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """Publish a batch of stream records; the answer names the first that has to be delivered again.

    For a stream, Lambda goes on from the lowest sequence number reported (`ReportBatchItemFailures`). A redrive sends
    `{"Records": […], "redrive": true}`: its records are in the failure inbox already, so what still can't be read is
    not parked once more but told in the answer's `unreadable`.
    """
    outgoing: list[_Outgoing] = []
    unpublished: list[str] = []
    unreadable: list[str] = []
    for record in event["Records"]:
        try:
            sent = _outgoing_of(record)
        except (Unreadable, ValueError, LookupError, TypeError, AttributeError) as error:
            if event.get("redrive"):
                unreadable.append(_what_is_wrong(error))
            elif not _park(record, error):
                unpublished.append(sequence_number(record))
                break
            continue
        if sent is not None:
            outgoing.append(sent)
    unpublished += _publish(outgoing)
    if unpublished:
        metrics.add_metric("EventsNotPublished", "Count", len(unpublished))
    failures = [{"itemIdentifier": min(unpublished, key=int)}] if unpublished else []
    return {"batchItemFailures": failures, **({"unreadable": unreadable} if unreadable else {})}


def _outgoing_of(record: dict[str, Any]) -> _Outgoing | None:
    """The event that a record calls for, if any. Raises one of many errors for a record that can't be read."""
    if not changes_version(record):
        return None
    order_event = event_of(decode_order(record["dynamodb"]["NewImage"]))
    return _Outgoing(sequence_number(record), order_event, bus_entry(order_event, _bus))


def _what_is_wrong(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _park(record: dict[str, Any], error: Exception) -> bool:
    """Send a record that can't be read to the failure inbox, whole, so that it doesn't block its shard."""
    text = msgspec.json.encode(record, enc_hook=str).decode()
    logger.error("stream record can't be read", exc_info=error, extra=identify(text))
    metrics.add_metric("RecordsParked", "Count", 1)
    message = UnreadableStreamRecord(_what_is_wrong(error), msgspec.Raw(text.encode()))
    try:
        _sqs.send_message(QueueUrl=_failures_queue, MessageBody=msgspec.json.encode(message).decode())
    except Exception:
        logger.exception("the record couldn't be parked; it will be delivered again")
        return False
    return True


def _publish(outgoing: list[_Outgoing]) -> list[str]:
    """Put events on the bus; returns the sequence numbers of those that EventBridge wouldn't take."""
    failed: list[str] = []
    for batch in _batches(outgoing):
        remaining = batch
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(random.uniform(0, 0.1 * 2**attempt))
            remaining = _put(remaining)
            if not remaining:
                break
        failed += [left.sequence for left in remaining]
    metrics.add_metric("EventsPublished", "Count", len(outgoing) - len(failed))
    return failed


def _put(batch: list[_Outgoing]) -> list[_Outgoing]:
    """One PutEvents call; returns what is left to be sent, since the call fails in part without raising."""
    try:
        answer = _events.put_events(Entries=[sent.entry for sent in batch])  # type: ignore[misc]
    except Exception:
        logger.exception("PutEvents failed", extra={"count": len(batch)})
        return batch
    left: list[_Outgoing] = []
    for sent, result in zip(batch, answer["Entries"], strict=True):
        names = {
            "event_id": sent.event.metadata.event_id,
            "correlation_id": sent.event.metadata.correlation_id,
            "order_id": sent.event.data.order_id,
        }
        if code := result.get("ErrorCode"):
            left.append(sent)
            logger.warning("event not taken", extra={**names, "code": code})
        else:
            logger.info("event published", extra=names)
    return left


def _batches(outgoing: list[_Outgoing]) -> list[list[_Outgoing]]:
    batches: list[list[_Outgoing]] = []
    room = 0
    for sent in outgoing:
        size = sum(len(sent.entry[part].encode()) for part in ("Source", "DetailType", "Detail"))
        if not batches or len(batches[-1]) == MAX_ENTRIES or size > room:
            batches.append([])
            room = MAX_BYTES
        batches[-1].append(sent)
        room -= size
    return batches
