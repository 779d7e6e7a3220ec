"""What the inbox makes of a message that points elsewhere, and of a stuck order."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.stub import Stubber

from orders.inbox.record import FailureRecord, FailureStatus
from orders.inbox.store import FailuresTable
from orders.storage.dynamodb import to_item
from tests.integration.world import ENVIRONMENT, QUEUES, World, function, invoke, sample

STREAM = "arn:aws:dynamodb:us-east-1:123456789012:table/OrdersTable/stream/2026-11-21T00:00:00.000"
SHARD = "shardId-00000001795243622000-0a1b2c3d"
MACHINE = ENVIRONMENT["STATE_MACHINE_ARN"]
EXECUTION = f"{MACHINE.replace('stateMachine', 'execution')}:execution-1"
INPUT = json.dumps(
    {"metadata": {"correlationId": "correlation-1"}, "data": {"orderId": "order-1", "customerId": "customer-1"}}
)

Logs = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def inbox(world: World) -> FailuresTable:
    return FailuresTable(world.dynamodb, world.s3)


def told(*bodies: Any) -> dict[str, Any]:
    event = sample("capture_failure/unknown")
    (record,) = event["Records"]
    event["Records"] = [
        {**record, "messageId": f"message-{number}", "receiptHandle": f"handle-{number}", "body": text_of(body)}
        for number, body in enumerate(bodies)
    ]
    return event


def text_of(body: Any) -> str:
    return body if isinstance(body, str) else json.dumps(body)


def records(inbox: FailuresTable) -> list[FailureRecord]:
    return [record for found in inbox.with_status(FailureStatus.NEW) if (record := inbox.get(found.failure_id))]


def only(inbox: FailuresTable) -> FailureRecord:
    (record,) = records(inbox)
    return record


# ---- A pointer into the stream


@pytest.fixture
def stream(world: World) -> Iterator[Stubber]:
    with Stubber(function("capture_failure")._streams) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


def sequence(number: int) -> str:
    return str(10**21 + number)


def pointer(first: int, last: int) -> dict[str, Any]:
    (record,) = sample("capture_failure/stream-pointer")["Records"]
    body: dict[str, Any] = json.loads(record["body"])
    body["DDBStreamBatchInfo"] |= {
        "streamArn": STREAM,
        "shardId": SHARD,
        "startSequenceNumber": sequence(first),
        "endSequenceNumber": sequence(last),
    }
    return body


def change(number: int, before: int | None = None, after: int | None = 1, event: str = "INSERT") -> dict[str, Any]:
    def image(version: int, timeline: list[str]) -> dict[str, Any]:
        return to_item({"orderId": f"order-{number}", "version": version, "timeline": timeline})

    return {
        "eventName": event,
        "dynamodb": {
            "ApproximateCreationDateTime": datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC),
            "Keys": to_item({"customerId": "c", "orderId": f"order-{number}"}),
            "SequenceNumber": sequence(number),
            **({"OldImage": image(before, ["one"])} if before else {}),
            **({"NewImage": image(after, ["one", "two"])} if after else {}),
        },
    }


def expect_iterator(stream: Stubber, first: int) -> None:
    stream.add_response(
        "get_shard_iterator",
        {"ShardIterator": "iterator-0"},
        {
            "StreamArn": STREAM,
            "ShardId": SHARD,
            "ShardIteratorType": "AT_SEQUENCE_NUMBER",
            "SequenceNumber": sequence(first),
        },
    )


def expect_page(stream: Stubber, number: int, *changes: dict[str, Any], following: bool = True) -> None:
    page: dict[str, Any] = {"Records": list(changes)}
    if following:
        page["NextShardIterator"] = f"iterator-{number + 1}"
    stream.add_response("get_records", page, {"ShardIterator": f"iterator-{number}"})


def lost(inbox: FailuresTable) -> list[str]:
    return sorted(record.order_id or "" for record in records(inbox))


def test_a_pointer_is_read_from_its_first_record_to_its_last(stream: Stubber, inbox: FailuresTable) -> None:
    # GIVEN a shard that goes on after the batch that was given up
    expect_iterator(stream, 8)
    expect_page(stream, 0)
    expect_page(stream, 1, change(8), change(9))
    expect_page(stream, 2, change(10), change(11), change(12))

    # WHEN the batch is captured
    assert invoke("capture_failure", told(pointer(8, 11))) == {"batchItemFailures": []}

    # THEN all of it is in the inbox, and nothing that is well
    assert lost(inbox) == ["order-10", "order-11", "order-8", "order-9"]
    (record,) = [record for record in records(inbox) if record.order_id == "order-8"]
    assert (record.error_name, record.attempts) == ("RetryAttemptsExhausted", 101)
    assert record.occurrence == pointer(8, 11)["requestContext"]["requestId"]
    created = json.loads(record.payload or "")["dynamodb"]["ApproximateCreationDateTime"]
    assert (created, type(created)) == (1795219200, int)


def test_a_gap_at_the_batchs_end_does_not_take_healthy_records_along(stream: Stubber, inbox: FailuresTable) -> None:
    # GIVEN a stream whose last record of the batch is gone
    expect_iterator(stream, 8)
    expect_page(stream, 0, change(8), change(10), change(11))

    invoke("capture_failure", told(pointer(8, 9)))

    assert lost(inbox) == ["order-8"]


def test_a_shard_that_ends_with_the_batch_is_read_to_its_end(stream: Stubber, inbox: FailuresTable) -> None:
    expect_iterator(stream, 8)
    expect_page(stream, 0, change(8), following=False)

    invoke("capture_failure", told(pointer(8, 11)))

    assert lost(inbox) == ["order-8"]


def test_a_stream_without_an_end_is_given_up(stream: Stubber, inbox: FailuresTable) -> None:
    expect_iterator(stream, 8)
    for number in range(20):
        expect_page(stream, number)

    invoke("capture_failure", told(pointer(8, 11)))

    assert "24 hours" in (only(inbox).note or "")


@pytest.mark.parametrize(
    ("record", "says_something"),
    [
        (change(8), True),
        (change(8, before=1, after=2, event="MODIFY"), True),
        (change(8, before=2, after=2, event="MODIFY"), False),
        (change(8, before=2, after=None, event="REMOVE"), False),
        (change(8, before=None, after=None, event="MODIFY"), True),
    ],
    ids=["a new order", "another status", "a note", "a removal", "nobody knows what"],
)
def test_only_what_would_have_been_an_event_is_lost(
    stream: Stubber, inbox: FailuresTable, record: dict[str, Any], says_something: bool
) -> None:
    expect_iterator(stream, 8)
    expect_page(stream, 0, record)

    invoke("capture_failure", told(pointer(8, 8)))

    assert (only(inbox).order_id == "order-8") is says_something
    assert (only(inbox).note is None) is says_something


@pytest.mark.parametrize("error", ["LimitExceededException", "InternalServerError"])
def test_a_stream_that_cannot_be_read_just_now_is_read_later(
    stream: Stubber, inbox: FailuresTable, error: str
) -> None:
    stream.add_client_error("get_shard_iterator", error)

    assert invoke("capture_failure", told(pointer(8, 9)))["batchItemFailures"]

    assert records(inbox) == []


def test_a_pointer_whose_end_is_no_number_is_kept_with_a_note(stream: Stubber, inbox: FailuresTable) -> None:
    body = pointer(8, 9)
    body["DDBStreamBatchInfo"]["endSequenceNumber"] = "the end"
    expect_iterator(stream, 8)

    assert invoke("capture_failure", told(body)) == {"batchItemFailures": []}

    assert "24 hours" in (only(inbox).note or "")


# ---- A stuck order


def stuck(**detail: Any) -> dict[str, Any]:
    return {
        "kind": "StuckOrder",
        "customerId": "customer-1",
        "orderId": "order-1",
        "correlationId": "correlation-1",
        "state": "ProcessPayment",
        "error": "PaymentProviderError",
        "cause": json.dumps({"errorType": "PaymentProviderError", "errorMessage": "answered 503"}),
        "execution": EXECUTION,
        **detail,
    }


def test_a_stuck_order_and_the_end_of_an_execution_of_1_0_0_are_one_failure_of_the_order(
    inbox: FailuresTable,
) -> None:
    ended = {"executionArn": f"{EXECUTION}-old", "stateMachineArn": MACHINE, "status": "TIMED_OUT", "input": INPUT}
    event = {"source": "aws.states", "detail-type": "Step Functions Execution Status Change", "detail": ended}

    invoke("capture_failure", told(event, stuck()))

    record = only(inbox)
    assert (record.count, record.component, record.error_message) == (2, "ProcessPayment", "answered 503")
    assert (record.order_id, record.customer_id, record.correlation_id) == ("order-1", "customer-1", "correlation-1")


def test_a_report_that_was_sent_twice_is_one_occurrence(inbox: FailuresTable) -> None:
    invoke("capture_failure", told(stuck(), stuck()))

    assert (only(inbox).count, len(only(inbox).occurrences)) == (2, 1)


# ---- The messages themselves


def test_a_message_that_cannot_be_captured_comes_again_soon(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.dynamodb.delete_table(TableName="FailuresTable")
    calls: list[dict[str, Any]] = []

    class Queues:
        def change_message_visibility(self, **call: Any) -> None:
            calls.append(call)

    monkeypatch.setattr(function("capture_failure"), "_sqs", Queues())
    event = told("one")
    event["Records"][0]["attributes"]["ApproximateReceiveCount"] = "9"

    invoke("capture_failure", event)

    # Once in 2, 4, 8 … seconds, and once in 5 minutes at most.
    assert calls == [{"QueueUrl": f"{QUEUES}/FailuresQueue", "ReceiptHandle": "handle-0", "VisibilityTimeout": 300}]


def test_the_wait_is_really_shortened(world: World, logs: Logs) -> None:
    url = f"{QUEUES}/FailuresQueue"
    world.sqs.send_message(QueueUrl=url, MessageBody="one")
    (message,) = world.sqs.receive_message(QueueUrl=url)["Messages"]
    world.dynamodb.delete_table(TableName="FailuresTable")
    event = told("one")
    event["Records"][0]["receiptHandle"] = message["ReceiptHandle"]

    invoke("capture_failure", event)

    assert "visibility timeout not changed" not in [line["message"] for line in logs()]


def test_each_failure_is_counted_and_logged_with_whose_it_is(
    inbox: FailuresTable, logs: Logs, capsys: pytest.CaptureFixture[str]
) -> None:
    invoke("capture_failure", told(stuck()))

    (line,) = [line for line in logs() if line["message"] == "failure captured"]
    assert (line["failure_id"], line["kind"], line["component"]) == (
        only(inbox).failure_id,
        "execution",
        "ProcessPayment",
    )
    assert (line["order_id"], line["correlation_id"], line["count"]) == ("order-1", "correlation-1", 1)
    assert metric(capsys, "FailureCaptured") == [1]


def metric(capsys: pytest.CaptureFixture[str], name: str) -> list[float]:
    """The values of a metric in what was printed."""
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    return [value for line in lines if "_aws" in line for value in line.get(name, [])]


def test_a_stuck_order_that_nobody_can_name_is_captured_all_the_same(inbox: FailuresTable) -> None:
    message = stuck(orderId="", customerId="", correlationId="", execution="")
    assert invoke("capture_failure", told(message)) == {"batchItemFailures": []}

    assert (only(inbox).order_id, only(inbox).error_name) == (None, "PaymentProviderError")
