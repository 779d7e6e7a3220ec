"""ValidateOrder: read the order, price it from the catalogue, and decide the workflow's path."""

from typing import TYPE_CHECKING, Any

import msgspec

from orders.domain.errors import Unreadable, ValidationError
from orders.domain.order import CAN_FAIL, Status
from orders.domain.pricing import price_lines, total_of
from orders.domain.stock import held_by, stock_key
from orders.runtime.aws import client
from orders.runtime.telemetry import logger, tracer
from orders.storage.catalogue import find_products
from orders.storage.dynamodb import to_attribute
from orders.storage.orders import OrdersTable
from orders.workflow import WorkflowInput

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

_dynamodb = client("dynamodb")
_orders = OrdersTable(_dynamodb)


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(correlation_id_path="metadata.correlationId", clear_state=True)
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """The order as the following states need it.

    Raises `ValidationError` if the order can't be carried out. msgspec has an error of the same name, which the
    workflow would take for the customer's mistake: it becomes `Unreadable`.
    """
    try:
        return _validate(event)
    except msgspec.ValidationError as error:
        raise Unreadable(str(error)) from error


def _validate(event: dict[str, Any]) -> dict[str, Any]:
    """See `handler`."""
    request = msgspec.convert(event, WorkflowInput)
    logger.append_keys(order_id=request.data.order_id)
    order = _orders.get(request.data.customer_id, request.data.order_id, consistent=True)
    if order is None:
        raise LookupError(f"order {request.data.order_id} of customer {request.data.customer_id} is not in the table")
    if not event.get("again"):
        # This line alone tells which order an execution is for: the workflow's own log names no order.
        logger.info("order taken up", extra={"status": order.status, "execution": event.get("execution", "")})
    if order.given_up and order.status in CAN_FAIL:
        order = _orders.start_failing(order.customer_id, order.order_id, order.given_up)
    lines = order.lines
    if order.status is Status.PLACED:
        lines = price_lines(order, find_products(_dynamodb, {line.sku for line in order.lines}))
        if total_of(lines) == 0:
            raise ValidationError("the order has no price")
    stock = [
        {"key": stock_key(line.sku, taken.shard), "quantity": taken.quantity}
        for line in lines
        for taken in held_by(line)
    ]
    return {
        "customerId": order.customer_id,
        "orderId": order.order_id,
        "correlationId": order.correlation_id,
        "status": order.status,
        "currency": order.currency,
        "lines": msgspec.to_builtins(lines),
        "storedLines": [to_attribute(line) for line in msgspec.to_builtins(lines)],
        "stock": stock,
        "total": total_of(lines),
        "paymentMethod": order.payment_method,
        "shippingAddress": msgspec.to_builtins(order.shipping_address),
        **({"reason": msgspec.to_builtins(order.reason)} if order.reason else {}),
    }
