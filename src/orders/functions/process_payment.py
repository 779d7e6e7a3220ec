"""ProcessPayment: charge the order, once, and mark it PAID."""

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from orders.domain.errors import PaymentProviderError
from orders.payments import payment_provider
from orders.runtime.aws import client
from orders.runtime.telemetry import logger, metrics, tracer
from orders.storage.orders import OrdersTable

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

_dynamodb = client("dynamodb")
_orders = OrdersTable(_dynamodb)
_provider = payment_provider(_dynamodb)


class PaymentRequest(Struct, rename="camel"):
    """The input from the workflow: `total` in minor units, `attempt` from 0."""

    customer_id: str
    order_id: str
    correlation_id: str
    total: int
    currency: str
    payment_method: str
    attempt: int


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(correlation_id_path="correlationId", clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """Return the payment's id. The order's id is the idempotency key, so any number of attempts charge once.

    Raises `PaymentDeclined`, `OrderCancelled`, `OrderFailing`, and `PaymentProviderError`, which the order's timeline
    notes and the workflow retries.
    """
    request = msgspec.convert(event, PaymentRequest)
    logger.append_keys(order_id=request.order_id, attempt=request.attempt)
    try:
        payment_id = _provider.charge(request.order_id, request.total, request.currency, request.payment_method)
    except PaymentProviderError as error:
        metrics.add_metric("PaymentAttemptFailed", "Count", 1)
        detail = f"attempt {request.attempt + 1}: {error}"
        _orders.note(request.customer_id, request.order_id, "PaymentAttemptFailed", detail)
        raise
    _orders.mark_paid(request.customer_id, request.order_id, payment_id)
    metrics.add_metric("OrderPaid", "Count", 1)
    logger.info("order paid", extra={"payment_id": payment_id})
    return {"paymentId": payment_id}
