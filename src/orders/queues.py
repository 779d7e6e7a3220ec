"""What the consumers of SQS queues share: one processor that logs, and a back-off for what failed."""

from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType

from orders.telemetry import logger

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.batch.base import FailureResponse
    from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
    from types_boto3_sqs import SQSClient

MAX_BACKOFF_S = 300


class QueueProcessor(BatchProcessor):
    """Powertools' batch processor for SQS; a failed record is logged and reported, never raised for the batch."""

    def __init__(self) -> None:
        super().__init__(EventType.SQS, raise_on_entire_batch_failure=False)

    def failure_handler(self, record: Any, exception: Any) -> "FailureResponse":
        """Log why a record failed; Powertools itself keeps it to DEBUG."""
        logger.error("message failed", exc_info=exception[1], extra={"message_id": record.message_id})
        return super().failure_handler(record, exception)


def back_off(sqs: "SQSClient", queue_url: str, event: dict[str, Any], answer: "PartialItemFailureResponse") -> None:
    """Let each failed message of a batch come again after 2, 4, 8 … seconds by its receive count.

    Otherwise it would wait for the queue's whole visibility timeout. Failing to set it does no harm.
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
