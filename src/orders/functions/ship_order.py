"""FulfillOrder: let the warehouse ship each order, and make the order FULFILLED, or FAILING if the warehouse refuses.

The first decision in the warehouse's ledger stands, so a duplicate message ships nothing.
"""

import os
import random
import time
from typing import TYPE_CHECKING, Any

import msgspec
from aws_lambda_powertools.utilities.batch import process_partial_response
from msgspec import Struct

from orders.domain.errors import Busy, WarehouseError
from orders.domain.order import PricedLine, Reason, Status, StoredAddress
from orders.runtime.aws import client
from orders.runtime.queues import QueueProcessor, back_off
from orders.runtime.telemetry import logger, metrics, tracer
from orders.storage.orders import OrdersTable
from orders.warehouse import warehouse

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.batch.types import PartialItemFailureResponse
    from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
    from aws_lambda_powertools.utilities.typing import LambdaContext

_sqs = client("sqs")
_dynamodb = client("dynamodb")
_orders = OrdersTable(_dynamodb)
_warehouse = warehouse(_dynamodb)
_queue_url = os.environ["FULFILMENT_QUEUE_URL"]
_processor = QueueProcessor(_sqs)
# Orders of the same product conflict in the product's stock for milliseconds. The queue's shortest wait is longer.
CONFLICT_PAUSES_S = (0.05, 0.1, 0.2, 0.4)


class ShippingOrder(Struct, rename="camel"):
    """The message that the workflow's state FulfillOrder sends. A message of 1.0.0 also has a task token: ignored."""

    customer_id: str
    order_id: str
    correlation_id: str
    lines: list[PricedLine]
    shipping_address: StoredAddress


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: "LambdaContext") -> "PartialItemFailureResponse":
    """Ship a batch; the answer names the messages that SQS must deliver again."""
    answer = process_partial_response(event, ship, _processor, context)
    back_off(_sqs, _queue_url, event, answer)
    return answer


def ship(record: "SQSRecord") -> None:
    """Ship one order. Raises `WarehouseUnavailable`, `Busy`, `IllegalTransition` if the order isn't paid, and
    `ValueError` (msgspec) for a message that isn't one.
    """
    order = msgspec.json.decode(record.body, type=ShippingOrder)
    logger.set_correlation_id(order.correlation_id)
    logger.append_keys(order_id=order.order_id)
    try:
        shipment_id = _warehouse.ship(order.order_id, order.lines, order.shipping_address)
    except WarehouseError as error:
        logger.info("the warehouse refuses", extra={"reason": str(error)})
        reason = Reason("WarehouseError", str(error))
        _orders.start_failing(order.customer_id, order.order_id, reason, only=(Status.PAID,))
        metrics.add_metric("ShipmentRefused", "Count", 1)
        return
    _fulfil(order, shipment_id)
    metrics.add_metric("OrderShipped", "Count", 1)
    logger.info("order shipped", extra={"shipment_id": shipment_id})


def _fulfil(order: ShippingOrder, shipment_id: str) -> None:
    for pause_s in (*CONFLICT_PAUSES_S, None):
        try:
            _orders.mark_fulfilled(order.customer_id, order.order_id, shipment_id, order.lines)
        except Busy:
            if pause_s is None:
                raise
            time.sleep(pause_s * random.uniform(0.5, 1.5))
        else:
            return
