"""Messages that services send to queues."""

from typing import Any

from ministack.core.responses import get_account_id, get_region, request_scope
from ministack.services import sqs

from localcloud.patching import internal


class QueueNotFoundError(LookupError):
    """No queue has this ARN."""


def string_attribute(value: str) -> dict[str, str]:
    """Return a message attribute of type String."""
    return {"DataType": "String", "StringValue": value}


def number_attribute(value: int) -> dict[str, str]:
    """Return a message attribute of type Number."""
    return {"DataType": "Number", "StringValue": str(value)}


def send(queue_arn: str, body: str, attributes: dict[str, Any] | None = None, **parameters: str) -> None:
    """Put a message on a queue as SendMessage does, in the queue's own account.

    `parameters` are MessageGroupId and MessageDeduplicationId. Raises QueueNotFoundError.
    """
    queue = internal(sqs, "_queue_by_arn")(queue_arn)
    if queue is None:
        raise QueueNotFoundError(queue_arn)
    _, _, _, region, account, name = queue_arn.split(":")
    message = {"MessageBody": body, "MessageAttributes": attributes or {}, **parameters}
    with request_scope(account or get_account_id(), region or get_region()):
        internal(sqs, "_act_send_message")(message, internal(sqs, "_queue_url")(name))
