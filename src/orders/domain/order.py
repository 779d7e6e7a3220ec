"""An order, its statuses and the legal transitions. Amounts are integers in minor units of the currency (cents)."""

import uuid
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from orders.domain.clock import timestamp
from orders.domain.errors import IllegalTransition

if TYPE_CHECKING:
    from orders.domain.request import OrderRequest

SCHEMA_VERSION = 1
ORDER_ID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z"
# The namespace in which an Idempotency-Key becomes an order id (RFC 9562, UUID version 5).
ORDER_NAMESPACE = uuid.UUID("5f0c9a5e-30c5-4f1c-9d5c-3a1f0f6f9b11")


class StoredWord(StrEnum):
    """A stored or sent word. A word that only newer code knows is kept, not refused.

    Older code meets such words after a rollback; one of them must not make a customer's list unreadable.
    """

    @classmethod
    def _missing_(cls, value: object) -> "StoredWord | None":
        if not isinstance(value, str):
            return None
        word = str.__new__(cls, value)
        word._name_ = word._value_ = value
        return word


class Status(StoredWord):
    """The status of an order."""

    PLACED = "PLACED"
    RESERVED = "RESERVED"
    PAID = "PAID"
    FAILING = "FAILING"
    FULFILLED = "FULFILLED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


# FAILING: the order was given up, and the workflow undoes it. If the parcel has left, it becomes FULFILLED instead.
TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.PLACED: frozenset({Status.RESERVED, Status.FAILING, Status.FAILED, Status.CANCELLED}),
    Status.RESERVED: frozenset({Status.PAID, Status.FAILING, Status.FAILED, Status.CANCELLED}),
    Status.PAID: frozenset({Status.FULFILLED, Status.FAILING}),
    Status.FAILING: frozenset({Status.FAILED, Status.FULFILLED}),
    Status.FULFILLED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELLED: frozenset(),
}
TERMINAL = frozenset(status for status, following in TRANSITIONS.items() if not following)
# The statuses from which an order can be given up.
CAN_FAIL = tuple(status for status, following in TRANSITIONS.items() if Status.FAILING in following)


def require_transition(current: Status, following: Status) -> None:
    """Return if an order may go from `current` to `following`, else raise `IllegalTransition`."""
    if following not in TRANSITIONS.get(current, ()):
        raise IllegalTransition(f"an order that is {current} can't become {following}")


class StoredAddress(Struct, frozen=True, rename="camel", omit_defaults=True):
    """The shipping address as stored and sent, unchecked, because older or newer code may have other rules."""

    name: str
    line1: str
    city: str
    postal_code: str
    country: str
    line2: str | None = None


class Taken(Struct, frozen=True):
    """A part of a line's quantity, and the shard of the product's stock that it was reserved from."""

    shard: int
    quantity: int


class PricedLine(Struct, frozen=True, rename="camel", omit_defaults=True):
    """A line as stored: `unit_price` in minor units, and the shards that its stock was `taken` from.

    Both are absent until the stock is reserved: one transaction writes price, stock and the status RESERVED.
    `taken` is absent, too, where the product's own item covers the line.
    """

    sku: str
    quantity: int
    unit_price: int | None = None
    taken: list[Taken] | None = None


class Reason(Struct, frozen=True):
    """Why an order failed: a code for programs and a sentence for the customer."""

    code: str
    message: str


GIVEN_UP_REASON = Reason("Discarded", "the order could not be carried out")


class TimelineEntry(Struct, frozen=True, omit_defaults=True):
    """An event of the order's history: a new status, or a failed attempt."""

    at: str
    what: str
    detail: str | None = None


class Order(Struct, kw_only=True, rename="camel", omit_defaults=True):
    """An order as the orders table holds it; `version` counts the changes of status.

    `reason` says why an order is FAILING or FAILED. `swept_at` and `restarts` are the sweep's: when it last started
    the order's workflow, and how often. Release 1.0.0 wrote `given_up` in place of the status FAILING.
    """

    customer_id: str
    order_id: str
    status: Status
    version: int
    placed_at: str
    updated_at: str
    currency: str
    lines: list[PricedLine]
    shipping_address: StoredAddress
    payment_method: str
    correlation_id: str
    request_hash: str
    email: str | None = None
    total: int | None = None
    reason: Reason | None = None
    given_up: Reason | None = None
    payment_id: str | None = None
    shipment_id: str | None = None
    open_shard: str | None = None
    swept_at: str | None = None
    restarts: int = 0
    timeline: list[TimelineEntry] = []
    schema_version: int = msgspec.field(default_factory=lambda: SCHEMA_VERSION)  # never omitted as a default


def undoing_of(order: Order) -> str:
    """The progress of undoing an order that was given up, as a sentence for the operator."""
    match order.status:
        case Status.FAILED:
            return "the order is FAILED: nothing stays charged or reserved, and nothing is shipped"
        case Status.CANCELLED:
            return "the order is CANCELLED by its customer: nothing stays charged or reserved"
        case Status.FULFILLED:
            return "the parcel had left already: the order is FULFILLED and stays charged"
    return f"the order is {order.status} and is being undone"


def order_id_for(customer_id: str, idempotency_key: str | None) -> str:
    """The id of a customer's order. The same key gives the same id, so that a retry meets the same item."""
    if idempotency_key is None:
        return str(uuid.uuid4())
    return str(uuid.uuid5(ORDER_NAMESPACE, f"{customer_id}\n{idempotency_key}"))


def place(
    request: "OrderRequest",
    *,
    customer_id: str,
    email: str | None,
    order_id: str,
    correlation_id: str,
    request_hash: str,
) -> Order:
    """The requested order: PLACED, not yet priced."""
    now = timestamp()
    return Order(
        customer_id=customer_id,
        order_id=order_id,
        status=Status.PLACED,
        version=1,
        placed_at=now,
        updated_at=now,
        currency=request.currency,
        lines=[PricedLine(line.sku, line.quantity) for line in request.lines],
        shipping_address=StoredAddress(**msgspec.structs.asdict(request.shipping_address)),
        payment_method=request.payment_method,
        correlation_id=correlation_id,
        request_hash=request_hash,
        email=email,
        timeline=[TimelineEntry(now, Status.PLACED)],
    )
