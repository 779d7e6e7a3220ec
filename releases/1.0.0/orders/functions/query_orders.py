"""Reads, cancellation and the open endpoints of the REST API."""

import random
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
from aws_lambda_powertools.event_handler import APIGatewayRestResolver, Response
from aws_lambda_powertools.event_handler.exceptions import NotFoundError

from orders.api import openapi
from orders.api.paging import decode_cursor, encode_cursor, page_limit
from orders.api.problems import PROBLEM_JSON, Problem
from orders.api.validation import check_order_id
from orders.domain.customer_view import view_of
from orders.domain.errors import Busy, IllegalTransition
from orders.domain.order import TRANSITIONS, Order, Status
from orders.runtime.aws import client
from orders.runtime.telemetry import logger, metrics, tracer
from orders.storage.orders import OrdersTable

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

CANCEL_ATTEMPTS = 6
_orders = OrdersTable(client("dynamodb"))
app = APIGatewayRestResolver()


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(correlation_id_path="requestContext.requestId", clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """Answer API Gateway's proxy event."""
    return app.resolve(event, context)


@app.exception_handler(Problem)  # type: ignore[untyped-decorator]
def refuse(problem: Problem) -> Response[str]:
    """The problem document for a refused request."""
    return _json(problem.body(), problem.status, PROBLEM_JSON)


@app.not_found
def not_found(_: NotFoundError) -> Response[str]:
    """The problem document for an unknown path."""
    return _json(Problem(404, "there is nothing at this path").body(), 404, PROBLEM_JSON)


@app.get("/orders/<order_id>")
def get_order(order_id: str) -> Response[str]:
    """One order of the customer. The table's key hides the orders of others."""
    return _json(view_of(_order(order_id)))


@app.get("/orders")
def list_orders() -> Response[str]:
    """A page of the customer's orders, newest first."""
    event = app.current_event
    limit = page_limit(event.get_query_string_value("limit", "20"))
    cursor = event.get_query_string_value("cursor")
    found = _orders.list_newest_first(_customer(), limit, decode_cursor(cursor) if cursor is not None else None)
    if found.unreadable:
        metrics.add_metric("OrdersUnreadable", "Count", len(found.unreadable))
        logger.error("orders left out of a list: they can't be read", extra={"order_ids": found.unreadable})
    page: dict[str, Any] = {"orders": [view_of(order) for order in found.orders]}
    if found.following is not None:
        page["nextCursor"] = encode_cursor(found.following)
    return _json(page)


@app.post("/orders/<order_id>/cancel")
def cancel_order(order_id: str) -> Response[str]:
    """Cancel an order that isn't paid yet; a second call changes nothing."""
    for attempt in range(CANCEL_ATTEMPTS):
        if attempt:
            time.sleep(random.uniform(0, 0.025 * 2**attempt))
        order = _order(order_id, consistent=True)
        if order.status is Status.CANCELLED:
            break
        if Status.CANCELLED not in TRANSITIONS.get(order.status, ()):
            raise Problem(409, f"the order is {order.status}: it is too late to cancel it")
        try:
            _orders.cancel(order)
        except (IllegalTransition, Busy):
            continue  # the workflow changes the order at this moment: read the order again
        metrics.add_metric("OrderCancelled", "Count", 1)
        logger.info("order cancelled")
        break
    else:
        raise Problem(409, "the order is changing at this moment: try again")
    return _json({"orderId": order_id, "status": Status.CANCELLED}, HTTPStatus.ACCEPTED)


@app.get("/openapi.json")
def get_openapi() -> Response[str]:
    """The API's description (OpenAPI 3.1)."""
    return _json(openapi.document(app.current_event.request_context.stage or ""))


@app.get("/health")
def get_health() -> Response[str]:
    """Answer that the API works."""
    return _json({"status": "ok"})


def _customer() -> str:
    customer: str = app.current_event["requestContext"]["authorizer"]["claims"]["sub"]
    return customer


def _order(order_id: str, *, consistent: bool = False) -> Order:
    check_order_id(order_id)
    logger.append_keys(order_id=order_id)
    customer = _customer()
    order = _orders.get(customer, order_id, consistent=consistent)
    if order is None and not consistent:
        # The customer may have placed the order a moment ago.
        order = _orders.get(customer, order_id, consistent=True)
    if order is None:
        raise Problem(404, "you have no such order")
    return order


def _json(body: Any, status: int = 200, content_type: str = "application/json") -> Response[str]:
    return Response(status, content_type, msgspec.json.encode(body).decode())
