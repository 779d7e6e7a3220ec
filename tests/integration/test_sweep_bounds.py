"""Whom the sweep may touch and when: one bad record doesn't stop it, and nothing is done twice or too early."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from orders.domain.clock import timestamp_before
from orders.domain.order import Status
from orders.inbox.record import Action, FailureStatus, Kind, Redrive
from orders.inbox.store import FailuresTable
from orders.storage.dynamodb import to_item
from tests.integration.test_sweep_orders import (
    LONG_AGO,
    MACHINE,
    NOTHING,
    OTHER_ID,
    Context,
    Workflows,
    a_failure,
    alarms,
    an_overdue_order,
    inbox,
    status_of,
    sweep,
    workflows,
)
from tests.integration.world import ENVIRONMENT, World, an_order, function

__all__ = ["alarms", "inbox", "workflows"]  # fixtures

RECEIPTS = Redrive(Action.INVOKE, "arn:aws:lambda:us-east-1:123456789012:function:receipts")


def test_a_failure_whose_order_is_missing_does_not_stop_the_sweep(
    world: World, workflows: Workflows, inbox: FailuresTable
) -> None:
    # GIVEN one failure of an order that nobody finds, and one of an order that has ended
    lost = a_failure(world, an_order(order_id=OTHER_ID), failure_id="0" * 20)
    over = a_failure(world, world.store(an_order(status=Status.FULFILLED, open_shard=None)))

    assert sweep() == {**NOTHING, "resolved": 1}

    assert (status_of(inbox, lost), status_of(inbox, over)) == (FailureStatus.NEW, FailureStatus.RESOLVED)


def lag(world: World, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Let the index describe one overdue order as it was before `changes` were written to the table."""
    order = an_overdue_order(world)
    pages = world.orders.idle(since=timestamp_before(600), paid_since=timestamp_before(1_800))
    page = next(page for page in pages if page.orders)
    monkeypatch.setattr(function("sweep_orders")._orders, "idle", lambda **_: iter([page]))
    world.store(msgspec.structs.replace(order, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"status": Status.FULFILLED, "open_shard": None},
        {"status": Status.RESERVED},
        {"updated_at": "2026-11-22T00:00:00.000Z"},
        {"swept_at": "2026-11-22T00:00:00.000Z"},
    ],
    ids=["ended", "has another status", "changed", "restarted"],
)
def test_an_order_that_has_moved_is_fine_though_the_index_lags_behind(
    world: World, workflows: Workflows, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    lag(world, monkeypatch, **changes)

    assert sweep() == {**NOTHING, "fine": 1}

    assert workflows.started == []


def test_an_order_in_the_inbox_is_counted_as_such(world: World, workflows: Workflows) -> None:
    a_failure(world, an_overdue_order(world))
    assert sweep() == {**NOTHING, "inInbox": 1}


@pytest.mark.parametrize(
    "case",
    [
        (Status.PLACED, 590, 0),
        (Status.PLACED, 610, 1),
        (Status.RESERVED, 610, 1),
        (Status.FAILING, 610, 1),
        (Status.PAID, 610, 0),
        (Status.PAID, 1_790, 0),
        (Status.PAID, 1_810, 1),
    ],
)
@pytest.mark.parametrize("sign", ["updated_at", "swept_at"])
def test_an_order_is_idle_after_its_promise_and_the_warehouse_has_longer(
    world: World, workflows: Workflows, case: tuple[Status, float, int], sign: str
) -> None:
    status, idle, restarted = case
    # GIVEN an order whose last sign of life is that it changed, or that the sweep restarted it
    an_overdue_order(world, status=status, **{sign: timestamp_before(idle)})

    assert sweep()["restarted"] == restarted


def test_an_operator_may_ask_for_another_promise(world: World, workflows: Workflows) -> None:
    at = timestamp_before(60)
    world.store(an_order(placed_at=at, updated_at=at))
    world.store(an_order(placed_at=at, updated_at=at, status=Status.PAID, order_id=OTHER_ID))

    assert sweep()["restarted"] == 0
    assert sweep(promiseSeconds=30)["restarted"] == 2


@pytest.mark.parametrize(
    "request_", [{"promiseSeconds": 0}, {"quietSeconds": -1}, {"expirySeconds": 0}, {"maxRestarts": 0}]
)
def test_what_is_no_promise_is_refused(world: World, workflows: Workflows, request_: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Expected `"):
        function("sweep_orders").handler(request_, Context())


@pytest.mark.parametrize(
    ("changes", "restarted"),
    [
        ({"kind": Kind.QUEUE, "resource_arn": ENVIRONMENT["FULFILMENT_QUEUE_ARN"]}, 0),
        ({"kind": Kind.QUEUE, "resource_arn": "arn:aws:sqs:us-east-1:123456789012:NotificationsQueue"}, 1),
        ({"kind": Kind.STREAM, "redrive": Redrive(Action.PUBLISH)}, 0),
        ({"kind": Kind.RULE_TARGET, "redrive": Redrive(Action.DELIVER, MACHINE, "rule")}, 0),
        ({"kind": Kind.RULE_TARGET, "redrive": Redrive(Action.DELIVER, "arn:aws:sqs:::Notifications", "rule")}, 1),
    ],
    ids=["shipment", "mail", "event", "start of the workflow", "start of something else"],
)
def test_an_order_waits_for_what_moves_it_and_for_nothing_else(
    world: World, workflows: Workflows, changes: dict[str, Any], restarted: int
) -> None:
    usual = {"redrive": Redrive(Action.SEND, "arn:aws:sqs:us-east-1:123456789012:Some"), "resource_arn": "arn"}
    a_failure(world, an_overdue_order(world), **{**usual, **changes})

    assert sweep()["restarted"] == restarted


@pytest.mark.parametrize(
    ("claimed", "status", "released"),
    [(901, FailureStatus.REDRIVEN, 1), (880, FailureStatus.REDRIVEN, 0), (901, FailureStatus.NEW, 0)],
    ids=["long ago", "lately", "not claimed any more"],
)
def test_a_claim_is_given_back_when_it_has_been_quiet(
    world: World, inbox: FailuresTable, claimed: float, status: FailureStatus, released: int
) -> None:
    record = a_failure(
        world,
        world.store(an_order()),
        status=status,
        claimed_at=timestamp_before(claimed),
        claimed_by="ada",
    )

    assert sweep() == {**NOTHING, "released": released}

    found = inbox.get(record.failure_id)
    assert found is not None
    assert found.status is (FailureStatus.NEW if released else status)
    assert [entry.detail for entry in found.history] == ["it was claimed and never confirmed as sent"] * released


def test_a_failure_that_was_sent_is_not_given_back(world: World, workflows: Workflows, inbox: FailuresTable) -> None:
    record = a_failure(
        world, world.store(an_order()), status=FailureStatus.REDRIVEN, claimed_at=LONG_AGO, sent_at=LONG_AGO
    )

    assert sweep() == NOTHING

    assert status_of(inbox, record) is FailureStatus.REDRIVEN


def test_an_operator_may_ask_for_less_quiet(world: World, workflows: Workflows, inbox: FailuresTable) -> None:
    sent = timestamp_before(60)
    record = a_failure(
        world,
        an_order(),
        kind=Kind.FUNCTION,
        redrive=RECEIPTS,
        status=FailureStatus.REDRIVEN,
        claimed_at=sent,
        sent_at=sent,
    )

    assert sweep()["resolved"] == 0
    assert sweep(quietSeconds=30)["resolved"] == 1

    found = inbox.get(record.failure_id)
    assert found is not None
    assert (found.reason, found.history[-1].by) == ("it was redriven and has not failed again", "sweep")


def test_a_new_failure_of_a_receipt_is_not_over(world: World, workflows: Workflows, inbox: FailuresTable) -> None:
    order = world.store(an_order(status=Status.FULFILLED, open_shard=None))
    record = a_failure(world, order, kind=Kind.FUNCTION, redrive=RECEIPTS, resource_arn=RECEIPTS.to)

    assert sweep() == NOTHING

    assert status_of(inbox, record) is FailureStatus.NEW


def test_what_is_over_says_how_its_order_ended(world: World, workflows: Workflows, inbox: FailuresTable) -> None:
    record = a_failure(world, world.store(an_order(status=Status.CANCELLED, open_shard=None)))

    sweep()

    found = inbox.get(record.failure_id)
    assert found is not None
    assert found.reason == "the order is CANCELLED"


def test_a_failure_that_somebody_claims_meanwhile_is_left_to_them(
    world: World, workflows: Workflows, inbox: FailuresTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN two failures that are over, of which an operator settles one just now
    order = world.store(an_order(status=Status.CANCELLED, open_shard=None))
    first = a_failure(world, order, failure_id="0" * 20)
    second = a_failure(world, order, failure_id="1" * 20)
    why_over = function("sweep_orders")._why_over

    def meanwhile(record: Any, *known: Any) -> Any:
        if record.failure_id == first.failure_id:
            inbox.settle(first.failure_id, FailureStatus.DISCARDED, by="ada", reason="rubbish")
            world.dynamodb.update_item(
                TableName="FailuresTable",
                Key=to_item({"failureId": first.failure_id}),
                UpdateExpression="SET version = :version",
                ExpressionAttributeValues=to_item({":version": record.version}),
            )
        return why_over(record, *known)

    monkeypatch.setattr(function("sweep_orders"), "_why_over", meanwhile)

    # THEN the sweep leaves that one and goes on
    assert sweep()["resolved"] == 1
    assert (status_of(inbox, first), status_of(inbox, second)) == (FailureStatus.DISCARDED, FailureStatus.RESOLVED)


class RunsOut(Context):
    """Has time for so many looks at the clock."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.left = looks

    def get_remaining_time_in_millis(self) -> int:
        self.left -= 1
        return 10_000 if self.left >= 0 else 9_999


def test_a_sweep_stops_in_time_and_says_that_it_is_not_done(
    world: World, workflows: Workflows, inbox: FailuresTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    lag(world, monkeypatch)
    order = world.store(an_order(order_id=OTHER_ID, status=Status.CANCELLED, open_shard=None))
    a_failure(world, order, failure_id="0" * 20)
    a_failure(world, order, failure_id="1" * 20)

    # WHEN there is time for the order, the list of two failures, the page, and one failure of the list
    answer = sweep(RunsOut(6))

    assert answer == {**NOTHING, "restarted": 1, "resolved": 1, "complete": False}


def test_the_sweep_counts_what_it_did_for_the_alarms(
    world: World, workflows: Workflows, capsys: pytest.CaptureFixture[str]
) -> None:
    an_overdue_order(world)
    world.put("OrdersTable", customerId="c", orderId="o", openShard="00", placedAt=LONG_AGO)

    sweep()

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    (counted,) = [line for line in lines if "_aws" in line]
    assert (counted["OrdersRestarted"], counted["OrdersNotRestarted"]) == ([1], [1])


def test_the_sweep_waits_for_the_promises_the_expiry_and_a_quarter_of_an_hour_of_quiet(
    world: World, workflows: Workflows, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def before(seconds: float) -> str:
        asked.append(seconds)
        return timestamp_before(seconds)

    monkeypatch.setattr(function("sweep_orders"), "timestamp_before", before)

    sweep()

    assert asked == [600, 1_800, 86_400, 900]
