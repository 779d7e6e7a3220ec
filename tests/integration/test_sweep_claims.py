"""How the sweep restarts an idle order: once, three times, not while something is behind; and when orders expire."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from orders.domain import clock as orders_clock
from orders.domain.clock import timestamp_before
from orders.domain.order import Order, Reason, Status
from orders.inbox.parse import read_message
from orders.inbox.record import Action, FailureStatus, Kind
from orders.inbox.store import FailuresTable
from tests.integration.test_sweep_orders import (
    NOTHING,
    Alarms,
    Workflows,
    a_failure,
    alarms,
    an_overdue_order,
    inbox,
    sweep,
    workflows,
)
from tests.integration.world import ENVIRONMENT, REGION, World, an_order, function

__all__ = ["alarms", "inbox", "workflows"]  # fixtures

DAY_S = 86_400
EVENTS_LATE, CAPTURE_LATE = ENVIRONMENT["BEHIND_ALARMS"].split(",")
FULFILMENT_LATE = ENVIRONMENT["FULFILMENT_BEHIND_ALARM"]


@pytest.fixture
def advance(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Move the clock of the stored times; between the moves, that clock stands still."""
    now = [datetime.datetime.now(datetime.UTC)]
    frozen = SimpleNamespace(
        UTC=datetime.UTC, timedelta=datetime.timedelta, datetime=SimpleNamespace(now=lambda _: now[0])
    )
    monkeypatch.setattr(orders_clock, "datetime", frozen)

    def move(seconds: float) -> None:
        now[0] += datetime.timedelta(seconds=seconds)

    return move


def idle_orders(world: World, count: int, **changes: Any) -> list[Order]:
    """Overdue orders, one in a shard."""
    return [
        an_overdue_order(world, order_id=f"{number:08}-8218-51d2-a18e-3e00fd0aa7a{number:x}", **changes)
        for number in range(count)
    ]


# ---- Once


