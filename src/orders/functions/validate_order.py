"""ValidateOrder: read the order, price it from the catalogue, and decide the workflow's path."""

from typing import TYPE_CHECKING, Any

import msgspec

from orders.domain.errors import Unreadable, ValidationError
from orders.domain.order import Status
from orders.domain.pricing import price_lines, total_of
from orders.runtime.aws import client
from orders.runtime.telemetry import logger, tracer
from orders.storage.catalogue import find_products
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
    """See `handler`.

    `reserveFrom` is the status that ReserveInventory demands: PLACED if there is something to reserve, otherwise a
    status that no order has, so that the workflow continues at the order's present status. A given-up order is
    undone, whatever started this workflow.
    """
    request = msgspec.convert(event, WorkflowInput)
    logger.append_keys(order_id=request.data.order_id)
    order = _orders.get(request.data.customer_id, request.data.order_id, consistent=True)
    if order is None:
        raise LookupError(f"order {request.data.order_id} of customer {request.data.customer_id} is not in the table")
    lines = order.lines
    path = "undo" if order.given_up else request.path
    reserving = order.status == Status.PLACED and path != "undo"
    if reserving:
        lines = price_lines(order, find_products(_dynamodb, {line.sku for line in order.lines}))
        if total_of(lines) == 0:
            raise ValidationError("the order has no price")
    return {
        "customerId": order.customer_id,
        "orderId": order.order_id,
        "correlationId": order.correlation_id,
        "path": path,
        "status": order.status,
        "reserveFrom": Status.PLACED if reserving else "-",
        "currency": order.currency,
        **({"givenUp": msgspec.to_builtins(order.given_up)} if order.given_up else {}),
        # An order that was given up before it was priced has no prices, but the workflow needs numbers.
        "lines": [{"sku": line.sku, "quantity": line.quantity, "unitPrice": line.unit_price or 0} for line in lines],
        "total": total_of(lines),
        "paymentMethod": order.payment_method,
        "shippingAddress": msgspec.to_builtins(order.shipping_address),
    }
