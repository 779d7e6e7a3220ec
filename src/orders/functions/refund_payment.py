"""RefundPayment: refund an order's charge, or make sure that the order will never be charged.

The workflow calls this function to undo an order. The event OrderCancelled does so, too: a customer may cancel during
a charge, or after the workflow has ended.
"""

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from orders.domain.events import decode_bus_event
from orders.payments import payment_provider
from orders.runtime.aws import client
from orders.runtime.telemetry import logger, metrics, tracer
from orders.storage.orders import OrdersTable

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

_dynamodb = client("dynamodb")
_orders = OrdersTable(_dynamodb)
_provider = payment_provider(_dynamodb)


class RefundRequest(Struct, rename="camel"):
    """The input from the workflow."""

    customer_id: str
    order_id: str
    correlation_id: str


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """Return `{"payment": "REFUNDED" | "VOIDED"}`; a second run changes nothing. Raises `PaymentProviderError`."""
    request = _request_of(event)
    logger.set_correlation_id(request.correlation_id)
    logger.append_keys(order_id=request.order_id)
    outcome = _provider.refund(request.order_id)
    if outcome == "REFUNDED":
        metrics.add_metric("PaymentRefunded", "Count", 1)
        _orders.note(request.customer_id, request.order_id, "PaymentRefunded", "the full amount", once=True)
    logger.info("payment settled", extra={"outcome": outcome})
    return {"payment": outcome}


def _request_of(event: dict[str, Any]) -> RefundRequest:
    if "detail-type" not in event:
        return msgspec.convert(event, RefundRequest)
    order_event = decode_bus_event(event).detail
    return RefundRequest(order_event.data.customer_id, order_event.data.order_id, order_event.metadata.correlation_id)
