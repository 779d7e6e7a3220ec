"""Capture every message on the failures queue as a record of the failure inbox.

A message that can't be captured stays on the queue, and an alarm watches the queue.
"""

import os
from typing import TYPE_CHECKING, Any

import msgspec
from aws_lambda_powertools.utilities.batch import process_partial_response
from botocore.exceptions import ParamValidationError

from orders.inbox.parse import POINTER_NOTE, read_message, stream_record
from orders.inbox.record import Failure, Kind
from orders.inbox.store import FailuresTable
from orders.runtime.aws import client
from orders.runtime.queues import QueueProcessor, back_off
from orders.runtime.telemetry import logger, metrics, tracer
from orders.storage.stream import changes_version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
    from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
    from aws_lambda_powertools.utilities.typing import LambdaContext

# A stream also returns empty pages. A batch has at most 100 records (template.yaml), so few pages hold them.
MAX_PAGES = 20

_sqs = client("sqs")
_streams = client("dynamodbstreams")
_failures = FailuresTable(client("dynamodb"), client("s3"))
_queue_url = os.environ["FAILURES_QUEUE_URL"]
_processor = QueueProcessor()


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: "LambdaContext") -> "PartialItemFailureResponse":
    """Capture a batch; the answer names the messages that SQS must deliver again."""
    answer = process_partial_response(event, capture, _processor, context)
    back_off(_sqs, _queue_url, event, answer)
    return answer


def capture(record: "SQSRecord") -> None:
    """Record the failures that one message reports. Raises botocore's errors: the message then stays on the queue."""
    for failure in _completed(read_message(record.raw_event)):
        known = _failures.add(failure, record.message_id)
        metrics.add_metric("FailureCaptured", "Count", 1)
        logger.warning(
            "failure captured",
            extra={
                "failure_id": known.failure_id,
                "kind": known.kind,
                "component": known.component,
                "error": known.error_name,
                "count": known.count,
                "order_id": known.order_id,
                "correlation_id": known.correlation_id,
            },
        )


def _completed(failure: Failure) -> list[Failure]:
    """The failures that a message reports: one for each stream record that it points to, or itself."""
    if failure.kind is Kind.STREAM and "shardId" in failure.source:
        return _stream_records(failure)
    return [failure]


def _stream_records(pointer: Failure) -> list[Failure]:
    """One failure for each stream record that an on-failure message points to; the pointer if they are gone."""
    try:
        records = list(_fetch(pointer.resource_arn, pointer.source))
    except (
        _streams.exceptions.TrimmedDataAccessException,
        _streams.exceptions.ResourceNotFoundException,
        ParamValidationError,  # Lambda does not write such a pointer: a retry won't help
        ValueError,
    ):
        records = []
    found = [
        stream_record(
            msgspec.json.encode(record, enc_hook=str).decode(),
            pointer.error_name,
            pointer.error_message,
            occurrence=pointer.occurrence,
            attempts=pointer.attempts,
        )
        for record in records
        if changes_version(record)
    ]
    return found or [msgspec.structs.replace(pointer, note=POINTER_NOTE)]


def _fetch(stream_arn: str, pointer: dict[str, str]) -> "Iterator[dict[str, Any]]":
    """The records from the pointer's first to its last, in the form that a function gets."""
    iterator: str | None = _streams.get_shard_iterator(
        StreamArn=stream_arn,
        ShardId=pointer["shardId"],
        ShardIteratorType="AT_SEQUENCE_NUMBER",
        SequenceNumber=pointer["startSequenceNumber"],
    )["ShardIterator"]
    last = int(pointer["endSequenceNumber"])
    for _ in range(MAX_PAGES):
        if iterator is None:
            return
        page = _streams.get_records(ShardIterator=iterator)
        for record in page["Records"]:
            change: dict[str, Any] = dict(record["dynamodb"])
            if int(change["SequenceNumber"]) > last:
                return
            change["ApproximateCreationDateTime"] = int(change["ApproximateCreationDateTime"].timestamp())
            yield {**record, "dynamodb": change, "eventSourceARN": stream_arn}
            if int(change["SequenceNumber"]) == last:
                return
        iterator = page.get("NextShardIterator")
