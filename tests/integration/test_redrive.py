"""Redriving many failures: who sends, what is given back, and when it stops."""

from __future__ import annotations

import io
import json
from typing import Any

import boto3
import msgspec
import pytest

from orderctl.exits import Stop
from orderctl.options import seconds
from orderctl.redrive import many
from orderctl.redrive.many import redrive_many, sender_of
from orderctl.stack import records
from orderctl.stack.target import Target
from orders.domain.clock import timestamp
from orders.inbox.record import Action, FailureRecord, FailureStatus, Kind, Redrive
from orders.inbox.store import FailuresTable
from orders.redrive.sending import Sender, redrive_one
from orders.storage.dynamodb import to_item
from orders.workflow import input_of_failure
from tests.integration.world import ENVIRONMENT, REGION, World, an_order

ACCOUNT = "123456789012"
QUEUE = f"arn:aws:sqs:{REGION}:{ACCOUNT}:NotificationsQueue"
RULE = f"arn:aws:events:{REGION}:{ACCOUNT}:rule/OrdersBus/SomeRule"


@pytest.fixture
def there(world: World) -> Target:
    outputs = {
        "FailuresTable": "FailuresTable",
        "FailedPayloadsBucket": "failed-payloads-bucket",
        "OrdersTable": "OrdersTable",
        "PublishEventsFunction": "publish-events",
        "FulfilmentQueueArn": ENVIRONMENT["FULFILMENT_QUEUE_ARN"],
        "StateMachineArn": ENVIRONMENT["STATE_MACHINE_ARN"],
    }
    return Target("in memory", outputs, "", boto3.session.Session(region_name=REGION))


@pytest.fixture
def inbox(there: Target) -> FailuresTable:
    return records.failures_table(there)


def a_failure(world: World, number: int = 0, **changes: Any) -> str:
    """Store a failure; returns its id."""
    record = FailureRecord(
        failure_id=f"{number:020}",
        kind=Kind.QUEUE,
        component="NotificationsQueue",
        resource_arn=QUEUE,
        error_name="MailRefused",
        error_message="no",
        occurrence="message-1",
        redrive=Redrive(Action.SEND, QUEUE),
        payload=f"payload {number}",
        status=FailureStatus.NEW,
        first_seen_at=timestamp(),
        last_seen_at=timestamp(),
    )
    record = msgspec.structs.replace(record, **changes)
    world.dynamodb.put_item(TableName="FailuresTable", Item=to_item(msgspec.to_builtins(record)))
    return record.failure_id


def record_of(inbox: FailuresTable, failure_id: str) -> FailureRecord:
    found = inbox.get(failure_id)
    assert found is not None
    return found


def test_each_payload_is_sent_once_whoever_tries(world: World, there: Target, inbox: FailuresTable) -> None:
    ids = [a_failure(world, number) for number in range(5)]

    first = redrive_many(there, ids, "ada", rate=1000)
    second = redrive_many(there, ids, "bob", rate=1000)

    assert (first.count("redriven"), second.count("refused")) == (5, 5)
    assert sorted(world.messages("NotificationsQueue")) == [f"payload {number}" for number in range(5)]
    assert record_of(inbox, ids[0]).history[-1].by == "ada"


def test_what_cannot_be_sent_is_given_back_with_the_reason(world: World, there: Target, inbox: FailuresTable) -> None:
    failure_id = a_failure(world, redrive=Redrive(Action.SEND, QUEUE.replace("Notifications", "No")))

    outcome = redrive_one(sender_of(there), inbox, failure_id, "ada")

    assert outcome.result == "failed"
    record = record_of(inbox, failure_id)
    assert (record.status, record.history[-1].what) == (FailureStatus.NEW, "redrive failed")
    assert "NonExistentQueue" in (record.history[-1].detail or "")


def test_a_redrive_stops_when_too_much_fails(world: World, there: Target, inbox: FailuresTable) -> None:
    gone = Redrive(Action.SEND, QUEUE.replace("Notifications", "No"))
    ids = [a_failure(world, number, redrive=gone) for number in range(60)]

    run = redrive_many(there, ids, "ada", rate=1000)

    assert "could not be sent" in run.stopped
    assert len(run.outcomes) < 60
    assert {record_of(inbox, failure_id).status for failure_id in ids} == {FailureStatus.NEW}