def test_two_sweeps_at_once_start_one_workflow(
    world: World, workflows: Workflows, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a sweep that has chosen an order, and another sweep that does all its work before the first one's claim
    an_overdue_order(world)
    table, others = function("sweep_orders")._orders, list[dict[str, Any]]()
    claim = table.claim_restart

    def after_the_other(*given: Any) -> bool:
        monkeypatch.setattr(table, "claim_restart", claim)
        others.append(sweep())
        return bool(claim(*given))

    monkeypatch.setattr(table, "claim_restart", after_the_other)

    assert sweep() == {**NOTHING, "fine": 1}

    assert others == [{**NOTHING, "restarted": 1}]
    assert len(workflows.started) == 1


def test_an_order_whose_event_was_lost_is_restarted_within_its_promise_and_a_minute(
    world: World, workflows: Workflows, advance: Callable[[float], None]
) -> None:
    advance(0)
    world.store(an_order())
    waited = 0

    while not workflows.started:
        advance(60)
        waited += 60
        sweep()

    assert 600 < waited <= 660


# ---- Three times


def test_an_order_that_kills_every_execution_is_restarted_three_times_and_then_in_the_inbox(
    world: World, workflows: Workflows, inbox: FailuresTable, advance: Callable[[float], None]
) -> None:
    order = world.store(an_order(correlation_id="correlation-7"))
    done: list[tuple[int, str]] = []

    # WHEN the sweep runs every minute for three hours, and failures are captured
    for minute in range(1, 181):
        advance(60)
        counts = sweep()
        done += [(minute, name) for name in ("restarted", "toInbox") if counts[name]]
        if counts["toInbox"]:
            (body,) = world.messages("FailuresQueue")
            inbox.add(read_message({"body": body, "messageId": "message-1"}), "message-1")

    # THEN the inbox alone has the order from then on
    assert done == [(11, "restarted"), (22, "restarted"), (33, "restarted"), (44, "toInbox")]
    assert counts == {**NOTHING, "inInbox": 1}
    assert json.loads(body) == {
        "kind": "StuckOrder",
        "customerId": order.customer_id,
        "orderId": order.order_id,
        "correlationId": "correlation-7",
        "state": "PLACED",
        "error": "NoProgress",
        "cause": "restarted 3 times without progress",
        "execution": "",
    }
    (failure,) = inbox.of_order(order.order_id)
    assert (failure.kind, failure.redrive.action, failure.error_name) == (Kind.EXECUTION, Action.RESUME, "NoProgress")


def test_a_redrive_without_effect_puts_the_order_back_into_the_inbox(
    world: World, workflows: Workflows, inbox: FailuresTable, advance: Callable[[float], None]
) -> None:
    # GIVEN an order that was restarted three times in vain, and whose failure was redriven
    at = timestamp_before(3_600)
    order = an_overdue_order(world, swept_at=timestamp_before(1_800), restarts=3, placed_at=at, updated_at=at)
    record = a_failure(world, order)
    inbox.confirm(inbox.claim(record.failure_id, by="ada"), "started")

    assert sweep() == {**NOTHING, "inInbox": 1}
    advance(601)
    assert sweep() == {**NOTHING, "toInbox": 1}

    assert workflows.started == []


def test_a_restart_that_brings_the_order_on_starts_the_count_again(
    world: World, workflows: Workflows, advance: Callable[[float], None]
) -> None:
    order = an_overdue_order(world, swept_at=timestamp_before(1_800), restarts=3, updated_at=timestamp_before(1_700))

    sweep()

    assert world.order(order).restarts == 1
    for expected in (2, 3, 3):
        advance(601)
        sweep()
        assert world.order(order).restarts == expected
    assert (len(workflows.started), len(world.messages("FailuresQueue"))) == (3, 1)


def test_an_order_that_cannot_be_given_to_the_inbox_is_given_to_it_after_another_promise(
    world: World, workflows: Workflows, advance: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    an_overdue_order(world, swept_at=timestamp_before(1_800), restarts=3)
    queue = function("sweep_orders")._sqs

    def refuse(**_: Any) -> None:
        raise RuntimeError("no connection")

    with monkeypatch.context() as refused:
        refused.setattr(queue, "send_message", refuse)
        assert sweep() == {**NOTHING, "failed": 1}
    advance(601)
    assert sweep() == {**NOTHING, "toInbox": 1}

    assert workflows.started == []


# ---- At most so many


def test_a_run_restarts_so_many_orders_and_the_next_one_goes_on_there(
    world: World, workflows: Workflows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEP_RESTARTS", "2")
    orders = idle_orders(world, 5)

    answers = [sweep() for _ in range(3)]

    assert [(each["restarted"], each["later"], each["complete"]) for each in answers] == [
        (2, 3, False),
        (2, 1, False),
        (1, 0, True),
    ]
    assert {given["data"]["orderId"] for _, given in workflows.started} == {order.order_id for order in orders}


def test_an_operator_may_ask_for_more_restarts(
    world: World, workflows: Workflows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEP_RESTARTS", "2")
    idle_orders(world, 5)

    assert sweep(maxRestarts=4)["restarted"] == 4


def test_a_throttled_start_ends_the_restarts_of_this_run(
    world: World, workflows: Workflows, advance: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    idle_orders(world, 3)

    def throttled(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "ThrottlingException"}}, "StartExecution")

    with monkeypatch.context() as busy:
        busy.setattr(workflows, "start_execution", throttled)
        assert sweep() == {**NOTHING, "failed": 1, "later": 2, "complete": False}

    # THEN the next run restarts the others, and the first one is due again after its promise
    assert sweep() == {**NOTHING, "restarted": 2}
    advance(601)
    assert sweep()["restarted"] == 3


def test_a_start_that_fails_otherwise_does_not_stop_the_others(
    world: World, workflows: Workflows, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle_orders(world, 2)
    start = workflows.start_execution

    def fail_once(**_: Any) -> None:
        monkeypatch.setattr(workflows, "start_execution", start)
        raise ClientError({"Error": {"Code": "InvalidName"}}, "StartExecution")

    monkeypatch.setattr(workflows, "start_execution", fail_once)

    assert sweep() == {**NOTHING, "failed": 1, "restarted": 1}


def test_each_minute_another_shard_comes_first(
    world: World, workflows: Workflows, advance: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    first: list[int] = []

    def idle(*, first_shard: int, **_: str) -> Any:
        first.append(first_shard)
        return iter([])

    monkeypatch.setattr(function("sweep_orders")._orders, "idle", idle)

    for _ in range(60):
        sweep()
        advance(60)

    assert set(first) == set(range(16))


# ---- Not while something is behind


@pytest.mark.parametrize(
    ("firing", "restarted"),
    [([], 4), ([EVENTS_LATE], 0), ([CAPTURE_LATE], 0), ([FULFILMENT_LATE], 3), ([FULFILMENT_LATE, EVENTS_LATE], 0)],
)
def test_no_order_is_restarted_whose_event_or_message_may_be_on_its_way(
    world: World, workflows: Workflows, alarms: Alarms, firing: list[str], restarted: int
) -> None:
    for number, status in enumerate((Status.PLACED, Status.RESERVED, Status.PAID, Status.FAILING)):
        an_overdue_order(world, order_id=f"{number:08}-8218-51d2-a18e-3e00fd0aa7a7", status=status)
    alarms.firing = firing

    later = 4 - restarted
    assert sweep() == {**NOTHING, "restarted": restarted, "later": later, "complete": not later}


def test_without_an_answer_about_alarms_orders_are_restarted(
    world: World, workflows: Workflows, monkeypatch: pytest.MonkeyPatch, logs: Callable[[], list[dict[str, Any]]]
) -> None:
    idle_orders(world, 2)
    asked: list[int] = []

    def unreachable() -> None:
        asked.append(1)
        raise RuntimeError("no connection")

    monkeypatch.setattr(function("sweep_orders"), "_cloudwatch", unreachable)

    assert sweep() == {**NOTHING, "restarted": 2}

    assert len(asked) == 1
    assert [line["level"] for line in logs() if "nobody knows" in line["message"]] == ["ERROR"]


def test_alarms_are_asked_for_by_name(world: World, workflows: Workflows, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN a CloudWatch in memory with alarms of this stack and of another one
    cloudwatch = boto3.session.Session(region_name=REGION).client("cloudwatch")
    for name in (EVENTS_LATE, CAPTURE_LATE, FULFILMENT_LATE, "OfAnotherStack"):
        cloudwatch.put_metric_alarm(
            AlarmName=name,
            Namespace="AWS/SQS",
            MetricName="ApproximateAgeOfOldestMessage",
            Statistic="Maximum",
            Period=60,
            EvaluationPeriods=1,
            Threshold=0,
            ComparisonOperator="GreaterThanThreshold",
        )
    monkeypatch.setattr(function("sweep_orders"), "_cloudwatch", lambda: cloudwatch)
    idle_orders(world, 1, status=Status.PAID)

    for name in ("OfAnotherStack", FULFILMENT_LATE):
        cloudwatch.set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="test")
        assert sweep()["restarted"] == (name == "OfAnotherStack")
        idle_orders(world, 1, status=Status.PAID)


@pytest.mark.parametrize("trouble", ["broken", "late"])
def test_nothing_is_restarted_by_a_sweep_that_does_not_know_the_whole_inbox(
    world: World, workflows: Workflows, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    # GIVEN an order that lost its event and one that has expired, and an inbox whose list breaks off
    idle_orders(world, 1)
    expired = an_overdue_order(world, placed_at=timestamp_before(DAY_S + 60))
    a_failure(world, an_order(order_id="22222222-8218-51d2-a18e-3e00fd0aa7a7"))
    module, calls = function("sweep_orders"), []
    listed = module._open_failures

    def break_off_once(unreadable: list[str]) -> Any:
        calls.append(1)
        if len(calls) > 1:
            yield from listed(unreadable)
        elif trouble == "broken":
            raise RuntimeError("no connection")
        else:
            with monkeypatch.context() as late:
                late.setattr(module, "RESERVE_MS", 10**9)
                yield from listed(unreadable)

    monkeypatch.setattr(module, "_open_failures", break_off_once)

    assert sweep() == {**NOTHING, "expired": 1, "later": 1, "complete": False}

    assert workflows.started == []
    assert world.order(expired).status is Status.FAILING


# ---- Expiry


@pytest.mark.parametrize(
    ("status", "age_s", "expired"),
    [
        (Status.PLACED, DAY_S + 60, 1),
        (Status.RESERVED, DAY_S + 60, 1),
        (Status.RESERVED, DAY_S - 60, 0),
        (Status.PAID, DAY_S + 60, 0),
        (Status.FAILING, DAY_S + 60, 0),
    ],
)
def test_an_order_that_is_not_paid_in_time_is_given_up(
    world: World, workflows: Workflows, status: Status, age_s: float, expired: int
) -> None:
    order = an_overdue_order(world, status=status, placed_at=timestamp_before(age_s))

    assert sweep() == {**NOTHING, "expired": expired, "restarted": 1 - expired}

    now = world.order(order)
    if expired:
        assert (now.status, now.version, now.open_shard) == (Status.FAILING, order.version + 1, order.open_shard)
        assert now.reason == Reason("Expired", "the order was not paid in time")
    else:
        assert (now.status, now.version) == (status, order.version)


def test_an_order_in_the_inbox_expires_too_also_while_something_is_behind(
    world: World, workflows: Workflows, alarms: Alarms, inbox: FailuresTable
) -> None:
    order = an_overdue_order(world, status=Status.RESERVED, placed_at=timestamp_before(DAY_S + 60))
    record = a_failure(world, order)
    alarms.firing = [EVENTS_LATE, CAPTURE_LATE, FULFILMENT_LATE]

    assert sweep() == {**NOTHING, "expired": 1}

    found = inbox.get(record.failure_id)
    assert found is not None
    assert (world.order(order).status, found.status) == (Status.FAILING, FailureStatus.NEW)


def test_an_order_that_is_paid_at_this_moment_does_not_expire(
    world: World, workflows: Workflows, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = an_overdue_order(world, status=Status.RESERVED, placed_at=timestamp_before(DAY_S + 60))
    table = function("sweep_orders")._orders
    start_failing = table.start_failing

    def after_the_payment(*given: Any, **more: Any) -> Order:
        world.orders.mark_paid(order.customer_id, order.order_id, "pay_1")
        failing: Order = start_failing(*given, **more)
        return failing

    monkeypatch.setattr(table, "start_failing", after_the_payment)

    assert sweep() == {**NOTHING, "fine": 1}

    assert world.order(order).status is Status.PAID


def test_a_run_lets_so_many_orders_expire(
    world: World, workflows: Workflows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEP_RESTARTS", "2")
    idle_orders(world, 3, placed_at=timestamp_before(DAY_S + 60))
    an_overdue_order(world)

    assert sweep() == {**NOTHING, "expired": 2, "restarted": 1, "later": 1, "complete": False}
    assert sweep() == {**NOTHING, "expired": 1}


def test_an_operator_may_ask_for_an_earlier_expiry(world: World, workflows: Workflows) -> None:
    an_overdue_order(world)

    assert sweep(expirySeconds=60) == {**NOTHING, "expired": 1}


def test_an_undoing_that_nobody_started_is_restarted(
    world: World, workflows: Workflows, advance: Callable[[float], None]
) -> None:
    an_overdue_order(world, placed_at=timestamp_before(DAY_S + 60))

    sweep()
    advance(601)

    assert sweep() == {**NOTHING, "restarted": 1}


# ---- Metrics


def test_what_happens_seldom_is_counted_only_when_it_happens(
    world: World, workflows: Workflows, capsys: pytest.CaptureFixture[str]
) -> None:
    an_overdue_order(world, placed_at=timestamp_before(DAY_S + 60))
    idle_orders(world, 1, swept_at=timestamp_before(1_800), restarts=3)

    sweep()
    sweep()

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"_aws"' in line]
    assert [(line.get("OrdersExpired"), line.get("OrdersGivenToInbox")) for line in lines] == [
        ([1], [1]),
        (None, None),
    ]
