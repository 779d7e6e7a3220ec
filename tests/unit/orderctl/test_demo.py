"""The demonstration finds what is wrong: each of its checks can fail."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import pytest
from rich.console import Console

from orderctl.demo import demonstration, samples, stories
from orderctl.demo.stories import STORIES, Journey
from orderctl.stack import records
from orderctl.stack.records import Payment, Stock
from orderctl.stack.target import Target
from orderctl.ui import console
from orders.domain.customer_view import OrderView, view_of
from orders.domain.order import Reason, Status, TimelineEntry
from tests.integration.world import an_order
from tests.unit.orderctl.test_explain import a_failure

SHOP = Target("test", {}, "", None)
CHARGED = Payment("CHARGED", 1, 1290)
BEFORE = Stock(available=10, reserved=2, sold=5)
PLACED_AT = "2026-11-21T07:00:00.000Z"


def journey(sample: str, **order: Any) -> Journey:
    story = next(story for story in STORIES if story.sample == sample)
    request = samples.sample(sample)
    stock = {line["sku"]: BEFORE for line in request["lines"]}
    return Journey(story, request, stock, "order-1", order=a_view(**order))


def a_view(**changes: Any) -> OrderView:
    return msgspec.structs.replace(view_of(an_order()), **{"total": 1290, "timeline": [], **changes})


def failed_attempts(number: int) -> list[TimelineEntry]:
    return [TimelineEntry(PLACED_AT, "PaymentAttemptFailed")] * number


@pytest.mark.parametrize(
    ("check", "entry", "good"),
    [
        (stories.charged_once, CHARGED, True),
        (stories.charged_once, Payment("CHARGED", 2, 1290), False),
        (stories.charged_once, Payment("CHARGED", 1, 1), False),
        (stories.charged_once, Payment("REFUNDED", 1, 1290), False),
        (stories.charged_once, None, False),
        (stories.refunded, Payment("REFUNDED", 1, 1290), True),
        (stories.refunded, CHARGED, False),
        (stories.refunded, None, False),
        (stories.not_charged, None, True),
        (stories.not_charged, Payment("VOIDED"), True),
        (stories.not_charged, CHARGED, False),
    ],
)
def test_the_ledger_decides_about_money(
    monkeypatch: pytest.MonkeyPatch, check: stories.Check, entry: Payment | None, good: bool
) -> None:
    monkeypatch.setattr(records, "payment_of", lambda *_: entry)
    assert (check(SHOP, journey("provider-down")) == "") is good


@pytest.mark.parametrize(
    ("check", "now", "good"),
    [
        (stories.stock_sold, Stock(available=9, reserved=2, sold=6), True),
        (stories.stock_sold, Stock(available=9, reserved=3, sold=5), False),
        (stories.stock_sold, BEFORE, False),
        (stories.stock_untouched, BEFORE, True),
        (stories.stock_untouched, Stock(available=9, reserved=3, sold=5), False),
        (stories.stock_untouched, None, False),
    ],
)
def test_the_catalogue_decides_about_stock(
    monkeypatch: pytest.MonkeyPatch, check: stories.Check, now: Stock | None, good: bool
) -> None:
    monkeypatch.setattr(records, "stock_of", lambda *_: now)
    assert (check(SHOP, journey("provider-down")) == "") is good


@pytest.mark.parametrize(("failed", "good"), [(2, True), (3, True), (1, False)])
def test_retries_must_show_in_the_timeline(failed: int, good: bool) -> None:
    timeline = [TimelineEntry(PLACED_AT, "PLACED"), *failed_attempts(failed)]
    check = stories.attempts_failed(2)
    assert (check(SHOP, journey("provider-down", timeline=timeline)) == "") is good


@pytest.mark.parametrize(
    ("components", "good"),
    [(["orders-IssueReceiptFunction-1"], True), (["OrderWorkflow"], False), ([], False)],
)
def test_only_the_receipts_failure_counts(monkeypatch: pytest.MonkeyPatch, components: list[str], good: bool) -> None:
    found = [a_failure(component=component) for component in components]
    monkeypatch.setattr(records, "failures_of", lambda *_: (found, []))
    assert (stories.receipt_in_failure_inbox(SHOP, journey("receipt-fails")) == "") is good


@pytest.mark.parametrize(("replayed_as", "good"), [("order-1", True), ("order-2", False), ("", False)])
def test_a_second_order_for_the_same_key_is_found(replayed_as: str, good: bool) -> None:
    sent = journey("sent-twice")
    sent.replayed_as = replayed_as
    assert (stories.same_answer_twice(SHOP, sent) == "") is good


@pytest.mark.parametrize(
    ("status", "code", "problems"),
    [("FAILED", "PaymentDeclined", 0), ("FAILED", "OutOfStock", 1), ("FULFILLED", None, 2)],
)
def test_status_and_reason_must_be_the_storys(
    monkeypatch: pytest.MonkeyPatch, status: str, code: str | None, problems: int
) -> None:
    # GIVEN an order of the story that must be declined, with money and stock in order
    monkeypatch.setattr(records, "payment_of", lambda *_: None)
    monkeypatch.setattr(records, "stock_of", lambda *_: BEFORE)
    reason = Reason(code, "no") if code else None

    # THEN any other end is found
    assert len(demonstration.check(SHOP, journey("declined", status=Status(status), reason=reason))) == problems


def shown_at(width: int, journeys: list[Journey]) -> list[str]:
    """The lines that a terminal of this width shows, and how wide they are."""
    terminal = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    terminal.print(demonstration.as_table(journeys))
    assert isinstance(terminal.file, io.StringIO)
    return [line.rstrip() for line in terminal.file.getvalue().splitlines()]


@pytest.mark.parametrize("status", ["PLACED", "FULFILLED", "FAILED"])
@pytest.mark.parametrize("width", [80, 120])
def test_all_stories_fit_on_a_small_terminal(status: str, width: int) -> None:
    # GIVEN all orders, on their way or well at their end
    journeys = [journey(story.sample, status=Status(status), timeline=failed_attempts(12)) for story in STORIES]
    for each in journeys:
        each.problems, each.order_id = [], "6cafccf8-0d93-54ab-8001-667180460910"

    # WHEN they are shown
    lines = shown_at(width, journeys)

    # THEN each is one line, with all its words, and there is room for the summary
    assert len(lines) == 1 + len(STORIES)
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    for each, line in zip(journeys, lines[1:], strict=True):
        assert line.split()[:3] == [each.story.sample, "6cafccf8", status]
        assert line.endswith(demonstration.what_happened(each))


def test_what_is_too_long_for_the_terminal_ends_in_an_ellipsis() -> None:
    wrong = journey("declined", status=Status.FULFILLED)
    wrong.problems = ["expected FAILED", "expected the reason PaymentDeclined, not None"]
    assert shown_at(80, [wrong])[1].endswith("…")


class Api:
    """The REST API, of which every answer is the same."""

    def __init__(self, answer: OrderView) -> None:
        self.answer = answer

    def order(self, _: str) -> OrderView:
        return self.answer


def test_without_a_terminal_each_order_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # GIVEN orders that pass all their checks when they are looked at for the third time
    looks: dict[str, int] = {}

    def check(_: Target, looked_at: Journey) -> list[str]:
        looks[looked_at.story.sample] = looks.get(looked_at.story.sample, 0) + 1
        return [] if looks[looked_at.story.sample] == 3 else ["no receipt yet"]

    monkeypatch.setattr(demonstration, "check", check)
    monkeypatch.setattr(demonstration, "POLL_S", 0.0)
    monkeypatch.setattr(console, "out", Console(width=160))
    journeys = [journey(story.sample) for story in STORIES]
    api: Any = Api(a_view(status=Status.FULFILLED))

    # WHEN they are watched
    with demonstration._display(SHOP, journeys, as_json=False) as changed:
        demonstration.watch(api, SHOP, journeys, changed)

    # THEN each is told once, in whole
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [story.sample for story in STORIES]
    assert all("order-1" in line and "as expected" in line for line in lines)