def test_a_redrive_stops_when_too_much_comes_back(
    world: World, there: Target, inbox: FailuresTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a consumer that fails on whatever it gets, at once
    monkeypatch.setattr(many, "CHECK_EVERY_S", 0)
    ids = [a_failure(world, number) for number in range(40)]

    def fail_again(sender: Sender, claim: FailureRecord, payload: str) -> tuple[str, bool]:
        inbox.change(
            claim.failure_id,
            lambda record: msgspec.structs.replace(record, status=FailureStatus.NEW, last_seen_at=timestamp()),
        )
        return "sent", False

    monkeypatch.setattr(Sender, "send", fail_again)

    run = redrive_many(there, ids, "ada", rate=100)

    assert "have failed again" in run.stopped
    assert len(run.outcomes) < 40


@pytest.mark.parametrize(
    ("settings", "sent"),
    [
        ({}, {"detail": {"data": {"orderId": "o"}}}),
        ({"InputPath": "$.detail"}, {"data": {"orderId": "o"}}),
        ({"Input": '{"fixed": true}'}, {"fixed": True}),
    ],
)
def test_a_rules_target_gets_the_input_that_the_rule_gives(
    world: World, there: Target, inbox: FailuresTable, settings: dict[str, str], sent: Any
) -> None:
    events = there.client("events")
    events.put_rule(Name="SomeRule", EventBusName="OrdersBus", EventPattern='{"source": ["orders"]}')
    events.put_targets(Rule="SomeRule", EventBusName="OrdersBus", Targets=[{"Id": "1", "Arn": QUEUE, **settings}])
    failure_id = a_failure(
        world,
        kind=Kind.RULE_TARGET,
        redrive=Redrive(Action.DELIVER, QUEUE, RULE),
        payload=json.dumps({"detail": {"data": {"orderId": "o"}}}),
    )

    assert redrive_one(sender_of(there), inbox, failure_id, "ada").result == "redriven"

    (message,) = world.messages("NotificationsQueue")
    assert json.loads(message) == sent


def test_without_its_rule_nobody_knows_what_a_target_would_have_got(
    world: World, there: Target, inbox: FailuresTable
) -> None:
    failure_id = a_failure(world, redrive=Redrive(Action.DELIVER, QUEUE, RULE), payload="{}")

    assert "is gone" in redrive_one(sender_of(there), inbox, failure_id, "ada").detail


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"redrive": Redrive(Action.NONE)}, "destination is unknown"),
        ({"redrive": Redrive(Action.NONE), "note": "The stream keeps its records for 24 hours."}, "24 hours"),
        ({"payload_encoding": "base64"}, "not valid text"),
    ],
)
def test_what_cannot_be_redriven_says_why(
    world: World, there: Target, inbox: FailuresTable, changes: dict[str, Any], says: str
) -> None:
    failure_id = a_failure(world, **changes)

    outcome = redrive_one(sender_of(there), inbox, failure_id, "ada")

    assert (outcome.result, says in outcome.detail) == ("failed", True)
    assert record_of(inbox, failure_id).status is FailureStatus.NEW


def test_a_payload_in_the_bucket_is_sent_whole(world: World, there: Target, inbox: FailuresTable) -> None:
    world.s3.put_object(Bucket="failed-payloads-bucket", Key="payloads/x", Body="ü" * 100_000)
    failure_id = a_failure(world, payload=None, payload_key="payloads/x")

    assert redrive_one(sender_of(there), inbox, failure_id, "ada").result == "redriven"

    assert world.messages("NotificationsQueue") == ["ü" * 100_000]


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ('{"metadata": {"correlationId": "c"}, "data": {"customerId": "a", "orderId": "o"}, "path": "undo"}', "c"),
        ("", "order-1"),
        ("[]", "order-1"),
    ],
)
def test_a_stuck_order_is_resumed_by_what_is_known_of_it(payload: str, expected: str) -> None:
    record = msgspec.convert(
        {
            "failureId": "f",
            "kind": "execution",
            "component": "c",
            "resourceArn": "",
            "errorName": "e",
            "errorMessage": "m",
            "occurrence": "o",
            "redrive": {"action": "resume"},
            "orderId": "order-1",
            "customerId": "customer-1",
            "status": "NEW",
            "firstSeenAt": "1",
            "lastSeenAt": "1",
        },
        FailureRecord,
    )

    given = json.loads(input_of_failure(record, payload))

    assert (sorted(given), given["metadata"]["correlationId"]) == (["data", "metadata"], expected)


@pytest.mark.parametrize(("text", "expected"), [("45s", 45), ("30m", 1800), ("2h", 7200), ("7d", 604800)])
def test_a_duration(text: str, expected: int) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "h", "2", "-2h", "2 h", "1w", "٢h"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(Stop):
        seconds(text)


class Publisher:
    """Lambda, when it runs publish_events: answers as that function would."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        self.asked: dict[str, Any] = {}

    def invoke(self, *, FunctionName: str, Payload: bytes) -> dict[str, Any]:  # noqa: N803
        self.asked = json.loads(Payload)
        return {"Payload": io.BytesIO(json.dumps(self.answer).encode())}


def an_unpublished_event(world: World) -> str:
    order = world.store(an_order())
    keys = {"customerId": {"S": order.customer_id}, "orderId": {"S": order.order_id}}
    record = {"eventName": "INSERT", "dynamodb": {"Keys": keys, "NewImage": {"version": {"N": "1"}}}}
    return a_failure(world, kind=Kind.STREAM, redrive=Redrive(Action.PUBLISH), payload=json.dumps(record))


@pytest.mark.parametrize(
    ("answer", "result", "status"),
    [
        ({"batchItemFailures": []}, "resolved", FailureStatus.RESOLVED),
        ({"batchItemFailures": [], "unreadable": ["ValueError: no total"]}, "failed", FailureStatus.NEW),
        ({"batchItemFailures": [{"itemIdentifier": "1"}]}, "failed", FailureStatus.NEW),
    ],
    ids=["published", "still unreadable", "not taken by the bus"],
)
def test_a_redriven_event_is_resolved_only_if_it_was_published(
    *, world: World, there: Target, inbox: FailuresTable, answer: dict[str, Any], result: str, status: FailureStatus
) -> None:
    failure_id = an_unpublished_event(world)
    there._clients["lambda"] = publisher = Publisher(answer)

    outcome = redrive_one(sender_of(there), inbox, failure_id, "ada")

    assert (outcome.result, record_of(inbox, failure_id).status) == (result, status)
    assert publisher.asked["redrive"] is True
    assert ("no total" in outcome.detail) == ("unreadable" in answer)
