"""CancelShipment: make sure that an order that was given up won't be shipped, before it is undone."""

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from orders.runtime.aws import client
from orders.runtime.telemetry import logger, tracer
from orders.warehouse import warehouse

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

_warehouse = warehouse(client("dynamodb"))


class CancelRequest(Struct, rename="camel"):
    """The input from the workflow."""

    order_id: str
    correlation_id: str


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(correlation_id_path="correlationId", clear_state=True)
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """Return `{}` once the warehouse won't ship. Raises `AlreadyShipped`: then the order must be completed."""
    request = msgspec.convert(event, CancelRequest)
    logger.append_keys(order_id=request.order_id)
    _warehouse.cancel(request.order_id)
    logger.info("shipment cancelled")
    return {}
