"""What the inbox adds to a message that leaves something out: stream records, an execution's input and state."""

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


# ---- An execution


@pytest.fixture
def workflows(world: World) -> Iterator[Stubber]:
    with Stubber(function("capture_failure")._workflows) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


def ended(**detail: Any) -> dict[str, Any]:
    return {
        "source": "aws.states",
        "detail-type": "Step Functions Execution Status Change",
        "detail": {
            "executionArn": EXECUTION,
            "stateMachineArn": MACHINE,
            "status": "TIMED_OUT",
            "input": INPUT,
            **detail,
        },
    }


NOW = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)


def expect_history(workflows: Stubber, *events: str) -> None:
    """The history, latest first; `Entered X` for a state that was entered."""
    history = []
    for number, event in enumerate(events):
        kind, _, state = event.partition(" ")
        entered = {"stateEnteredEventDetails": {"name": state}} if state else {}
        history.append({"timestamp": NOW, "type": kind, "id": 99 - number, **entered})
    workflows.add_response(
        "get_execution_history",
        {"events": history},
        {"executionArn": EXECUTION, "reverseOrder": True, "includeExecutionData": False, "maxResults": 200},
    )


def expect_description(workflows: Stubber, text: str | None) -> None:
    answer: dict[str, Any] = {
        "executionArn": EXECUTION,
        "stateMachineArn": MACHINE,
        "status": "TIMED_OUT",
        "startDate": NOW,
    }
    workflows.add_response(
        "describe_execution", {**answer, **({} if text is None else {"input": text})}, {"executionArn": EXECUTION}
    )


def test_an_execution_whose_input_its_event_left_out_gets_it_back(workflows: Stubber, inbox: FailuresTable) -> None:
    expect_description(workflows, INPUT)
    expect_history(workflows)

    invoke("capture_failure", told(ended(input=None)))

    record = only(inbox)
    assert record.payload == INPUT
    assert (record.order_id, record.customer_id, record.correlation_id) == ("order-1", "customer-1", "correlation-1")


def test_it_is_the_same_failure_as_one_whose_event_had_the_input(workflows: Stubber, inbox: FailuresTable) -> None:
    expect_description(workflows, INPUT)
    expect_history(workflows)
    expect_history(workflows)

    invoke("capture_failure", told(ended(input=None), ended()))

    assert only(inbox).count == 2


def test_an_execution_that_had_no_input_has_none(workflows: Stubber, inbox: FailuresTable) -> None:
    expect_description(workflows, None)
    expect_history(workflows)

    invoke("capture_failure", told(ended(input=None)))

    assert only(inbox).payload == ""


@pytest.mark.parametrize("error", ["ExecutionDoesNotExist", "InvalidArn"])
def test_an_execution_that_is_gone_is_captured_as_it_was_told(
    workflows: Stubber, inbox: FailuresTable, error: str
) -> None:
    workflows.add_client_error("describe_execution", error)

    assert invoke("capture_failure", told(ended(input=None))) == {"batchItemFailures": []}

    assert only(inbox).payload == ""


def test_an_execution_whose_input_cannot_be_read_just_now_comes_again(
    workflows: Stubber, inbox: FailuresTable
) -> None:
    workflows.add_client_error("describe_execution", "ThrottlingException")

    assert invoke("capture_failure", told(ended(input=None))) == {
        "batchItemFailures": [{"itemIdentifier": "message-0"}]
    }
    assert records(inbox) == []


@pytest.mark.parametrize(
    ("history", "component", "attempts"),
    [
        (["ExecutionTimedOut", "TaskFailed", "TaskFailed", "TaskStateEntered ProcessPayment"], "ProcessPayment", 2),
        (["TaskTimedOut", "TaskStartFailed", "TaskSubmitFailed", "TaskStateEntered FulfillOrder"], "FulfillOrder", 3),
        (["ExecutionAborted", "TaskScheduled", "TaskStateEntered ValidateOrder"], "ValidateOrder", 1),
        (
            ["ExecutionFailed", "FailStateEntered OrderStuck", "TaskFailed", "TaskStateEntered RefundPayment"],
            "RefundPayment",
            1,
        ),
        (
            ["TaskFailed", "TaskStateEntered FulfillOrder", "TaskFailed", "TaskStateEntered ProcessPayment"],
            "FulfillOrder",
            1,
        ),
        (["ExecutionTimedOut", "TaskFailed", "TaskFailed"], "order-workflow", 2),
        ([], "order-workflow", 1),
    ],
)
def test_an_operator_reads_where_an_execution_ended_and_how_often_that_failed(
    workflows: Stubber, inbox: FailuresTable, history: list[str], component: str, attempts: int
) -> None:
    expect_history(workflows, *history)

    invoke("capture_failure", told(ended()))

    record = only(inbox)
    assert (record.component, record.attempts) == (component, attempts)
    assert (record.order_id, record.payload) == ("order-1", INPUT)


GAVE_UP = json.dumps({"state": "FulfillOrder", "cause": "no answer"})


@pytest.mark.parametrize(
    ("history", "attempts"),
    [
        (["FailStateEntered OrderStuck", "TaskFailed", "TaskFailed", "TaskStateEntered FulfillOrder"], 2),
        (
            [
                "TaskFailed",
                "TaskStateEntered GiveUp",
                "TaskTimedOut",
                "TaskTimedOut",
                "TaskStateEntered FulfillOrder",
            ],
            2,
        ),
        (["TaskFailed", "TaskFailed", "TaskStateEntered GiveUp", "TaskFailed"], 1),
        ([], 1),
    ],
)
def test_a_state_that_the_workflow_itself_names_is_where_it_got_stuck(
    workflows: Stubber, inbox: FailuresTable, history: list[str], attempts: int
) -> None:
    expect_history(workflows, *history)

    invoke("capture_failure", told(ended(error="States.Timeout", cause=GAVE_UP)))

    assert (only(inbox).component, only(inbox).attempts) == ("FulfillOrder", attempts)


def test_an_execution_whose_history_cannot_be_read_is_captured_all_the_same(
    workflows: Stubber, inbox: FailuresTable, logs: Logs
) -> None:
    workflows.add_client_error("get_execution_history", "ThrottlingException")

    assert invoke("capture_failure", told(ended())) == {"batchItemFailures": []}

    assert only(inbox).order_id == "order-1"
    assert "the execution's history can't be read" in [line["message"] for line in logs()]


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
    workflows: Stubber, inbox: FailuresTable, logs: Logs, capsys: pytest.CaptureFixture[str]
) -> None:
    expect_history(workflows, "TaskStateEntered ProcessPayment")

    invoke("capture_failure", told(ended()))

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


def test_an_execution_without_a_name_is_captured_all_the_same(inbox: FailuresTable) -> None:
    assert invoke("capture_failure", told(ended(input=None, executionArn=""))) == {"batchItemFailures": []}

    assert only(inbox).error_name == "States.Timeout"
