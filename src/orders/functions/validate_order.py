"""ValidateOrder: read the order; if it is PLACED, price it and choose the stock that it takes."""

from typing import TYPE_CHECKING, Any

import msgspec

from orders.domain.errors import Busy, OutOfStock, TooManyStockItems, Unreadable, ValidationError
from orders.domain.order import CAN_FAIL, TERMINAL, Order, PricedLine, Status
from orders.domain.pricing import price_lines, total_of
from orders.domain.stock import MAX_STOCK_ITEMS, choose, held_by, may_suffice, stock_key, with_stock
from orders.runtime.aws import client
from orders.runtime.telemetry import logger, tracer
from orders.storage.catalogue import find_products, find_stock
from orders.storage.dynamodb import to_attribute
from orders.storage.orders import OrdersTable
from orders.workflow import WorkflowInput

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

_dynamodb = client("dynamodb")
_orders = OrdersTable(_dynamodb)


class Request(WorkflowInput):
    """The input. `again` says that a reservation was refused, so that stale figures won't do."""

    again: bool = False


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(correlation_id_path="metadata.correlationId", clear_state=True)
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """The order as the following states need it.

    Raises `ValidationError`, `OutOfStock` or `TooManyStockItems` if the order can't be carried out, `Busy` while
    its stock is being moved between shards, and `LookupError` if there is no such order. msgspec has a
    `ValidationError`, too, which the workflow would take for the customer's mistake: it becomes `Unreadable`.
    """
    try:
        return _validate(event)
    except msgspec.ValidationError as error:
        raise Unreadable(str(error)) from error


def _validate(event: dict[str, Any]) -> dict[str, Any]:
    """See `handler`."""
    request = msgspec.convert(event, Request)
    logger.append_keys(order_id=request.data.order_id)
    order = _orders.get(request.data.customer_id, request.data.order_id, consistent=True)
    if order is None:
        raise LookupError(f"order {request.data.order_id} of customer {request.data.customer_id} is not in the table")
    if not event.get("again"):
        # This line alone tells which order an execution is for: the workflow's own log names no order.
        logger.info("order taken up", extra={"status": order.status, "execution": event.get("execution", "")})
    if order.given_up and order.status in CAN_FAIL:
        order = _orders.start_failing(order.customer_id, order.order_id, order.given_up)
    lines = _priced(order, consistent=request.again) if order.status is Status.PLACED else order.lines
    held = [] if order.status in TERMINAL else [(line.sku, taken) for line in lines for taken in held_by(line)]
    return {
        "customerId": order.customer_id,
        "orderId": order.order_id,
        "correlationId": order.correlation_id,
        "status": order.status,
        "currency": order.currency,
        "lines": msgspec.to_builtins(lines),
        "storedLines": [to_attribute(line) for line in msgspec.to_builtins(lines)],
        "stock": [{"key": stock_key(sku, taken.shard), "quantity": taken.quantity} for sku, taken in held],
        "total": total_of(lines),
        "paymentMethod": order.payment_method,
        "shippingAddress": msgspec.to_builtins(order.shipping_address),
        **({"reason": msgspec.to_builtins(order.reason)} if order.reason else {}),
    }


def _priced(order: Order, *, consistent: bool) -> list[PricedLine]:
    """The lines of a PLACED order with their prices and the stock to take.

    Figures that aren't `consistent` never refuse an order: where they would, they are read again.
    """
    products = find_products(_dynamodb, {line.sku for line in order.lines}, consistent=consistent)
    lines = price_lines(order, products)
    if total_of(lines) == 0:
        raise ValidationError("the order has no price")
    stock = find_stock(_dynamodb, products.values(), consistent=consistent)
    chosen = {line.sku: choose(line.quantity, stock[line.sku]) for line in lines}
    missing = [line for line in lines if not chosen[line.sku]]
    too_many = sum(map(len, chosen.values())) > MAX_STOCK_ITEMS
    if not consistent and (missing or too_many):
        return _priced(order, consistent=True)
    if sold_out := [line.sku for line in missing if not may_suffice(line.quantity, stock[line.sku])]:
        raise OutOfStock(f"there are not enough of: {', '.join(sorted(sold_out))}")
    if missing:
        raise Busy(f"pieces are being moved between shards of: {', '.join(sorted(line.sku for line in missing))}")
    if too_many:
        raise TooManyStockItems("too many places of the stock for one order: order less at a time")
    return [with_stock(line, chosen[line.sku]) for line in lines]
