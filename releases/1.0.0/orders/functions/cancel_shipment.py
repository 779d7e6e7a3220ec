"""CancelShipment: before a paid order is undone, make sure that its parcel stays where it is."""

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
    """What the workflow hands over."""

    order_id: str
    correlation_id: str


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(correlation_id_path="correlationId", clear_state=True)
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """`{}` once the warehouse won't ship. Raises `AlreadyShipped`: then the order has to be completed."""
    request = msgspec.convert(event, CancelRequest)
    logger.append_keys(order_id=request.order_id)
    _warehouse.cancel(request.order_id)
    logger.info("shipment called off")
    return {}
