"""Which steps of an order its customer gets a mail about, and what each mail says."""

from orders.domain.events import OrderData
from orders.domain.order import Status

TEXTS = {
    Status.PLACED: ("We have your order", "Thank you. Your order {order} is being prepared."),
    Status.FULFILLED: ("Your order is on its way", "Your order {order} has been shipped."),
    Status.FAILED: ("We couldn't fulfil your order", "Your order {order} has failed: {reason}."),
    Status.CANCELLED: ("Your order is cancelled", "Your order {order} has been cancelled."),
}


def mail_about(order: OrderData) -> dict[str, str] | None:
    """The mail about an order's present status: `to`, `subject`, `text`. None where there is nothing to send."""
    if order.status not in TEXTS or order.email is None:
        return None
    subject, text = TEXTS[order.status]
    reason = order.reason.message if order.reason else ""
    return {"to": order.email, "subject": subject, "text": text.format(order=order.order_id, reason=reason)}
