"""Write the receipt of a fulfilled order to the receipts bucket."""

import os
from typing import TYPE_CHECKING, Any

import msgspec

from orders.domain.events import decode_bus_event
from orders.domain.order import Status
from orders.payments import payment_provider
from orders.runtime.aws import client
from orders.runtime.telemetry import logger, metrics, tracer

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

_s3 = client("s3")
_bucket = os.environ["RECEIPTS_BUCKET"]
_provider = payment_provider(client("dynamodb"))


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(correlation_id_path="detail.metadata.correlationId", clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """Return `{"receipt": key}`. The key comes from the order, so a second run writes the same object again.

    Raises `PaymentProviderError`, and `ValueError` for anything but an OrderFulfilled event. Lambda retries, and then
    sends the event to the on-failure destination.
    """
    order_event = decode_bus_event(event).detail
    order = order_event.data
    logger.append_keys(order_id=order.order_id)
    if order.status is not Status.FULFILLED:
        raise ValueError(f"no receipt for an order that is {order.status}")
    receipt = {
        "orderId": order.order_id,
        "issuedFor": order_event.metadata.occurred_at,
        "currency": order.currency,
        "lines": msgspec.to_builtins(order.lines),
        "total": order.total,
        "paidBy": _provider.receipt_details(order.order_id),
    }
    key = f"receipts/{order.customer_id}/{order.order_id}.json"
    _s3.put_object(Bucket=_bucket, Key=key, Body=msgspec.json.encode(receipt), ContentType="application/json")
    metrics.add_metric("ReceiptIssued", "Count", 1)
    logger.info("receipt issued", extra={"key": key})
    return {"receipt": key}
