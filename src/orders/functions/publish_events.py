"""The outbox relay: publish an event for each change of an order's status in the table's stream.

Only this module calls PutEvents. A crash, or a failed record later in the batch, publishes a record twice; the
event id tells the consumers.
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
    """An event to publish: its record's sequence number, and its entry for PutEvents."""

    sequence: str
    event: OrderEvent
    entry: dict[str, Any]


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """Publish a batch of stream records; the answer names the first one that Lambda must deliver again.

    For a stream, Lambda continues at the lowest sequence number reported (`ReportBatchItemFailures`). A redrive sends
    `{"Records": […], "redrive": true}`. Its records are in the failure inbox already, so the answer lists those that
    still can't be read as `unreadable`, and they are not sent to the inbox again.
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
    """The event for a record, if it needs one. Raises one of many errors for a record that can't be read."""
    if not changes_version(record):
        return None
    order_event = event_of(decode_order(record["dynamodb"]["NewImage"]))
    return _Outgoing(sequence_number(record), order_event, bus_entry(order_event, _bus))


def _what_is_wrong(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _park(record: dict[str, Any], error: Exception) -> bool:
    """Send an unreadable record to the failure inbox, so that the record doesn't block its shard."""
    text = msgspec.json.encode(record, enc_hook=str).decode()
    logger.error("stream record can't be read", exc_info=error, extra=identify(text))
    metrics.add_metric("RecordsParked", "Count", 1)
    message = UnreadableStreamRecord(_what_is_wrong(error), msgspec.Raw(text.encode()))
    try:
        _sqs.send_message(QueueUrl=_failures_queue, MessageBody=msgspec.json.encode(message).decode())
    except Exception:
        logger.exception("the record couldn't be sent to the failure inbox; Lambda will deliver it again")
        return False
    return True


def _publish(outgoing: list[_Outgoing]) -> list[str]:
    """Put events on the bus; returns the sequence numbers of those that EventBridge refused."""
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
    """One PutEvents call; returns the events to retry, since the call can fail in part without raising."""
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
