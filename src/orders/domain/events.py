"""The events on the bus: their names and their content."""

from typing import Any

import msgspec
from msgspec import Struct

from orders.domain.errors import Unreadable
from orders.domain.order import SCHEMA_VERSION, Order, PricedLine, Reason, Status

SOURCE = "orders"
DETAIL_TYPES = {
    Status.PLACED: "OrderPlaced",
    Status.RESERVED: "OrderReserved",
    Status.PAID: "OrderPaid",
    Status.FAILING: "OrderFailing",
    Status.FULFILLED: "OrderFulfilled",
    Status.FAILED: "OrderFailed",
    Status.CANCELLED: "OrderCancelled",
}


class Metadata(Struct, frozen=True, rename="camel"):
    """The metadata of an event; every duplicate of an event has the same `event_id`."""

    event_id: str
    correlation_id: str
    occurred_at: str
    schema_version: int


class OrderData(Struct, frozen=True, rename="camel", omit_defaults=True):
    """The order as consumers of events see it: without address and payment token."""

    customer_id: str
    order_id: str
    status: Status
    version: int
    currency: str
    lines: list[PricedLine]
    total: int | None = None
    reason: Reason | None = None
    email: str | None = None


class OrderEvent(Struct, frozen=True):
    """The detail of an order event."""

    metadata: Metadata
    data: OrderData


class BusEvent(Struct, frozen=True):
    """The parts of a delivered event (EventBridge user guide, "Event structure") that this project reads."""

    source: str
    detail_type: str = msgspec.field(name="detail-type")
    detail: OrderEvent


def event_of(order: Order) -> OrderEvent:
    """The event about the order's present status.

    Raises `Unreadable` for a status that only newer code knows.
    """
    if order.status not in DETAIL_TYPES:
        raise Unreadable(f"there is no event for the status {order.status[:40]!r}: newer code wrote it")
    return OrderEvent(
        metadata=Metadata(
            event_id=f"{order.order_id}#{order.version}",
            correlation_id=order.correlation_id,
            occurred_at=order.updated_at,
            schema_version=SCHEMA_VERSION,
        ),
        data=OrderData(
            customer_id=order.customer_id,
            order_id=order.order_id,
            status=order.status,
            version=order.version,
            currency=order.currency,
            lines=order.lines,
            total=order.total,
            reason=order.reason,
            email=order.email,
        ),
    )


def bus_entry(event: OrderEvent, bus: str) -> dict[str, Any]:
    """The entry for PutEvents."""
    return {
        "EventBusName": bus,
        "Source": SOURCE,
        "DetailType": DETAIL_TYPES[event.data.status],
        "Detail": msgspec.json.encode(event).decode(),
    }


def decode_bus_event(body: str | bytes | dict[str, Any]) -> BusEvent:
    """The order event in a queue's message or a function's payload.

    Raises `ValueError` (msgspec) for anything else, also for an event of another source.
    """
    event = (
        msgspec.json.decode(body, type=BusEvent) if isinstance(body, str | bytes) else msgspec.convert(body, BusEvent)
    )
    if event.source != SOURCE or event.detail_type != DETAIL_TYPES.get(event.detail.data.status):
        raise ValueError(f"not an order event: {event.source} {event.detail_type}")
    return event
