"""Mail the customer about an order's steps, each mail once."""

import os
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.utilities.batch import process_partial_response
from aws_lambda_powertools.utilities.idempotency import (
    DynamoDBPersistenceLayer,
    IdempotencyConfig,
    idempotent_function,
)

from orders.domain.events import decode_bus_event
from orders.mail import mailer
from orders.mail.texts import mail_about
from orders.runtime.aws import client
from orders.runtime.queues import QueueProcessor, back_off
from orders.runtime.telemetry import logger, metrics, tracer

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
    from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
    from aws_lambda_powertools.utilities.typing import LambdaContext

_sqs = client("sqs")
_queue_url = os.environ["NOTIFICATIONS_QUEUE_URL"]
_mailer = mailer()
_processor = QueueProcessor(_sqs)
# The mail service has no idempotency key, so this function stores the event ids. It keeps them longer than the
# archive keeps events (30 days) and a queue its messages (14 days): no replay or redrive sends a mail twice.
_persistence = DynamoDBPersistenceLayer(table_name=os.environ["IDEMPOTENCY_TABLE"], boto3_client=client("dynamodb"))
_idempotency = IdempotencyConfig(event_key_jmespath="eventId", expires_after_seconds=45 * 24 * 3600)


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: "LambdaContext") -> "PartialItemFailureResponse":
    """Send a batch of mails; the answer names the messages that SQS must deliver again."""
    _idempotency.register_lambda_context(context)
    answer = process_partial_response(event, notify, _processor, context)
    back_off(_sqs, _queue_url, event, answer)
    return answer


def notify(record: "SQSRecord") -> None:
    """Send the mail of one message. Raises `MailRefused`; `ValueError` if the message isn't an order event."""
    event = decode_bus_event(record.body).detail
    logger.set_correlation_id(event.metadata.correlation_id)
    logger.append_keys(order_id=event.data.order_id)
    if mail := mail_about(event.data):
        send_mail(message={"eventId": event.metadata.event_id, "mail": mail})


@idempotent_function(  # type: ignore[untyped-decorator]
    data_keyword_argument="message", persistence_store=_persistence, config=_idempotency
)
def send_mail(*, message: dict[str, Any]) -> None:
    """Send the mail of one event, once for its event id."""
    _mailer.send(**message["mail"])
    metrics.add_metric("MailSent", "Count", 1)
