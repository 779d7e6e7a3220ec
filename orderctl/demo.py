"""The demonstration: sample orders, each with a story, sent over REST, watched, and checked at their end."""

from __future__ import annotations

import json
import shlex
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from rich.live import Live
from rich.markup import escape
from rich.table import Table

from orderctl import console, records, samples, show
from orderctl.exits import Exit, Stop
from orderctl.rest import TERMINAL, OrdersApi, require_success
from orderctl.signin import token_source
from orderctl.target import Target

ORDERS_TIMEOUT_S = 120.0
CHECKS_TIMEOUT_S = 45.0  # asynchronous retries and the failure inbox come after the order's end
POLL_S = 0.25


@dataclass
class Journey:
    """One sample order under way; `order` is the customer's latest view of it."""

    story: Story
    request: dict[str, Any]
    stock_before: dict[str, dict[str, Any]]
    order_id: str = ""
    replayed_as: str = ""
    order: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=lambda: ["not checked yet"])

    @property
    def status(self) -> str:
        """The order's latest status; "" before there is one."""
        return str(self.order.get("status", ""))

    @property
    def verdict(self) -> str:
        """What to show of the checks: "waiting", "as expected" or what is wrong."""
        if self.status not in TERMINAL:
            return "under way"
        return "; ".join(self.problems) if self.problems else "as expected"


Check = Callable[[Target, Journey], str]
"""Looks at one thing; returns "" if it is right, else what is wrong with it."""


@dataclass(frozen=True)
class Story:
    """A sample order (its name), what happens to it, and what must be true in the end."""

    sample: str
    what_happens: str
    status: str
    checks: tuple[Check, ...]
    reason: str | None = None
    submit_twice: bool = False


def charged_once(target: Target, journey: Journey) -> str:
    """The payment provider's ledger holds exactly one charge, over the order's total."""
    entry = records.payment_of(target, journey.order_id) or {}
    if entry.get("status") == "CHARGED" and entry.get("charges") == 1:
        if entry.get("amount") == journey.order.get("total"):
            return ""
        return f"charged {entry.get('amount')} instead of {journey.order.get('total')}"
    return f"payment is {entry.get('status', 'missing')} with {entry.get('charges', 0)} charges, not charged once"


def refunded(target: Target, journey: Journey) -> str:
    """What was charged, once, was given back."""
    entry = records.payment_of(target, journey.order_id) or {}
    if entry.get("status") == "REFUNDED" and entry.get("charges") == 1:
        return ""
    return f"payment is {entry.get('status', 'missing')}, not refunded"


def not_charged(target: Target, journey: Journey) -> str:
    """The ledger holds no charge."""
    entry = records.payment_of(target, journey.order_id) or {}
    return f"payment is {entry['status']}" if entry.get("charges") else ""


def stock_sold(target: Target, journey: Journey) -> str:
    """The stock went from available to sold; nothing stays reserved, nothing appears or vanishes."""
    return _stock_moved(target, journey, sold=True)


def stock_untouched(target: Target, journey: Journey) -> str:
    """Whatever was reserved is available again."""
    return _stock_moved(target, journey, sold=False)


def _stock_moved(target: Target, journey: Journey, *, sold: bool) -> str:
    for line in journey.request["lines"]:
        sku, moved = line["sku"], line["quantity"] if sold else 0
        before, now = journey.stock_before[sku], records.product(target, sku) or {}
        expected = {
            "available": before["available"] - moved,
            "reserved": before["reserved"],
            "sold": before["sold"] + moved,
        }
        found = {key: now.get(key) for key in expected}
        if found != expected:
            return f"stock of {sku} is {found}, expected {expected}"
    return ""


def attempts_failed(count: int) -> Check:
    """The timeline shows at least so many failed payment attempts."""

    def check(_target: Target, journey: Journey) -> str:
        timeline = journey.order.get("timeline", [])
        found = sum(1 for entry in timeline if entry["what"] == "PaymentAttemptFailed")
        return "" if found >= count else f"{found} failed payment attempts in the timeline instead of {count}"

    return check


def receipt_written(target: Target, journey: Journey) -> str:
    """The receipt lies in the receipts bucket."""
    owner = records.find_order(target, journey.order_id) or {}
    key = f"receipts/{owner.get('customerId')}/{journey.order_id}.json"
    s3 = target.client("s3")
    found = s3.list_objects_v2(Bucket=target.output("ReceiptsBucket"), Prefix=key, MaxKeys=1)
    return "" if found.get("KeyCount") else "no receipt yet"


