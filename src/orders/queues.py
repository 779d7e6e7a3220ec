"""What the consumers of SQS queues share."""

from typing import TYPE_CHECKING, Any

from orders.telemetry import logger

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
    from types_boto3_sqs import SQSClient

MAX_BACKOFF_S = 300


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
