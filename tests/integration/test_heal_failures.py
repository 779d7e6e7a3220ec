"""heal_failures redrives what is transient, at the pace of its cause, and counts what needs a human."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from orders.domain.clock import timestamp, timestamp_after, timestamp_before
from orders.domain.order import Order, Status
from orders.inbox.healing import Cause, Hold, Holds, Pace
from orders.inbox.record import Action, FailureRecord, FailureStatus, Kind, Redrive
from orders.inbox.store import FailuresTable
from orders.storage.dynamodb import to_item
from tests.integration.world import ENVIRONMENT, REGION, LambdaContext, World, _client, an_order, function

MACHINE = ENVIRONMENT["STATE_MACHINE_ARN"]
FULFILMENT = ENVIRONMENT["FULFILMENT_QUEUE_ARN"]
MAILS = FULFILMENT.replace("Fulfilment", "Notifications")
RECEIPTS = f"arn:aws:lambda:{REGION}:123456789012:function:receipts"
RULE = f"arn:aws:events:{REGION}:123456789012:rule/OrdersBus/SomeRule"
PROVIDER = Cause("ProcessPayment", "PaymentProviderError")

Logs = Callable[[], list[dict[str, Any]]]


class Fake:
    """Step Functions and Lambda: what was started and invoked."""

    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []
        self.invoked: list[Any] = []

    def start_execution(self, *, stateMachineArn: str, name: str, input: str) -> None:  # noqa: A002, N803
        assert stateMachineArn == MACHINE
        self.started.append({"name": name, **json.loads(input)})

    def invoke(self, *, FunctionName: str, InvocationType: str, Payload: bytes) -> None:  # noqa: N803
        assert (FunctionName, InvocationType) == (RECEIPTS, "Event")
        self.invoked.append(json.loads(Payload))


@pytest.fixture
def fake(world: World, monkeypatch: pytest.MonkeyPatch) -> Fake:
    fake = Fake()
    services = {"stepfunctions": fake, "lambda": fake}
    monkeypatch.setattr(
        function("heal_failures"), "_client", lambda service: services.get(service) or _client(service)
    )
    return fake


@pytest.fixture
def inbox(world: World) -> FailuresTable:
    return FailuresTable(world.dynamodb, world.s3)


def run(later_s: float = 0) -> dict[str, int]:
    """Run the function, `later_s` seconds from now."""
    module = function("heal_failures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "timestamp", lambda: timestamp_after(timestamp(), later_s))
        counts: dict[str, int] = module.handler({}, LambdaContext())
    return counts


def an_order_numbered(number: int, **changes: Any) -> Order:
    return an_order(order_id=f"694e228d-8218-51d2-a18e-{number:012}", **changes)


def a_failure(world: World, number: int = 0, **changes: Any) -> str:
    """Store a failure of a stuck order; returns its id."""
    order = an_order_numbered(number)
    record = FailureRecord(
        failure_id=f"{number:020}",
        kind=Kind.EXECUTION,
        component=PROVIDER.component,
        resource_arn=MACHINE,
        error_name=PROVIDER.error_name,
        error_message="503",
        occurrence="1",
        redrive=Redrive(Action.RESUME, MACHINE),
        payload="{}",
        order_id=order.order_id,
        customer_id=order.customer_id,
        status=FailureStatus.NEW,
        first_seen_at=timestamp_before(100 - number),
        last_seen_at=timestamp(),
    )
    record = msgspec.structs.replace(record, **changes)
    world.dynamodb.put_item(TableName="FailuresTable", Item=to_item(msgspec.to_builtins(record)))
    return record.failure_id


def record_of(inbox: FailuresTable, failure_id: str) -> FailureRecord:
    found = inbox.get(failure_id)
    assert found is not None
    return found


def test_a_probe_is_redriven_and_the_others_wait(world: World, inbox: FailuresTable, fake: Fake) -> None:
    for number in range(3):
        world.store(an_order_numbered(number, status=Status.RESERVED))
    ids = [a_failure(world, number) for number in range(3)]

    counts = run()

    assert (counts["redriven"], counts["healing"], counts["forHumans"]) == (1, 2, 0)
    probe = record_of(inbox, ids[0])
    assert (probe.status, probe.claimed_by, probe.redrives) == (FailureStatus.REDRIVEN, "healing", 1)
    assert probe.history[-1].what == "redriven"
    (started,) = fake.started
    assert started["name"] == f"{probe.order_id}-{ids[0]}"
    assert started["data"] == {"customerId": probe.customer_id, "orderId": probe.order_id}
    assert inbox.pace(PROVIDER).batch == {ids[0]: 0}
    # AND at once again, nothing more is sent
    assert run()["redriven"] == 0


def test_twice_as_many_follow_while_orders_move_on(world: World, inbox: FailuresTable, fake: Fake) -> None:
    for number in range(4):
        world.store(an_order_numbered(number, status=Status.RESERVED))
        a_failure(world, number)
    run()
    assert run(later_s=60)["redriven"] == 0  # the probe's order stands where it stood

    world.store(an_order_numbered(0, status=Status.PAID, updated_at=timestamp_after(timestamp(), 1)))

    assert run(later_s=120)["redriven"] == 2
    assert inbox.pace(PROVIDER).size == 2


def test_after_a_probe_that_failed_again_the_next_one_comes_later(
    world: World, inbox: FailuresTable, fake: Fake
) -> None:
    for number in range(2):
        world.store(an_order_numbered(number, status=Status.RESERVED))
    first, second = (a_failure(world, number) for number in range(2))
    run()
    a_failure(world, 0, redrives=1, occurrence="2")  # back again

    assert run(later_s=60)["redriven"] == 0
    assert inbox.pace(PROVIDER).pauses == 1
    assert run(later_s=119)["redriven"] == 0
    assert run(later_s=121)["redriven"] == 1
    # AND the one that was not redriven yet is the next probe
    assert record_of(inbox, first).status is FailureStatus.NEW
    assert record_of(inbox, second).status is FailureStatus.REDRIVEN


def test_each_kind_goes_to_where_it_came_from(world: World, inbox: FailuresTable, fake: Fake) -> None:
    events = _client("events")
    events.put_rule(Name="SomeRule", EventBusName="OrdersBus", EventPattern='{"source": ["orders"]}')
    target = {"Id": "1", "Arn": RECEIPTS, "InputPath": "$.detail"}
    events.put_targets(Rule="SomeRule", EventBusName="OrdersBus", Targets=[target])
    sent = {"component": "a", "redrive": Redrive(Action.SEND, MAILS), "payload": "a mail", "error_name": "Busy"}
    a_failure(world, 1, **sent)
    a_failure(world, 2, component="b", redrive=Redrive(Action.INVOKE, RECEIPTS), payload='{"a": 1}')
    a_failure(
        world, 3, component="c", redrive=Redrive(Action.DELIVER, RECEIPTS, RULE), payload='{"detail": {"b": 2}}'
    )

    assert run()["redriven"] == 3

    assert world.messages("NotificationsQueue") == ["a mail"]
    assert sorted(map(str, fake.invoked)) == ["{'a': 1}", "{'b': 2}"]


def test_what_is_not_transient_is_left_to_a_human(
    world: World, inbox: FailuresTable, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    a_failure(world, 1, error_name="KeyError")
    a_failure(world, 2, first_seen_at=timestamp_before(25 * 3600), last_seen_at=timestamp_before(24 * 3600))
    a_failure(world, 3, error_name="MailRefused", last_seen_at=timestamp_before(3600))
    capsys.readouterr()

    counts = run()

    assert (counts["redriven"], counts["forHumans"], fake.started) == (0, 3, [])
    (numbers,) = (json.loads(line) for line in capsys.readouterr().out.splitlines() if "CloudWatchMetrics" in line)
    assert (numbers["FailuresForHumans"], numbers["NewFailuresForHumans"]) == ([3], [1])


def test_a_hold_is_obeyed_but_for_orders_that_are_being_undone(
    world: World, inbox: FailuresTable, fake: Fake
) -> None:
    for number, status in enumerate([Status.RESERVED, Status.FAILING]):
        world.store(an_order_numbered(number, status=status))
        a_failure(world, number)
    a_failure(world, 2, order_id=None, customer_id=None)
    inbox.change_holds(lambda holds: holds.held.update({PROVIDER.key: Hold("ada", timestamp(), str(PROVIDER))}))

    counts = run()

    assert (counts["redriven"], counts["held"], counts["forHumans"]) == (1, 2, 0)
    assert [started["data"]["orderId"][-1] for started in fake.started] == ["1"]


def test_what_cannot_be_read_is_a_humans_and_stops_nothing_else(
    world: World, inbox: FailuresTable, fake: Fake, logs: Logs
) -> None:
    world.store(an_order_numbered(1, status=Status.RESERVED))
    a_failure(world, 1)
    fields = {"failureId": "damaged", "status": "NEW", "lastSeenAt": timestamp()}
    world.put("FailuresTable", **fields)
    world.put("FailuresTable", failureId=Cause("b", "Busy").key, version="no number")
    a_failure(world, 2, component="b", error_name="Busy")

    counts = run()

    assert (counts["redriven"], counts["forHumans"]) == (1, 2)
    said = {line["message"]: line for line in logs()}
    assert said["failures left out: they can't be read"]["failure_ids"] == ["damaged"]
    assert said["cause not healed"]["cause"] == "b: Busy"


def test_a_damaged_order_counts_as_one_that_stands_still(world: World, inbox: FailuresTable, fake: Fake) -> None:
    world.put("OrdersTable", **{**msgspec.to_builtins(an_order_numbered(1)), "updatedAt": 7})
    a_failure(world, 1)
    run()

    assert run(later_s=60)["redriven"] == 0
    run(later_s=301)

    assert inbox.pace(PROVIDER).pauses == 1


def test_an_order_that_has_ended_is_resolved_and_not_started(world: World, inbox: FailuresTable, fake: Fake) -> None:
    world.store(an_order_numbered(1, status=Status.FULFILLED, open_shard=None))
    failure_id = a_failure(world, 1)

    assert run()["resolved"] == 1

    assert (record_of(inbox, failure_id).status, fake.started) == (FailureStatus.RESOLVED, [])


def test_what_aws_refuses_comes_back_to_the_inbox(world: World, inbox: FailuresTable, fake: Fake) -> None:
    gone = Redrive(Action.SEND, MAILS.replace("Notifications", "No"))
    failure_id = a_failure(world, 1, redrive=gone)

    assert run()["failed"] == 1

    record = record_of(inbox, failure_id)
    assert (record.status, record.history[-1].by) == (FailureStatus.NEW, "healing")
    assert run(later_s=60)["redriven"] == 0
    assert inbox.pace(PROVIDER).pauses == 1


def test_the_pace_of_two_healers_is_stored_once(inbox: FailuresTable) -> None:
    first, second = inbox.pace(PROVIDER), inbox.pace(PROVIDER)
    assert inbox.store_pace(msgspec.structs.replace(first, size=2))
    assert not inbox.store_pace(msgspec.structs.replace(second, size=4))
    third = inbox.pace(PROVIDER)
    assert (third.size, third.version) == (2, 1)
    assert inbox.store_pace(third)
    assert not inbox.store_pace(third)
    assert inbox.pace(Cause("another", "Busy")) == Pace(failure_id="cause#another#Busy")


def test_the_items_of_healing_are_in_no_list(world: World, inbox: FailuresTable) -> None:
    inbox.store_pace(inbox.pace(PROVIDER))
    inbox.change_holds(lambda holds: holds.held.update({"*": Hold("ada", timestamp(), "every failure")}))

    assert [record for status in FailureStatus for record in inbox.with_status(status)] == []
    (pace, _) = sorted(world.items("FailuresTable"), key=lambda item: item["failureId"])
    assert pace["expiresAt"] > 0  # a cause that is over is forgotten; a hold is not


def test_a_hold_of_two_operators_at_once_loses_none(inbox: FailuresTable, monkeypatch: pytest.MonkeyPatch) -> None:
    def both(holds: Holds) -> None:
        if not holds.held:
            inbox.change_holds(lambda other: other.held.update({"a": Hold("bob", "1", "a")}))
        holds.held["b"] = Hold("ada", "1", "b")

    assert sorted(inbox.change_holds(both).held) == ["a", "b"]
