"""The orders of a smoke: the demonstration's stories with a customer and products of the run's own.

So the expected stock is exact while other orders run, and everything can be removed.
"""

from __future__ import annotations

from orderctl.demo import demonstration, samples
from orderctl.demo.stories import STORIES, Journey, Story, stock_untouched
from orderctl.stack import records
from orderctl.stack.records import Stock
from orderctl.stack.rest import OrdersApi, require_success
from orderctl.stack.target import Target
from orderctl.stack.throwaway import product
from orders.domain.order import Status
from orders.storage.dynamodb import to_item

STOCK = 100
PRICE = 890
# The receipt fails as often as AWS tries an asynchronous function, so the redrive's attempt succeeds.
RECEIPT_DOWN = "tok_receipt_down_3"
# Slow enough that a cancellation right after the answer comes before the payment.
SLOW_PAYMENT = "tok_slow_3"
RECEIPT_STORY = "receipt-fails"


def not_kept(target: Target, journey: Journey) -> str:
    """The refund of a cancelled order was made: no charge is kept, and none can follow."""
    entry = records.payment_of(target, journey.order_id)
    if entry and entry.status in {"VOIDED", "REFUNDED"}:
        return ""
    return f"payment is {entry.status if entry and entry.status else 'missing'}, neither voided nor refunded"


CANCELLED = Story("cancelled", "cancelled by the customer", Status.CANCELLED, (not_kept, stock_untouched))


def journeys(run: str) -> list[Journey]:
    """Return the run's orders, not yet sent: one for each story of the demonstration, and a cancellation."""
    found = [_journey(run, story, story.sample) for story in STORIES]
    by_sample = {journey.story.sample: journey for journey in found}
    by_sample[RECEIPT_STORY].request["paymentMethod"] = RECEIPT_DOWN
    cancelled = _journey(run, CANCELLED, "fulfilled")
    cancelled.request["paymentMethod"] = SLOW_PAYMENT
    return [*found, cancelled]


def _journey(run: str, story: Story, sample: str) -> Journey:
    request = samples.sample(sample)
    sold_out = {each["sku"] for each in samples.catalogue() if not each["stock"]}
    stock = {}
    for number, line in enumerate(request["lines"]):
        available = 0 if line["sku"] in sold_out else STOCK
        line["sku"] = product(run, f"{story.sample}.{number}")
        stock[line["sku"]] = Stock(available, 0, 0)
    return Journey(story, request, stock)


def products(run: str) -> list[str]:
    """Return the codes of the run's products."""
    return [sku for journey in journeys(run) for sku in journey.stock_before]


def put_products(target: Target, run: list[Journey]) -> None:
    """Put the products of these orders into the catalogue."""
    for journey in run:
        for sku, stock in journey.stock_before.items():
            item = {
                "sku": sku,
                "name": "A product of a smoke",
                "price": PRICE,
                "currency": journey.request["currency"],
                "available": stock.available,
                "reserved": 0,
                "sold": 0,
            }
            target.client("dynamodb").put_item(TableName=target.output("CatalogueTable"), Item=to_item(item))


def send(api: OrdersApi, run: list[Journey]) -> None:
    """Send the orders, and cancel the one that its story cancels. Raises Stop(REFUSED) if the API refuses one."""
    for journey in run:
        demonstration.submit(api, journey)
        if journey.story is CANCELLED:
            require_success(api.cancel(journey.order_id))
