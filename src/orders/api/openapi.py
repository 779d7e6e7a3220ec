"""The REST API's description (OpenAPI 3.1), made from the same types that the API reads and writes."""

import re
from typing import Any

import msgspec

from orders.api.problems import MAX_ERRORS, MAX_QUOTED
from orders.domain.order import Order, Status
from orders.domain.request import MAX_LINES, OrderRequest

_ORDER_ID = {"name": "orderId", "in": "path", "required": True, "schema": {"type": "string"}}
_CURSOR = {
    "name": "cursor",
    "in": "query",
    "schema": {"type": "string"},
    "description": "nextCursor of a page",
}
_LIMIT = {
    "name": "limit",
    "in": "query",
    "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    "description": "The same key with the same body places one order, however often it is sent.",
}
# What is stored with an order and is not the customer's to see.
HIDDEN = (
    "customerId",
    "requestHash",
    "openShard",
    "executionArn",
    "givenUp",
    "schemaVersion",
    "paymentMethod",
    "version",
    "email",
)


def _answer(description: str, schema: dict[str, Any], **headers: str) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "description": description,
        "content": {"application/json": {"schema": schema}},
    }
    if headers:
        answer["headers"] = {
            name.replace("_", "-"): {"schema": {"type": "string"}, "description": text}
            for name, text in headers.items()
        }
    return answer


def _refusals(*statuses: int) -> dict[str, Any]:
    reasons = {
        400: "The request can't be read",
        401: "The token is missing, wrong or expired",
        404: "There is no such order of yours",
        409: "It is too late",
        413: "The body has more than 64 KiB",
        415: "The body is not application/json",
        422: "The content can't be accepted; the bad fields are listed",
        429: "Too many requests",
    }
    problem = {"$ref": "#/components/schemas/Problem"}
    return {
        str(status): {
            "description": reasons[status],
            "content": {"application/problem+json": {"schema": problem}},
        }
        for status in statuses
    }


def document(stage: str) -> dict[str, Any]:
    """The description of the API as deployed at `/<stage>`."""
    (request, order), components = msgspec.json.schema_components(
        [OrderRequest, Order], ref_template="#/components/schemas/{name}"
    )
    stored = components["Order"]
    for name in HIDDEN:
        stored["properties"].pop(name, None)
    stored["required"] = [name for name in stored["required"] if name not in HIDDEN]
    components["Problem"] = {
        "type": "object",
        "description": "RFC 9457",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
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
                        "detail": {"type": "string"},
                    },
                },
            },
        },
    }
    accepted = {
        "type": "object",
        "required": ["orderId", "status", "links"],
        "properties": {
            "orderId": {"type": "string"},
            "status": {"const": Status.PLACED},
            "links": {
                "type": "object",
                "required": ["self", "cancel"],
                "properties": {"self": {"type": "string"}, "cancel": {"type": "string"}},
            },
        },
    }
    page = {
        "type": "object",
        "required": ["orders"],
        "properties": {"orders": {"type": "array", "items": order}, "nextCursor": {"type": "string"}},
    }
    cancelled = {
        "type": "object",
        "required": ["orderId", "status"],
        "properties": {"orderId": {"type": "string"}, "status": {"const": Status.CANCELLED}},
    }
    description: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "Orders",
            "version": "1.0.0",
            "description": f"Place orders of 1 to {MAX_LINES} lines and follow them. Amounts are in minor units.",
        },
        "servers": [{"url": f"/{stage}"}],
        "security": [{"customerToken": []}],
        "paths": {
            "/orders": {
                "post": {
                    "operationId": "placeOrder",
                    "parameters": [_KEY],
                    "requestBody": {"required": True, "content": {"application/json": {"schema": request}}},
                    "responses": {
                        "202": _answer(
                            "The order is accepted; follow it at Location",
                            accepted,
                            Location="The order's path",
                            Idempotency_Replayed="true if this answer was given before",
                        ),
                        **_refusals(400, 401, 413, 415, 422, 429),
                    },
                },
                "get": {
                    "operationId": "listOrders",
                    "parameters": [_LIMIT, _CURSOR],
                    "responses": {
                        "200": _answer("Your orders, newest first", page),
                        **_refusals(400, 401, 429),
                    },
                },
            },
            "/orders/{orderId}": {
                "get": {
                    "operationId": "getOrder",
                    "parameters": [_ORDER_ID],
                    "responses": {"200": _answer("The order", order), **_refusals(401, 404, 429)},
                }
            },
            "/orders/{orderId}/cancel": {
                "post": {
                    "operationId": "cancelOrder",
                    "parameters": [_ORDER_ID],
                    "responses": {
                        "202": _answer("The order is cancelled", cancelled),
                        **_refusals(401, 404, 409, 429),
                    },
                }
            },
            "/health": {
                "get": {
                    "operationId": "getHealth",
                    "security": [],
                    "responses": {"200": _answer("The API answers", {"type": "object"})},
                }
            },
            "/openapi.json": {
                "get": {
                    "operationId": "getOpenapi",
                    "security": [],
                    "responses": {"200": _answer("This description", {"type": "object"})},
                }
            },
        },
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
