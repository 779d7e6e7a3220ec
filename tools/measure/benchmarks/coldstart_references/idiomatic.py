"""Reference (c): the stack that templates ship: REST resolver, pydantic validation, auto-patching tracer."""
# ruff: noqa: D101, D103 - written as such functions are

import os
import uuid
from typing import Annotated, Any

import boto3
from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.event_handler import APIGatewayRestResolver, Response
from aws_lambda_powertools.metrics import MetricUnit
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

logger = Logger()
metrics = Metrics()
tracer = Tracer()
app = APIGatewayRestResolver(enable_validation=True)
table = boto3.resource("dynamodb").Table(os.environ["ORDERS_TABLE"])


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Line(Strict):
    sku: Annotated[str, Field(pattern=r"^[A-Z0-9-]{1,32}$")]
    quantity: Annotated[int, Field(ge=1, le=999)]


class Address(Strict):
    name: Annotated[str, Field(min_length=1, max_length=100)]
    line1: Annotated[str, Field(min_length=1, max_length=100)]
    line2: Annotated[str | None, Field(max_length=100)] = None
    city: Annotated[str, Field(min_length=1, max_length=100)]
    postal_code: Annotated[str, Field(min_length=1, max_length=20)]
    country: Annotated[str, Field(pattern=r"^[A-Z]{2}$")]


class OrderRequest(Strict):
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    lines: Annotated[list[Line], Field(min_length=1, max_length=100)]
    shipping_address: Address
    payment_method: Annotated[str, Field(pattern=r"^tok_[a-z0-9_]{1,64}$")]


@app.post("/orders")
@tracer.capture_method
def create_order(order: OrderRequest) -> Response[dict[str, str]]:
    order_id = str(uuid.uuid4())
    table.put_item(
        Item={"orderId": order_id, **order.model_dump(by_alias=True, exclude_none=True)},
        ConditionExpression="attribute_not_exists(orderId)",
    )
    metrics.add_metric(name="OrderAccepted", unit=MetricUnit.Count, value=1)
    logger.info("order accepted")
    return Response(status_code=202, content_type="application/json", body={"orderId": order_id, "status": "PLACED"})


@tracer.capture_lambda_handler
@logger.inject_lambda_context(correlation_id_path="requestContext.requestId")
@metrics.log_metrics(capture_cold_start_metric=True)
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    return app.resolve(event, context)
