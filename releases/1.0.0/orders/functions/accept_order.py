"""POST /orders: check the request, store the order in one conditional write, answer 202.

The hot path: one AWS call, no router, and only imports that every request needs.
"""

import base64
import hashlib
import re
from typing import TYPE_CHECKING, Any

import msgspec

from orders.api import problems
from orders.api.problems import Problem
from orders.domain.order import Order, Status, order_id_for, place
from orders.domain.request import OrderRequest
from orders.runtime.aws import client
from orders.runtime.snapstart import aws_left_out, before_snapshot
from orders.runtime.telemetry import logger, metrics, tracer
from orders.storage.orders import OrdersTable

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

MAX_BODY = 64 * 1024
_KEY = re.compile(r"[\x21-\x7e]{1,255}\Z")
_CORRELATION_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}\Z")

_decoder = msgspec.json.Decoder(OrderRequest)
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
        metrics.add_metric("OrderRefused", "Count", 1)
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
    if key is not None and not _KEY.match(key):
        raise Problem(400, "Idempotency-Key must be 1 to 255 visible ASCII characters")
    request = _read(event, headers)
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


def _read(event: dict[str, Any], headers: dict[str, str]) -> OrderRequest:
    media_type = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise Problem(415, "send the order as application/json")
    text: str = event.get("body") or ""
    body = text.encode(errors="surrogatepass")
    if event.get("isBase64Encoded"):
        body = base64.b64decode(body)
    if len(body) > MAX_BODY:
        raise Problem(413, f"the body has {len(body)} bytes; at most {MAX_BODY} are taken")
    try:
        try:
            return _decoder.decode(body)
        except msgspec.ValidationError:
            return _read_again(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Problem(400, "the body is not valid JSON") from None


def _read_again(body: bytes) -> OrderRequest:
    """The order in a body that the decoder refused for a whole number written as 2.0; else a `Problem`.

    Raises `msgspec.DecodeError` where the body turns out to be no JSON further on.
    """
    try:
        value = msgspec.json.decode(body)
    except msgspec.ValidationError:
        errors = [{"pointer": "", "rule": "range", "detail": "a number in the body is too large to be read"}]
    else:
        _make_quantities_whole(value)
        errors = list(problems.find_errors(value, OrderRequest))
        if not errors:
            return msgspec.convert(value, OrderRequest)
    raise Problem(422, "the order has fields that can't be accepted", errors) from None


def _make_quantities_whole(value: Any) -> None:
    """JSON Schema's integers are all numbers without a fraction, so 2.0 is one; msgspec's aren't."""
    lines = value.get("lines") if isinstance(value, dict) else None
    for line in lines if isinstance(lines, list) else ():
        quantity = line.get("quantity") if isinstance(line, dict) else None
        if isinstance(quantity, float) and quantity.is_integer():
            line["quantity"] = int(quantity)


def _accepted(order: Order, context: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
    location = f"{context['path']}/{order.order_id}"
    return problems.response(
        202,
        {
            "orderId": order.order_id,
            # A replay gets the answer that the first request got, wherever the order is by now.
            "status": Status.PLACED,
            "links": {"self": location, "cancel": f"{location}/cancel"},
        },
        {"Location": location, "X-Correlation-Id": order.correlation_id, **headers},
    )


@before_snapshot
def _prime() -> None:
    """Accept an order of nobody without storing it: what the SDK makes at first use is then in the snapshot."""
    address = b'{"name":"-","line1":"-","city":"-","postalCode":"-","country":"DE"}'
    body = b'{"currency":"EUR","lines":[{"sku":"0","quantity":1}],"shippingAddress":%s,"paymentMethod":"tok_visa"}'
    request = _decoder.decode(body % address)
    order_id = order_id_for("-", None)
    with aws_left_out(_dynamodb):
        _orders.put_new(
            place(request, customer_id="-", email=None, order_id=order_id, correlation_id="-", request_hash="-")
        )
