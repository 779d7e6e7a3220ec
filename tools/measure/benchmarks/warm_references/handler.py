"""The reference for the warm cost: plain json, Powertools' Logger, Tracer and Metrics, a default boto3 client.

It keeps the promises of `accept_order` as most would write it: checks by hand, no other library.
"""

import json
import os
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Metrics, Tracer
from boto3.dynamodb.types import TypeSerializer

logger = Logger()
tracer = Tracer()
metrics = Metrics()
dynamodb = boto3.client("dynamodb")
serializer = TypeSerializer()


@tracer.capture_lambda_handler
@logger.inject_lambda_context(correlation_id_path="requestContext.requestId", clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Answer API Gateway's proxy event for POST /orders."""
    request = json.loads(event["body"], parse_float=Decimal)
    problem = check(request)
    if problem:
        return {"statusCode": 400, "body": json.dumps({"message": problem})}
    claims = event["requestContext"]["authorizer"]["claims"]
    key = event["headers"].get("Idempotency-Key", event["requestContext"]["requestId"])
    order_id = str(uuid.uuid5(uuid.NAMESPACE_URL, claims["sub"] + key))
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    order = {
        **request,
        "customerId": claims["sub"],
        "orderId": order_id,
        "email": claims["email"],
        "status": "PLACED",
        "version": 1,
        "placedAt": now,
        "updatedAt": now,
        "correlationId": event["requestContext"]["requestId"],
        "requestHash": sha256(json.dumps(request, sort_keys=True).encode()).hexdigest(),
        "openShard": f"{uuid.UUID(order_id).int % 16:02d}",
        "timeline": [{"at": now, "what": "PLACED"}],
        "schemaVersion": 1,
    }
    logger.append_keys(order_id=order_id)
    dynamodb.put_item(
        TableName=os.environ["ORDERS_TABLE"],
        Item={name: serializer.serialize(value) for name, value in order.items()},
        ConditionExpression="attribute_not_exists(orderId)",
        ReturnValuesOnConditionCheckFailure="ALL_OLD",
    )
    metrics.add_metric("OrderAccepted", "Count", 1)
    logger.info("order accepted", extra={"lines": len(request["lines"])})
    location = f"{event['requestContext']['path']}/{order_id}"
    return {
        "statusCode": 202,
        "headers": {"Content-Type": "application/json", "Location": location},
        "body": json.dumps({"orderId": order_id, "status": "PLACED", "links": {"self": location}}),
    }


def check(request: Any) -> str | None:
    """What is wrong with a request, or None."""
    if not isinstance(request, dict):
        return "not an object"
    for field in ("currency", "paymentMethod"):
        if not isinstance(request.get(field), str) or not request[field]:
            return field
    lines = request.get("lines")
    if not isinstance(lines, list) or not 1 <= len(lines) <= 100:
        return "lines"
    for line in lines:
        if not isinstance(line.get("sku"), str) or not 1 <= int(line.get("quantity", 0)) <= 999:
            return "line"
    address = request.get("shippingAddress") or {}
    missing = [field for field in ("name", "line1", "city", "postalCode", "country") if not address.get(field)]
    return str(missing[0]) if missing else None