def receipt_in_failure_inbox(target: Target, journey: Journey) -> str:
    """The failure inbox holds the receipt that could not be written."""
    found = records.failures_of(target, journey.order_id)
    if any("IssueReceipt" in str(failure.get("component")) for failure in found):
        return ""
    return "the receipt's failure is not in the failure inbox yet"


def same_answer_twice(_target: Target, journey: Journey) -> str:
    """The second request with the same Idempotency-Key was answered with the first one's order."""
    if journey.replayed_as == journey.order_id:
        return ""
    return f"the second request got {journey.replayed_as or 'no order'} instead of the same order"


STORIES = (
    Story("fulfilled", "nothing goes wrong", "FULFILLED", (charged_once, stock_sold, receipt_written)),
    Story(
        "declined",
        "the card is declined; the reservation is released",
        "FAILED",
        (not_charged, stock_untouched),
        reason="PaymentDeclined",
    ),
    Story(
        "out-of-stock",
        "the product is sold out",
        "FAILED",
        (not_charged, stock_untouched),
        reason="OutOfStock",
    ),
    Story(
        "provider-down",
        "the payment provider is down twice, then recovers",
        "FULFILLED",
        (attempts_failed(2), charged_once, stock_sold),
    ),
    Story(
        "payment-timeout",
        "the answer to the charge is lost; it is charged exactly once",
        "FULFILLED",
        (attempts_failed(1), charged_once, stock_sold),
    ),
    Story(
        "warehouse-refuses",
        "the warehouse refuses for good; refunded and released",
        "FAILED",
        (refunded, stock_untouched),
        reason="WarehouseError",
    ),
    Story(
        "receipt-fails",
        "the receipt can't be written; it lands in the failure inbox",
        "FULFILLED",
        (charged_once, stock_sold, receipt_in_failure_inbox),
    ),
    Story(
        "sent-twice",
        "sent twice with one Idempotency-Key; one order",
        "FULFILLED",
        (same_answer_twice, charged_once, stock_sold),
        submit_twice=True,
    ),
)


def run(target: Target, username: str | None, password: str | None, as_json: bool) -> bool:
    """Send every story's order, watch them all, check their ends and show a summary; True if all is well."""
    began = time.monotonic()
    api = OrdersApi(target.api_url, token_source(target, username, password))
    journeys = [prepare(target, story) for story in STORIES]
    console.say(f"Sending {len(journeys)} sample orders to {target.api_url}/orders ...")
    for journey in journeys:
        submit(api, journey)
    watch(api, target, journeys, live=console.out.is_terminal and not as_json)
    well = [journey for journey in journeys if not journey.problems]
    if as_json:
        console.emit_json(
            {
                "ok": len(well) == len(journeys),
                "seconds": round(time.monotonic() - began, 1),
                "orders": [
                    {
                        "sample": journey.story.sample,
                        "orderId": journey.order_id,
                        "status": journey.status,
                        "reason": journey.order.get("reason"),
                        "timeline": journey.order.get("timeline", []),
                        "problems": journey.problems,
                    }
                    for journey in journeys
                ],
            }
        )
        return len(well) == len(journeys)
    summarise(target, api, journeys, time.monotonic() - began)
    return len(well) == len(journeys)


def prepare(target: Target, story: Story) -> Journey:
    """Return the story's order, not yet sent, with the stock of its products as it is now."""
    request = samples.sample(story.sample)
    stock = {}
    for line in request["lines"]:
        product = records.product(target, line["sku"])
        if product is None:
            raise Stop(
                Exit.STEP_FAILED,
                f"The catalogue of {target.name} has no product {line['sku']}.",
                "Put it on sale first; orderctl/catalogue.json lists the products of the samples.",
            )
        stock[line["sku"]] = product
    return Journey(story, request, stock)


def submit(api: OrdersApi, journey: Journey) -> None:
    """Send the order, twice with the same key if that is the story; Stop(REFUSED) if the API says no."""
    key = f"demo-{uuid.uuid4()}"
    body = json.dumps(journey.request)
    answer = api.submit(body, key)
    require_success(answer)
    journey.order_id = answer.json()["orderId"]
    if journey.story.submit_twice:
        again = api.submit(body, key)
        require_success(again)
        if again.headers.get("Idempotency-Replayed") == "true":
            journey.replayed_as = again.json()["orderId"]


