"""The demonstration: sample orders, each with a story, sent over REST, watched, and checked at their end."""

from __future__ import annotations

import json
import shlex
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.live import Live
from rich.markup import escape
from rich.table import Table

from orderctl.cloud.state import shown
from orderctl.demo import samples
from orderctl.exits import Exit, Stop
from orderctl.stack import records
from orderctl.stack.rest import TERMINAL, OrdersApi, require_success
from orderctl.stack.signin import token_source
from orderctl.stack.target import Target
from orderctl.ui import console, tables

ORDERS_TIMEOUT_S = 120.0
CHECKS_TIMEOUT_S = 45.0  # asynchronous retries and the failure inbox come after the order's end
POLL_S = 0.25
SHORT_ID = 8


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
    return "its failure is not in the inbox yet"


def same_answer_twice(_target: Target, journey: Journey) -> str:
    """The second request with the same Idempotency-Key was answered with the first one's order."""
    if journey.replayed_as == journey.order_id:
        return ""
    return f"the second request got {journey.replayed_as or 'no order'} instead of the same order"


STORIES = (
    Story("fulfilled", "paid, shipped, receipt", "FULFILLED", (charged_once, stock_sold, receipt_written)),
    Story(
        "declined",
        "declined; stock released",
        "FAILED",
        (not_charged, stock_untouched),
        reason="PaymentDeclined",
    ),
    Story("out-of-stock", "sold out; not charged", "FAILED", (not_charged, stock_untouched), reason="OutOfStock"),
    Story(
        "provider-down",
        "down twice; charged once",
        "FULFILLED",
        (attempts_failed(2), charged_once, stock_sold),
    ),
    Story(
        "payment-timeout",
        "no answer; charged once",
        "FULFILLED",
        (attempts_failed(1), charged_once, stock_sold),
    ),
    Story(
        "warehouse-refuses",
        "refused; payment refunded",
        "FAILED",
        (refunded, stock_untouched),
        reason="WarehouseError",
    ),
    Story(
        "receipt-fails",
        "receipt in failure inbox",
        "FULFILLED",
        (charged_once, stock_sold, receipt_in_failure_inbox),
    ),
    Story(
        "sent-twice",
        "one key, one order",
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
    with _display(target, journeys, as_json) as changed:
        for journey in journeys:
            submit(api, journey)
            changed(journey)
        watch(api, target, journeys, changed)
    well = not any(journey.problems for journey in journeys)
    seconds = round(time.monotonic() - began, 1)
    if as_json:
        console.emit_json({"ok": well, "seconds": seconds, "orders": [as_record(journey) for journey in journeys]})
    else:
        summarise(target, journeys, seconds)
    return well


@contextmanager
def _display(target: Target, journeys: list[Journey], as_json: bool) -> Iterator[Callable[[Journey], None]]:
    """Show how far the orders are; yields a function that takes each order that has changed.

    A terminal shows one table. Elsewhere each order is one line, at its end.
    """
    if console.out.is_terminal and not as_json:
        with Live(as_table(journeys), console=console.out, refresh_per_second=8) as live:
            yield lambda _: live.update(as_table(journeys))
        return

    with console.step(f"Sending {len(journeys)} sample orders to {target.api_url}/orders") as note:

        def tell(journey: Journey) -> None:
            note(f"{sum(not each.problems for each in journeys)} of {len(journeys)} ended where they should")
            if not as_json and not journey.problems:
                console.out.print(_in_one_line(journey))

        yield tell


def as_record(journey: Journey) -> dict[str, Any]:
    """Return what a program may read of a sample order."""
    return {
        "sample": journey.story.sample,
        "orderId": journey.order_id,
        "status": journey.status,
        "reason": journey.order.get("reason"),
        "timeline": journey.order.get("timeline", []),
        "problems": journey.problems,
    }


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
                "Put it on sale first; tools/orderctl/demo/catalogue.json lists the products of the samples.",
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


def watch(
    api: OrdersApi, target: Target, journeys: list[Journey], changed: Callable[[Journey], None] = lambda _: None
) -> None:
    """Follow the orders until each has ended and passed its checks, or the time is over."""
    deadline = time.monotonic() + ORDERS_TIMEOUT_S
    all_ended = False
    pending = list(journeys)
    while pending and time.monotonic() < deadline:
        for journey in list(pending):
            if journey.status not in TERMINAL:
                journey.order = api.order(journey.order_id)
            if journey.status in TERMINAL:
                journey.problems = check(target, journey)
                if not journey.problems:
                    pending.remove(journey)
            changed(journey)
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


def as_table(journeys: list[Journey]) -> Table:
    """Return all orders and how far they are, a line each; a line that is too long ends in an ellipsis."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=True)
    for title, width in (("Order", 17), ("Id", SHORT_ID), ("Status", 9)):
        table.add_column(title, width=width, no_wrap=True)
    table.add_column("What happened", ratio=1, no_wrap=True, overflow="ellipsis")
    for journey in journeys:
        table.add_row(
            journey.story.sample,
            journey.order_id[:SHORT_ID],
            tables.status(journey.status) if journey.status else "",
            f"[{_colour(journey)}]{escape(what_happened(journey))}[/]",
        )
    return table


def what_happened(journey: Journey) -> str:
    """Say in a few words how far an order is, or how it ended."""
    if journey.status not in TERMINAL:
        return tables.steps(journey.order).rpartition(", ")[2]
    return "; ".join(journey.problems) or f"as expected: {journey.story.what_happens}"


def _colour(journey: Journey) -> str:
    return "cyan" if journey.status not in TERMINAL else "yellow" if journey.problems else "green"


def _in_one_line(journey: Journey) -> str:
    name, ends = journey.story.sample, escape(what_happened(journey))
    return f"{name:<17}  {journey.order_id}  {journey.status:<9}  {ends}"


def summarise(target: Target, journeys: list[Journey], seconds: float) -> None:
    """Show the outcome, and three commands: send the next order, look at one, stop."""
    bad = [journey for journey in journeys if journey.problems]
    out = console.out.print
    for journey in bad:
        out(f"[red]{_in_one_line(journey)}[/]")
        out(f"  Find out why: {target.command(f'explain {journey.order_id}')}", markup=False)
    colour = "red" if bad else "green"
    well = len(journeys) - len(bad)
    out(f"\n[{colour}]{well} of {len(journeys)} orders ended where they should[/] ({seconds:.1f} s).\n")
    out("Send the next order, look at one, stop:\n" if target.local else "Send the next order, look at one:\n")
    out(curl(target), markup=False)
    out(target.command(f"order {journeys[0].order_id}"), markup=False)
    if target.local:
        out(target.command("down"), markup=False)


def curl(target: Target) -> str:
    """Return a command for a POSIX shell that submits a sample order anew each time."""
    sample = shown(samples.HERE / "samples" / "fulfilled.json")
    lines = [
        f'curl -i -H "Authorization: $({target.command("token")})"',
        "-H 'Content-Type: application/json' -H \"Idempotency-Key: $(date +%s)\"",
        f"-d {shlex.quote(f'@{sample}')}",
        shlex.quote(f"{target.api_url}/orders"),
    ]
    return " \\\n  ".join(lines)
