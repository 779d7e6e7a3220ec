"""What a customer sees of an order: an allow-list, from which the API answers and its description is made."""

from msgspec import Struct

from orders.domain.order import Order, Reason, Status, StoredAddress, TimelineEntry


class LineView(Struct, rename="camel", omit_defaults=True):
    """A line of an order: `unit_price` in minor units, absent until the order is priced."""

    sku: str
    quantity: int
    unit_price: int | None = None


class OrderView(Struct, rename="camel", omit_defaults=True, kw_only=True):
    """An order as its customer sees it. Amounts are in minor units of the currency, times in UTC.

    `total`, and `unitPrice` of a line, are absent until the order is priced; `reason` says why an order failed.
    """

    order_id: str
    status: Status
    placed_at: str
    updated_at: str
    currency: str
    lines: list[LineView]
    shipping_address: StoredAddress
    correlation_id: str
    total: int | None = None
    reason: Reason | None = None
    payment_id: str | None = None
    shipment_id: str | None = None
    timeline: list[TimelineEntry] = []


def view_of(order: Order) -> OrderView:
    """The customer's view of an order. A field of `Order` that `OrderView` does not name stays private."""
    fields = {name: getattr(order, name) for name in OrderView.__struct_fields__}
    fields["lines"] = [LineView(line.sku, line.quantity, line.unit_price) for line in order.lines]
    return OrderView(**fields)
