"""The demonstration finds what is wrong: each of its checks can fail."""

from __future__ import annotations

from typing import Any

import pytest

from orderctl import demo, records, samples
from orderctl.demo import STORIES, Journey
from orderctl.target import Target

SHOP = Target("test", {}, "", None)
CHARGED = {"status": "CHARGED", "charges": 1, "amount": 1290}
BEFORE = {"available": 10, "reserved": 2, "sold": 5}


def journey(sample: str, **order: Any) -> Journey:
    story = next(story for story in STORIES if story.sample == sample)
    request = samples.sample(sample)
    stock = {line["sku"]: BEFORE for line in request["lines"]}
    return Journey(story, request, stock, "order-1", order={"total": 1290, "timeline": [], **order})


@pytest.mark.parametrize(
    ("check", "entry", "good"),
    [
        (demo.charged_once, CHARGED, True),
        (demo.charged_once, {**CHARGED, "charges": 2}, False),
        (demo.charged_once, {**CHARGED, "amount": 1}, False),
        (demo.charged_once, {**CHARGED, "status": "REFUNDED"}, False),
        (demo.charged_once, None, False),
        (demo.refunded, {**CHARGED, "status": "REFUNDED"}, True),
        (demo.refunded, CHARGED, False),
        (demo.refunded, None, False),
        (demo.not_charged, None, True),
        (demo.not_charged, {"status": "VOIDED"}, True),
        (demo.not_charged, CHARGED, False),
    ],
)
def test_the_ledger_decides_about_money(
    monkeypatch: pytest.MonkeyPatch, check: demo.Check, entry: dict[str, Any] | None, good: bool
) -> None:
    monkeypatch.setattr(records, "payment_of", lambda *_: entry)
    assert (check(SHOP, journey("provider-down")) == "") is good


@pytest.mark.parametrize(
    ("check", "now", "good"),
    [
        (demo.stock_sold, {"available": 9, "reserved": 2, "sold": 6}, True),
        (demo.stock_sold, {"available": 9, "reserved": 3, "sold": 5}, False),
        (demo.stock_sold, BEFORE, False),
        (demo.stock_untouched, BEFORE, True),
        (demo.stock_untouched, {"available": 9, "reserved": 3, "sold": 5}, False),
        (demo.stock_untouched, None, False),
    ],
)
def test_the_catalogue_decides_about_stock(
    monkeypatch: pytest.MonkeyPatch, check: demo.Check, now: dict[str, Any] | None, good: bool
) -> None:
    monkeypatch.setattr(records, "product", lambda *_: now)
    assert (check(SHOP, journey("provider-down")) == "") is good


@pytest.mark.parametrize(("failed", "good"), [(2, True), (3, True), (1, False)])
def test_retries_must_show_in_the_timeline(failed: int, good: bool) -> None:
    timeline = [{"what": "PLACED"}, *[{"what": "PaymentAttemptFailed"}] * failed]
    check = demo.attempts_failed(2)
    assert (check(SHOP, journey("provider-down", timeline=timeline)) == "") is good


@pytest.mark.parametrize(
    ("found", "good"),
    [
        ([{"component": "orders-IssueReceiptFunction-1"}], True),
        ([{"component": "OrderWorkflow"}], False),
        ([], False),
    ],
)
def test_only_the_receipts_failure_counts(
    monkeypatch: pytest.MonkeyPatch, found: list[dict[str, str]], good: bool
) -> None:
    monkeypatch.setattr(records, "failures_of", lambda *_: found)
    assert (demo.receipt_in_failure_inbox(SHOP, journey("receipt-fails")) == "") is good


@pytest.mark.parametrize(("replayed_as", "good"), [("order-1", True), ("order-2", False), ("", False)])
def test_a_second_order_for_the_same_key_is_found(replayed_as: str, good: bool) -> None:
    sent = journey("sent-twice")
    sent.replayed_as = replayed_as
    assert (demo.same_answer_twice(SHOP, sent) == "") is good


@pytest.mark.parametrize(
    ("status", "code", "problems"),
    [("FAILED", "PaymentDeclined", 0), ("FAILED", "OutOfStock", 1), ("FULFILLED", None, 2)],
)
def test_status_and_reason_must_be_the_storys(
    monkeypatch: pytest.MonkeyPatch, status: str, code: str | None, problems: int
) -> None:
    # GIVEN an order of the story that must be declined, with money and stock in order
    monkeypatch.setattr(records, "payment_of", lambda *_: None)
    monkeypatch.setattr(records, "product", lambda *_: BEFORE)
    reason = {"reason": {"code": code, "message": "no"}} if code else {}

    # THEN any other end is found
    assert len(demo.check(SHOP, journey("declined", status=status, **reason))) == problems
