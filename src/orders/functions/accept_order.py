"""POST /orders: check the request, store the order in one conditional write, answer 202.

The hot path: one AWS call, no router, and only imports that every request needs.
"""

import hashlib
import re
from typing import TYPE_CHECKING, Any

import msgspec

from orders.api import problems
from orders.api.problems import Problem
from orders.api.validation import check_idempotency_key, read_order
from orders.domain.order import Order, Status, order_id_for, place
from orders.runtime.aws import client
from orders.runtime.snapstart import aws_left_out, before_snapshot
from orders.runtime.telemetry import logger, metrics, tracer
from orders.storage.orders import OrdersTable

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

_CORRELATION_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}\Z")

_dynamodb = client("dynamodb", checked=False)
_orders = OrdersTable(_dynamodb)


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """Answer API Gateway's proxy event: 202 with the order's id and links, or a problem document."""
    try:
        return _accept(event)
    except Problem as problem:
        metrics.add_metric("RequestRefused", "Count", 1)
        logger.info("order refused", extra={"status": problem.status, "errors": problem.loggable_errors()})
        return problem.response()


def _accept(event: dict[str, Any]) -> dict[str, Any]:
    headers = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
    context = event["requestContext"]
    correlation_id = headers.get("x-correlation-id", "")
    if not _CORRELATION_ID.match(correlation_id):
        correlation_id = context["requestId"]
    logger.set_correlation_id(correlation_id)

    key = headers.get("idempotency-key")
    check_idempotency_key(key)
    base64_encoded = bool(event.get("isBase64Encoded"))
    request = read_order(event.get("body"), headers.get("content-type"), base64_encoded=base64_encoded)
    claims = context["authorizer"]["claims"]
    order = place(
        request,
        customer_id=claims["sub"],
        email=claims.get("email"),
        order_id=order_id_for(claims["sub"], key),
        correlation_id=correlation_id,
        request_hash=hashlib.sha256(msgspec.json.encode(request, order="deterministic")).hexdigest(),
    )
    logger.append_keys(order_id=order.order_id)
    earlier = _orders.put_new(order)
    if earlier is None:
        metrics.add_metric("OrderAccepted", "Count", 1)
        logger.info("order accepted", extra={"lines": len(order.lines)})
        return _accepted(order, context, {})
    if earlier.request_hash != order.request_hash:
        raise Problem(422, "this Idempotency-Key was used before with another request")
    metrics.add_metric("OrderReplayed", "Count", 1)
    return _accepted(earlier, context, {"Idempotency-Replayed": "true"})


def _accepted(order: Order, context: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
    location = f"{context['path']}/{order.order_id}"
    return problems.response(
        202,
        {
            "orderId": order.order_id,
            # A replay gets the first request's answer, whatever the order's present status.
            "status": Status.PLACED,
            "links": {"self": location, "cancel": f"{location}/cancel"},
        },
        {"Location": location, "X-Correlation-Id": order.correlation_id, **headers},
    )


@before_snapshot
def _prime() -> None:
    """Accept an order without storing it: the snapshot then holds what the SDK makes at its first call."""
    address = b'{"name":"-","line1":"-","city":"-","postalCode":"-","country":"DE"}'
    body = b'{"currency":"EUR","lines":[{"sku":"0","quantity":1}],"shippingAddress":%s,"paymentMethod":"tok_visa"}'
    request = read_order((body % address).decode(), None)
    order_id = order_id_for("-", None)
    with aws_left_out(_dynamodb):
        _orders.put_new(
            place(request, customer_id="-", email=None, order_id=order_id, correlation_id="-", request_hash="-")
        )
