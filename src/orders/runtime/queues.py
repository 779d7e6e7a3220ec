"""How consumers of SQS queues log, back off and give up."""

import os
import traceback
from typing import TYPE_CHECKING, Any

import msgspec
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType

from orders.inbox.messages import PoisonMessage
from orders.runtime.telemetry import logger

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.batch.base import FailureResponse, SuccessResponse
    from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
    from types_boto3_sqs import SQSClient

MAX_BACKOFF_S = 300
# The queues' maxReceiveCount (template.yaml).
MAX_RECEIVES = 5
# The log keys that consumers add for one record.
RECORD_KEYS = ("correlation_id", "order_id")


class QueueProcessor(BatchProcessor):
    """Powertools' batch processor for SQS; a failed record is logged and reported, never raised for the batch.

    With a client, a message that fails at its last receive goes to the failure inbox together with its error. SQS's
    own redrive policy moves a message without the error; it remains for consumers that are killed.
    """

    def __init__(self, sqs: "SQSClient | None" = None) -> None:
        super().__init__(EventType.SQS, raise_on_entire_batch_failure=False)
        self._sqs = sqs

    def success_handler(self, record: Any, result: Any) -> "SuccessResponse":
        """Drop the record's log keys, so that the next record's log lines don't have them."""
        logger.remove_keys(RECORD_KEYS)
        return super().success_handler(record, result)

    def failure_handler(self, record: Any, exception: Any) -> "FailureResponse":
        """Log the error of a failed record; Powertools itself logs it at DEBUG only."""
        logger.error("message failed", exc_info=exception[1], extra={"message_id": record.message_id})
        if self._sqs and int(record.raw_event["attributes"]["ApproximateReceiveCount"]) >= MAX_RECEIVES:
            try:
                self._sqs.send_message(
                    QueueUrl=os.environ["FAILURES_QUEUE_URL"], MessageBody=_report(record.raw_event, exception[1])
                )
            except Exception:
                logger.exception("the message couldn't be handed to the failure inbox; SQS will move it")
            else:
                return self.success_handler(record.raw_event, None)
        logger.remove_keys(RECORD_KEYS)
        return super().failure_handler(record, exception)


def _report(record: dict[str, Any], error: BaseException) -> str:
    """The message, with the reason why it failed, for the failure inbox."""
    report = PoisonMessage(
        error=f"{type(error).__name__}: {error}",
        queue_arn=record["eventSourceARN"],
        message_id=record["messageId"],
        receives=int(record["attributes"]["ApproximateReceiveCount"]),
        body=record["body"],
        stack_trace=traceback.format_tb(error.__traceback__),
    )
    return msgspec.json.encode(report).decode()


def back_off(sqs: "SQSClient", queue_url: str, event: dict[str, Any], answer: "PartialItemFailureResponse") -> None:
    """Let SQS deliver each failed message of a batch again after 2, 4, 8 … seconds, by its receive count.

    Otherwise the message waits for the queue's whole visibility timeout. If the call fails, it waits that long.
    """
    failed = {failure["itemIdentifier"] for failure in answer["batchItemFailures"]}
    for record in event["Records"]:
        if record["messageId"] in failed:
            receives = int(record["attributes"]["ApproximateReceiveCount"])
            try:
                sqs.change_message_visibility(
                    QueueUrl=queue_url,
                    ReceiptHandle=record["receiptHandle"],
                    VisibilityTimeout=min(2**receives, MAX_BACKOFF_S),
                )
            except Exception:
                logger.warning("visibility timeout not changed", exc_info=True)
