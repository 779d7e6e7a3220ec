"""The REST API's description (OpenAPI 3.1), made from the types that the API reads and writes."""

import re
from typing import Any

import msgspec

from orders.api.paging import MAX_PAGE
from orders.api.problems import MAX_ERRORS
from orders.api.validation import MAX_QUOTED
from orders.domain.customer_view import OrderView
from orders.domain.order import Status
from orders.domain.request import MAX_LINES, OrderRequest

_SCHEMAS = "#/components/schemas"
_ORDER = {"$ref": f"{_SCHEMAS}/Order"}
_TEXT = {"type": "string"}
_ORDER_ID = {"name": "orderId", "in": "path", "required": True, "schema": _TEXT}
_CURSOR = {"name": "cursor", "in": "query", "schema": _TEXT, "description": "nextCursor of a page"}
_LIMIT = {
    "name": "limit",
    "in": "query",
    "schema": {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 20},
}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    "description": "The same key with the same body places one order, however often it is sent.",
}
_REFUSALS = {
    400: "The request can't be read",
    401: "The token is missing, wrong or expired",
    404: "There is no such order of yours",
    409: "It is too late",
    413: "The body has more than 64 KiB",
    415: "The body is not application/json",
    422: "The content can't be accepted; the bad fields are listed",
    429: "Too many requests",
}
_PROBLEM = {
    "type": "object",
    "description": "RFC 9457",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": _TEXT,
        "title": _TEXT,
        "status": {"type": "integer"},
        "detail": _TEXT,
        "errors": {
            "type": "array",
            "maxItems": MAX_ERRORS,
            "description": "The bad fields of the body; `detail` says how many more there are",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {
                    "pointer": {
                        "type": "string",
                        "description": "JSON Pointer (RFC 6901) into the body; "
                        f"an unknown field's name is cut after {MAX_QUOTED} characters",
                    },
                    "detail": _TEXT,
                },
            },
        },
    },
}
_ACCEPTED = {
    "type": "object",
    "required": ["orderId", "status", "links"],
    "properties": {
        "orderId": _TEXT,
        "status": {"const": Status.PLACED},
        "links": {"type": "object", "required": ["self", "cancel"], "properties": {"self": _TEXT, "cancel": _TEXT}},
    },
}
_PAGE = {
    "type": "object",
    "required": ["orders"],
    "properties": {"orders": {"type": "array", "items": _ORDER}, "nextCursor": _TEXT},
}
_CANCELLED = {
    "type": "object",
    "required": ["orderId", "status"],
    "properties": {"orderId": _TEXT, "status": {"const": Status.CANCELLED}},
}


def document(stage: str) -> dict[str, Any]:
    """The description of the API as deployed at `/<stage>`."""
    _, components = msgspec.json.schema_components([OrderRequest, OrderView], ref_template=_SCHEMAS + "/{name}")
    components["Order"] = {**components.pop("OrderView"), "title": "Order"}
    components["Problem"] = _PROBLEM
    description = {
        "openapi": "3.1.0",
        "info": {
            "title": "Orders",
            "version": "1.0.0",
            "description": f"Place orders of 1 to {MAX_LINES} lines and follow them. Amounts are in minor units.",
        },
        "servers": [{"url": f"/{stage}"}],
        "security": [{"customerToken": []}],
        "paths": _paths(),
        "components": {
            "schemas": components,
            "securitySchemes": {
                "customerToken": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "The ID token that the user pool gave the customer",
                }
            },
        },
    }
    # JSON Schema's patterns are ECMAScript's, whose "$" is the end of the text, as Python's "\Z" is.
    text = re.sub(r"\\\\Z", "$", msgspec.json.encode(description).decode())
    decoded: dict[str, Any] = msgspec.json.decode(text)
    return decoded


def _paths() -> dict[str, Any]:
    request = {"$ref": f"{_SCHEMAS}/OrderRequest"}
    accepted = _answer(
        "The order is accepted; follow it at Location",
        _ACCEPTED,
        Location="The order's path",
        Idempotency_Replayed="true if this answer was given before",
    )
    return {
        "/orders": {
            "post": {
                "operationId": "placeOrder",
                "parameters": [_KEY],
                "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
                "responses": {"202": accepted, **_refusals(400, 401, 413, 415, 422, 429)},
            },
            "get": {
                "operationId": "listOrders",
                "parameters": [_LIMIT, _CURSOR],
                "responses": {"200": _answer("Your orders, newest first", _PAGE), **_refusals(400, 401, 429)},
            },
        },
        "/orders/{orderId}": {
            "get": {
                "operationId": "getOrder",
                "parameters": [_ORDER_ID],
                "responses": {"200": _answer("The order", _ORDER), **_refusals(401, 404, 429)},
            }
        },
        "/orders/{orderId}/cancel": {
            "post": {
                "operationId": "cancelOrder",
                "parameters": [_ORDER_ID],
                "responses": {
                    "202": _answer("The order is cancelled", _CANCELLED),
                    **_refusals(401, 404, 409, 429),
                },
            }
        },
        "/health": {"get": _open_to_all("getHealth", "The API answers")},
        "/openapi.json": {"get": _open_to_all("getOpenapi", "This description")},
    }


def _open_to_all(operation: str, description: str) -> dict[str, Any]:
    return {"operationId": operation, "security": [], "responses": {"200": _answer(description, {"type": "object"})}}


def _answer(description: str, schema: dict[str, Any], **headers: str) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": description, "content": {"application/json": {"schema": schema}}}
    if headers:
        answer["headers"] = {
            name.replace("_", "-"): {"schema": _TEXT, "description": text} for name, text in headers.items()
        }
    return answer


def _refusals(*statuses: int) -> dict[str, Any]:
    content = {"application/problem+json": {"schema": {"$ref": f"{_SCHEMAS}/Problem"}}}
    return {str(status): {"description": _REFUSALS[status], "content": content} for status in statuses}
