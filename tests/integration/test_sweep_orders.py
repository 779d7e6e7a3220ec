"""The sweep restarts what nobody sees, closes what is over, and leaves the rest alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from orders.domain.clock import timestamp, timestamp_before
from orders.domain.order import Order, Status
from orders.inbox.record import Action, FailureRecord, FailureStatus, Kind, Redrive
from orders.inbox.store import FailuresTable
from orders.storage.dynamodb import to_item
from tests.integration.world import ENVIRONMENT, LambdaContext, World, an_order, function

MACHINE = ENVIRONMENT["STATE_MACHINE_ARN"]
COUNTS = ("restarted", "expired", "toInbox", "later", "failed", "inInbox", "fine", "resolved", "released")
NOTHING = {**dict.fromkeys(COUNTS, 0), "complete": True}
LONG_AGO = "2026-11-20T00:00:00.000Z"
OTHER_ID = "11111111-8218-51d2-a18e-3e00fd0aa7a7"


class Context(LambdaContext):
    def get_remaining_time_in_millis(self) -> int:
        return 300_000


class NoTime(LambdaContext):
    def get_remaining_time_in_millis(self) -> int:
        return 1_000


@dataclass
class Workflows:
    """What the sweep asks of Step Functions: each call starts an Express workflow, whatever its name."""

    started: list[tuple[str, dict[str, Any]]]

    def start_execution(self, *, stateMachineArn: str, name: str, input: str) -> None:  # noqa: A002, N803
        assert stateMachineArn == MACHINE
        self.started.append((name, json.loads(input)))


class Alarms:
    """What the sweep asks of CloudWatch: which alarms fire."""

    def __init__(self) -> None:
        self.firing: list[str] = []

    def describe_alarms(self, *, AlarmNames: list[str]) -> dict[str, Any]:  # noqa: N803
        states = {name: "ALARM" if name in self.firing else "OK" for name in AlarmNames}
        return {"MetricAlarms": [{"AlarmName": name, "StateValue": state} for name, state in states.items()]}


@pytest.fixture
def alarms(world: World, monkeypatch: pytest.MonkeyPatch) -> Alarms:
    alarms = Alarms()
    monkeypatch.setattr(function("sweep_orders"), "_cloudwatch", lambda: alarms)
    return alarms


@pytest.fixture
def workflows(world: World, alarms: Alarms, monkeypatch: pytest.MonkeyPatch) -> Workflows:
    workflows = Workflows([])
    monkeypatch.setattr(function("sweep_orders"), "_workflows", workflows)
    return workflows


@pytest.fixture
def inbox(world: World) -> FailuresTable:
    return FailuresTable(world.dynamodb, world.s3)


def sweep(context: LambdaContext | None = None, **request: float) -> dict[str, Any]:
    answer: dict[str, Any] = function("sweep_orders").handler(request, context or Context())
    return answer


def an_overdue_order(world: World, **changes: Any) -> Order:
    """An order that broke its promise lately, and has not expired."""
    at = timestamp_before(3_600)
    return world.store(an_order(**{"placed_at": at, "updated_at": at, **changes}))


def a_failure(world: World, order: Order, **changes: Any) -> FailureRecord:
    record = FailureRecord(
        failure_id="0123456789abcdef0123",
        kind=Kind.EXECUTION,
        component="ProcessPayment",
        resource_arn=MACHINE,
        error_name="PaymentProviderError",
        error_message="answered 503",
        occurrence="execution-1",
        redrive=Redrive(Action.RESUME, MACHINE),
        payload="{}",
        order_id=order.order_id,
        customer_id=order.customer_id,
        status=FailureStatus.NEW,
        first_seen_at=LONG_AGO,
        last_seen_at=LONG_AGO,
    )
    record = msgspec.structs.replace(record, **changes)
    world.dynamodb.put_item(TableName="FailuresTable", Item=to_item(msgspec.to_builtins(record)))
    return record


def status_of(inbox: FailuresTable, record: FailureRecord) -> FailureStatus:
    found = inbox.get(record.failure_id)
    assert found is not None
    return found.status


def test_an_overdue_order_in_nobodys_sight_is_restarted_where_it_stands(world: World, workflows: Workflows) -> None:
    order = an_overdue_order(world)

    assert sweep() == {**NOTHING, "restarted": 1}

    data = {"customerId": order.customer_id, "orderId": order.order_id}
    given = {"metadata": {"correlationId": order.correlation_id}, "data": data}
    assert workflows.started == [(f"{order.order_id}-sweep", given)]


def test_a_second_sweep_starts_nothing(world: World, workflows: Workflows) -> None:
    an_overdue_order(world)

    sweep()
    assert sweep() == NOTHING

    assert len(workflows.started) == 1


def test_an_order_within_its_promise_and_one_that_has_ended_are_left_alone(
    world: World, workflows: Workflows
) -> None:
    world.store(an_order(order_id=OTHER_ID))
    an_overdue_order(world, status=Status.FULFILLED, open_shard=None)

    assert sweep() == NOTHING


@pytest.mark.parametrize(
    ("changes", "restarted"),
    [
        ({}, 0),
        ({"status": FailureStatus.REDRIVEN, "claimed_at": timestamp(), "sent_at": timestamp()}, 0),
        ({"status": FailureStatus.REDRIVEN, "claimed_at": LONG_AGO, "sent_at": LONG_AGO}, 1),
        ({"status": FailureStatus.DISCARDED}, 1),
        ({"kind": Kind.FUNCTION, "redrive": Redrive(Action.INVOKE, "arn:aws:lambda:::function:receipts")}, 1),
    ],
    ids=["new", "redriven just now", "redriven and lost", "discarded", "of something else"],
)
def test_an_order_that_an_operator_sees_is_not_restarted(
    world: World, workflows: Workflows, changes: dict[str, Any], restarted: int
) -> None:
    a_failure(world, an_overdue_order(world), **changes)

    assert sweep()["restarted"] == restarted


def test_an_order_in_a_status_that_only_newer_code_knows_is_left_to_that_code(
    world: World, workflows: Workflows
) -> None:
    an_overdue_order(world, status=Status("PACKING"))

    assert sweep() == NOTHING


def test_a_failure_whose_order_cannot_be_read_does_not_keep_the_others_open(
    world: World, workflows: Workflows, inbox: FailuresTable
) -> None:
    # GIVEN a damaged order's failure, and one of an order that has ended
    damaged = an_order(order_id="00000000-8218-51d2-a18e-3e00fd0aa7a7")
    world.put("OrdersTable", customerId=damaged.customer_id, orderId=damaged.order_id)
    a_failure(world, damaged, failure_id="damaged", last_seen_at="2026-11-20T00:00:01.000Z")
    ended = a_failure(world, world.store(an_order(status=Status.FAILED, open_shard=None)))

    assert sweep()["resolved"] == 1

    assert status_of(inbox, ended) is FailureStatus.RESOLVED


@pytest.mark.parametrize("status", [FailureStatus.NEW, FailureStatus.REDRIVEN])
def test_a_stuck_orders_failure_is_over_when_the_order_has_ended(
    world: World, workflows: Workflows, inbox: FailuresTable, status: FailureStatus
) -> None:
    order = world.store(an_order(status=Status.CANCELLED, open_shard=None))
    record = a_failure(world, order, status=status)

    assert sweep()["resolved"] == 1

    assert status_of(inbox, record) is FailureStatus.RESOLVED


def test_a_stuck_order_that_was_redriven_is_not_over_before_it_ends(
    world: World, workflows: Workflows, inbox: FailuresTable
) -> None:
    record = a_failure(
        world, world.store(an_order()), status=FailureStatus.REDRIVEN, claimed_at=LONG_AGO, sent_at=LONG_AGO
    )

    assert sweep()["resolved"] == 0

    assert status_of(inbox, record) is FailureStatus.REDRIVEN


@pytest.mark.parametrize(
    ("sent_at", "expected"),
    [(LONG_AGO, FailureStatus.RESOLVED), (timestamp(), FailureStatus.REDRIVEN)],
    ids=["long ago", "just now"],
)
def test_a_redriven_receipt_is_over_when_it_has_been_quiet(
    world: World, workflows: Workflows, inbox: FailuresTable, sent_at: str, expected: FailureStatus
) -> None:
    order = world.store(an_order(status=Status.FULFILLED, open_shard=None))
    record = a_failure(
        world,
        order,
        kind=Kind.FUNCTION,
        redrive=Redrive(Action.INVOKE, "arn:aws:lambda:::function:receipts"),
        status=FailureStatus.REDRIVEN,
        claimed_at=LONG_AGO,
        sent_at=sent_at,
    )

    sweep()

    assert status_of(inbox, record) is expected


def test_an_event_that_was_not_published_is_not_over_because_its_order_has_ended(
    world: World, workflows: Workflows, inbox: FailuresTable
) -> None:
    order = world.store(an_order(status=Status.FULFILLED, open_shard=None))
    record = a_failure(world, order, kind=Kind.STREAM, redrive=Redrive(Action.PUBLISH))

    sweep()

    assert status_of(inbox, record) is FailureStatus.NEW


def test_a_redrive_that_died_half_way_is_given_back(world: World, workflows: Workflows, inbox: FailuresTable) -> None:
    record = a_failure(
        world, world.store(an_order()), status=FailureStatus.REDRIVEN, claimed_at=LONG_AGO, claimed_by="ada"
    )

    assert sweep()["released"] == 1

    assert status_of(inbox, record) is FailureStatus.NEW


def test_a_sweep_that_runs_out_of_time_says_so(world: World, workflows: Workflows) -> None:
    an_overdue_order(world)

    assert sweep(NoTime()) == {**NOTHING, "complete": False}
    assert workflows.started == []


def test_a_damaged_order_does_not_keep_the_others_from_being_restarted(world: World, workflows: Workflows) -> None:
    an_overdue_order(world)
    world.put("OrdersTable", customerId="c", orderId="o", openShard="00", placedAt=LONG_AGO)

    assert sweep() == {**NOTHING, "restarted": 1, "failed": 1}