def watch(api: OrdersApi, target: Target, journeys: list[Journey], *, live: bool) -> None:
    """Follow the orders until each has ended and passed its checks, or the time is over."""
    deadline = time.monotonic() + ORDERS_TIMEOUT_S
    all_ended = False
    display: AbstractContextManager[Any] = (
        Live(as_table(journeys), console=console.out, refresh_per_second=8) if live else nullcontext()
    )
    with display as shown:
        pending = list(journeys)
        while pending and time.monotonic() < deadline:
            for journey in list(pending):
                before = (journey.status, journey.verdict)
                if journey.status not in TERMINAL:
                    journey.order = api.order(journey.order_id)
                if journey.status in TERMINAL:
                    journey.problems = check(target, journey)
                    if not journey.problems:
                        pending.remove(journey)
                if shown:
                    shown.update(as_table(journeys))
                elif (journey.status, journey.verdict) != before:
                    say_progress(journey)
            if not all_ended and all(journey.status in TERMINAL for journey in journeys):
                all_ended, deadline = True, time.monotonic() + CHECKS_TIMEOUT_S
            if pending:
                time.sleep(POLL_S)
    for journey in pending:
        if journey.status not in TERMINAL:
            journey.problems = [f"still {journey.status} after {ORDERS_TIMEOUT_S:.0f} s"]


def check(target: Target, journey: Journey) -> list[str]:
    """Return what is wrong with an order that has ended; nothing, if it ended where it should."""
    story, problems = journey.story, []
    if journey.status != story.status:
        problems.append(f"expected {story.status}")
    code = (journey.order.get("reason") or {}).get("code")
    if code != story.reason:
        problems.append(f"expected the reason {story.reason}, not {code}")
    return problems + [found for each in story.checks if (found := each(target, journey))]


def say_progress(journey: Journey) -> None:
    """Show in one line what has become of an order."""
    steps = show.steps(journey.order)
    console.say(f"  {journey.story.sample:<18} {journey.status:<10} {journey.verdict}  ({steps})")


def as_table(journeys: list[Journey]) -> Table:
    """Return all orders and how far they are."""
    table = Table("Order", "Status", "Timeline", "Verdict", box=None, pad_edge=False, padding=(0, 2, 1, 0))
    for journey in journeys:
        story = journey.story
        table.add_row(
            f"[bold]{story.sample}[/]\n[dim]{story.what_happens}[/]",
            show.status(journey.status) if journey.status else "",
            escape(show.steps(journey.order)),
            f"[{_colour(journey)}]{escape(journey.verdict)}[/]",
        )
    return table


def _colour(journey: Journey) -> str:
    return "cyan" if journey.status not in TERMINAL else "red" if journey.problems else "green"


def summarise(target: Target, api: OrdersApi, journeys: list[Journey], seconds: float) -> None:
    """Show the outcome, the addresses, and a command that sends the next order."""
    well = sum(1 for journey in journeys if not journey.problems)
    colour = "green" if well == len(journeys) else "red"
    out = console.out.print
    if not console.out.is_terminal:  # a terminal shows the table
        for journey in journeys:
            out(f"{journey.story.sample:<18} {journey.order_id}  {journey.status:<10} {journey.verdict}")
    out(f"\n[{colour}]{well} of {len(journeys)} orders ended where they should[/] ({seconds:.1f} s).\n")
    out(f"REST API      {target.api_url}", markup=False)
    out(f"Description   {target.api_url}/openapi.json", markup=False)
    if target.endpoint:
        out(f"AWS endpoint  {target.endpoint}  (any AWS tool: --endpoint-url, key and secret: test)")
    for journey in journeys:
        if journey.problems:
            out(f"Look at it    .venv/bin/orderctl order {journey.order_id}")
    out("\nThe next order:\n")
    out(curl(target.api_url, api.tokens.current(), samples.sample("fulfilled")), markup=False)


def curl(url: str, token: str, body: dict[str, Any]) -> str:
    """Return a command that submits `body` as a new order, quoted for a POSIX shell."""
    parts = [
        "curl -sS -i",
        shlex.quote(f"{url}/orders"),
        f"-H {shlex.quote(f'Authorization: {token}')}",
        "-H 'Content-Type: application/json'",
        f"-H 'Idempotency-Key: order-{uuid.uuid4()}'",
        f"-d {shlex.quote(json.dumps(body, separators=(',', ':')))}",
    ]
    return " \\\n  ".join(parts)
