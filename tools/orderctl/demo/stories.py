"""The stories of the demonstration: each sends a sample order and expects an end, a ledger entry and a stock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from orderctl.stack import records
from orderctl.stack.records import Payment, Stock
from orderctl.stack.target import Target
from orders.domain.customer_view import OrderView
from orders.domain.order import Status


@dataclass
class Journey:
    """One sample order and how far it is; `order` is the customer's latest view, None before the first one."""

    story: Story
    request: dict[str, Any]
    stock_before: dict[str, Stock]
    order_id: str = ""
    replayed_as: str = ""
    order: OrderView | None = None
    problems: list[str] = field(default_factory=lambda: ["not checked yet"])

    @property
    def status(self) -> str:
        """The order's latest status; "" before the first view."""
        return self.order.status if self.order else ""


Check = Callable[[Target, Journey], str]
"""Checks one expectation; returns "" if it is met, else what is wrong."""


@dataclass(frozen=True)
class Story:
    """A sample order (by name), a description of its journey, and what must be true at its end.

    With `submit_twice`, the order is sent a second time with the same Idempotency-Key.
    """

    sample: str
    what_happens: str
    status: str
    checks: tuple[Check, ...]
    reason: str | None = None
    submit_twice: bool = False


def charged_once(target: Target, journey: Journey) -> str:
    """The payment provider's ledger holds exactly one charge, over the order's total."""
    entry = _payment(target, journey)
    total = journey.order.total if journey.order else None
    if entry.status == "CHARGED" and entry.charges == 1:
        return "" if entry.amount == total else f"charged {entry.amount} instead of {total}"
    return f"payment is {entry.status or 'missing'} with {entry.charges} charges, not charged once"


def refunded(target: Target, journey: Journey) -> str:
    """The order was charged once, and the charge was refunded."""
    entry = _payment(target, journey)
    if entry.status == "REFUNDED" and entry.charges == 1:
        return ""
    return f"payment is {entry.status or 'missing'}, not refunded"


def not_charged(target: Target, journey: Journey) -> str:
    """The ledger holds no charge."""
    entry = _payment(target, journey)
    return f"payment is {entry.status}" if entry.charges else ""


def _payment(target: Target, journey: Journey) -> Payment:
    return records.payment_of(target, journey.order_id) or Payment()


def stock_sold(target: Target, journey: Journey) -> str:
    """The ordered quantity went from available to sold; nothing stays reserved."""
    return _stock_moved(target, journey, sold=True)


def stock_untouched(target: Target, journey: Journey) -> str:
    """The stock is as before: every reservation was released."""
    return _stock_moved(target, journey, sold=False)


def _stock_moved(target: Target, journey: Journey, *, sold: bool) -> str:
    for line in journey.request["lines"]:
        sku, moved = line["sku"], line["quantity"] if sold else 0
        before = journey.stock_before[sku]
        expected = Stock(before.available - moved, before.reserved, before.sold + moved)
        found = records.stock_of(target, sku)
        if found != expected:
            return f"stock of {sku} is {found}, expected {expected}"
    return ""


def attempts_failed(count: int) -> Check:
    """Return a check that the timeline shows at least `count` failed payment attempts."""

    def check(_target: Target, journey: Journey) -> str:
        timeline = journey.order.timeline if journey.order else []
        found = sum(1 for entry in timeline if entry.what == "PaymentAttemptFailed")
        return "" if found >= count else f"{found} failed payment attempts in the timeline instead of {count}"

    return check


def receipt_written(target: Target, journey: Journey) -> str:
    """The receipts bucket holds the order's receipt."""
    order = records.find_order(target, journey.order_id)
    key = f"receipts/{order.customer_id if order else None}/{journey.order_id}.json"
    s3 = target.client("s3")
    found = s3.list_objects_v2(Bucket=target.output("ReceiptsBucket"), Prefix=key, MaxKeys=1)
    return "" if found.get("KeyCount") else "no receipt yet"


def receipt_in_failure_inbox(target: Target, journey: Journey) -> str:
    """The failure inbox holds the receipt that could not be written."""
    found, _ = records.failures_of(target, journey.order_id)
    if any("IssueReceipt" in failure.component for failure in found):
        return ""
    return "its failure is not in the inbox yet"


def same_answer_twice(_target: Target, journey: Journey) -> str:
    """The second request with the same Idempotency-Key was answered with the first request's order."""
    if journey.replayed_as == journey.order_id:
        return ""
    return f"the second request got {journey.replayed_as or 'no order'} instead of the same order"


STORIES = (
    Story(
        "fulfilled",
        "paid, shipped, receipt",
        Status.FULFILLED,
        (charged_once, stock_sold, receipt_written),
    ),
    Story(
        "declined",
        "declined; stock released",
        Status.FAILED,
        (not_charged, stock_untouched),
        reason="PaymentDeclined",
    ),
    Story(
        "out-of-stock",
        "sold out; not charged",
        Status.FAILED,
        (not_charged, stock_untouched),
        reason="OutOfStock",
    ),
    Story(
        "provider-down",
        "down twice; charged once",
        Status.FULFILLED,
        (attempts_failed(2), charged_once, stock_sold),
    ),
    Story(
        "payment-timeout",
        "no answer; charged once",
        Status.FULFILLED,
        (attempts_failed(1), charged_once, stock_sold),
    ),
    Story(
        "warehouse-refuses",
        "refused; payment refunded",
        Status.FAILED,
        (refunded, stock_untouched),
        reason="WarehouseError",
    ),
    Story(
        "receipt-fails",
        "receipt in failure inbox",
        Status.FULFILLED,
        (charged_once, stock_sold, receipt_in_failure_inbox),
    ),
    Story(
        "sent-twice",
        "one key, one order",
        Status.FULFILLED,
        (same_answer_twice, charged_once, stock_sold),
        submit_twice=True,
    ),
)
