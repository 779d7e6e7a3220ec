"""Run the demonstration: send every story's order over REST, watch them, check their ends, show a summary."""

from __future__ import annotations

import json
import shlex
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from orderctl.cloud.state import shown
from orderctl.demo import samples
from orderctl.demo.stories import STORIES, Journey, Story
from orderctl.exits import Exit, Stop
from orderctl.stack import records
from orderctl.stack.rest import Accepted, OrdersApi, decode
from orderctl.stack.signin import token_source
from orderctl.stack.target import Target
from orderctl.ui import console, tables
from orders.domain.order import TERMINAL

ORDERS_TIMEOUT_S = 120.0
CHECKS_TIMEOUT_S = 45.0  # asynchronous retries and the failure inbox come after the order's end
POLL_S = 0.25
SHORT_ID = 8


def run(target: Target, username: str | None, password: str | None, as_json: bool) -> bool:
    """Run every story as this customer and show the outcome; returns whether every expectation is met."""
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
        console.emit_json({"ok": well, "seconds": seconds, "orders": [_as_record(journey) for journey in journeys]})
    else:
        summarise(target, journeys, seconds)
    return well


@contextmanager
def _display(target: Target, journeys: list[Journey], as_json: bool) -> Iterator[Callable[[Journey], None]]:
    """Show the progress of the orders; yields a function that takes each order that has changed.

    A terminal shows one table. Elsewhere each order is one line, at its end.
    """
    if console.out.is_terminal and not as_json:
        with Live(as_table(journeys), console=console.out, refresh_per_second=8) as live:
            yield lambda _: live.update(as_table(journeys))
        return

    with console.step(f"Sending {len(journeys)} sample orders to {target.api_url}/orders") as note:

        def tell(journey: Journey) -> None:
            note(f"{sum(not each.problems for each in journeys)} of {len(journeys)} ended as expected")
            if not as_json and not journey.problems:
                console.out.print(_in_one_line(journey))

        yield tell


def _as_record(journey: Journey) -> dict[str, Any]:
    order = journey.order
    return {
        "sample": journey.story.sample,
        "orderId": journey.order_id,
        "status": journey.status,
        "reason": msgspec.to_builtins(order.reason) if order else None,
        "timeline": msgspec.to_builtins(order.timeline) if order else [],
        "problems": journey.problems,
    }


def prepare(target: Target, story: Story) -> Journey:
    """Return the story's order, not yet sent, with the present stock of its products.

    Raises Stop(STEP_FAILED) if the catalogue lacks a product.
    """
    request = samples.sample(story.sample)
    stock = {}
    for line in request["lines"]:
        found = records.stock_of(target, line["sku"])
        if found is None:
            raise Stop(
                Exit.STEP_FAILED,
                f"The catalogue of {target.name} has no product {line['sku']}.",
                "Add the sample orders' products to it; tools/orderctl/demo/catalogue.json lists them.",
            )
        stock[line["sku"]] = found
    return Journey(story, request, stock)


def submit(api: OrdersApi, journey: Journey) -> None:
    """Send the order, twice with the same key if the story says so; Stop(REFUSED) if the API refuses it."""
    key = f"demo-{uuid.uuid4()}"
    body = json.dumps(journey.request)
    journey.order_id = decode(api.submit(body, key), Accepted).order_id
    if journey.story.submit_twice:
        again = api.submit(body, key)
        accepted = decode(again, Accepted)
        if again.headers.get("Idempotency-Replayed") == "true":
            journey.replayed_as = accepted.order_id


def watch(
    api: OrdersApi,
    target: Target,
    journeys: list[Journey],
    changed: Callable[[Journey], None] = lambda _: None,
    *,
    checks_timeout_s: float = CHECKS_TIMEOUT_S,
) -> None:
    """Follow the orders until each has ended and met its expectations, or until the time-out.

    `checks_timeout_s` is how long the expectations may take after the last order's end.
    """
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
            all_ended, deadline = True, time.monotonic() + checks_timeout_s
        if pending:
            time.sleep(POLL_S)
    for journey in pending:
        if journey.status not in TERMINAL:
            journey.problems = [f"still {journey.status} after {ORDERS_TIMEOUT_S:.0f} s"]


def check(target: Target, journey: Journey) -> list[str]:
    """Return the expectations that an ended order does not meet; an empty list if it meets all."""
    story, problems = journey.story, []
    if journey.status != story.status:
        problems.append(f"expected {story.status}")
    code = journey.order.reason.code if journey.order and journey.order.reason else None
    if code != story.reason:
        problems.append(f"expected the reason {story.reason}, not {code}")
    return problems + [found for each in story.checks if (found := each(target, journey))]


def as_table(journeys: list[Journey]) -> Table:
    """Return a table of the orders, one line each; too long a line ends in an ellipsis."""
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
    """Return in a few words how far an order is, or how it ended."""
    if journey.status not in TERMINAL:
        return tables.steps(journey.order.timeline).rpartition(", ")[2] if journey.order else ""
    return "; ".join(journey.problems) or f"as expected: {journey.story.what_happens}"


def _colour(journey: Journey) -> str:
    return "cyan" if journey.status not in TERMINAL else "yellow" if journey.problems else "green"


def _in_one_line(journey: Journey) -> str:
    name, ends = journey.story.sample, escape(what_happened(journey))
    return f"{name:<17}  {journey.order_id}  {journey.status:<9}  {ends}"


def summarise(target: Target, journeys: list[Journey], seconds: float) -> None:
    """Show the outcome and three commands: send another order, show an order, stop the local cloud."""
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
    """Return a command for a POSIX shell that submits a sample order; each run of it is a new order."""
    sample = shown(samples.HERE / "samples" / "fulfilled.json")
    lines = [
        f'curl -i -H "Authorization: $({target.command("token")})"',
        "-H 'Content-Type: application/json' -H \"Idempotency-Key: $(date +%s)\"",
        f"-d {shlex.quote(f'@{sample}')}",
        shlex.quote(f"{target.api_url}/orders"),
    ]
    return " \\\n  ".join(lines)
