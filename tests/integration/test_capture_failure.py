"""Messages on the failures queue become records in the failures table."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from botocore.stub import Stubber

from orders.inbox.parse import read_message
from orders.inbox.record import FailureRecord, FailureStatus, seen_again
from orders.inbox.store import FailuresTable
from orders.storage.dynamodb import to_item
from tests.integration.world import World, function, invoke, sample

ORDER_ID = "694e228d-8218-51d2-a18e-3e00fd0aa7a7"


@pytest.fixture
def inbox(world: World) -> FailuresTable:
    return FailuresTable(world.dynamodb, world.s3)


def messages(*bodies: Any) -> dict[str, Any]:
    """An event of SQS, each message with an id of its own."""
    (record,) = sample("capture_failure/unknown")["Records"]
    return {
        "Records": [
            {**record, "messageId": f"message-{number}", "body": body if isinstance(body, str) else json.dumps(body)}
            for number, body in enumerate(bodies)
        ]
    }


def only(inbox: FailuresTable) -> FailureRecord:
    (record,) = inbox.with_status(FailureStatus.NEW)
    complete = inbox.get(record.failure_id)
    assert complete is not None
    return complete


def receipt_failure(**context: Any) -> dict[str, Any]:
    (record,) = sample("capture_failure/asynchronous-function")["Records"]
    body: dict[str, Any] = json.loads(record["body"])
    body["requestContext"] |= context
    return body


def test_the_same_failure_arriving_twice_is_one_record_with_a_count(world: World, inbox: FailuresTable) -> None:
    assert invoke("capture_failure", messages(receipt_failure(), receipt_failure())) == {"batchItemFailures": []}

    record = only(inbox)
    assert (record.count, record.status, record.order_id) == (2, FailureStatus.NEW, ORDER_ID)
    assert json.loads(record.payload or "") == receipt_failure()["requestPayload"]


def test_a_message_that_is_delivered_twice_is_counted_once(world: World, inbox: FailuresTable) -> None:
    event = messages(receipt_failure())

    invoke("capture_failure", event)
    invoke("capture_failure", event)

    assert only(inbox).count == 1


def test_a_redriven_failure_that_fails_again_is_new_again(world: World, inbox: FailuresTable) -> None:
    # GIVEN a failure that was redriven and thought to be over
    invoke("capture_failure", messages(receipt_failure()))
    failure_id = only(inbox).failure_id
    inbox.confirm(inbox.claim(failure_id, by="ada"), "invoked")
    settled = inbox.settle(failure_id, FailureStatus.RESOLVED, by="sweep", reason="quiet")
    assert settled.expires_at is not None

    # WHEN the function fails on it again
    event = messages(receipt_failure(requestId="another"))
    event["Records"][0]["messageId"] = "message-9"
    invoke("capture_failure", event)

    # THEN it waits for the operator again, and doesn't expire
    record = only(inbox)
    assert (record.failure_id, record.count, record.redrives, record.expires_at) == (failure_id, 2, 1, None)


def test_a_payload_too_big_for_an_item_goes_to_the_bucket_whole(world: World, inbox: FailuresTable) -> None:
    # GIVEN a payload beyond DynamoDB's 400 KB
    text = "ü" * 250_000
    invoke("capture_failure", messages(text))

    record = only(inbox)
    assert record.payload is None
    assert inbox.payload_of(record) == text

    # WHEN it is settled, it goes where the bucket's lifecycle ends it with its record
    settled = inbox.settle(record.failure_id, FailureStatus.DISCARDED, by="ada", reason="rubbish")
    assert (settled.payload_key or "").startswith(f"settled/{record.failure_id}/")
    assert inbox.payload_of(settled) == text
    (kept,) = world.s3.list_objects_v2(Bucket="failed-payloads-bucket")["Contents"]
    assert kept["Key"] == settled.payload_key


def test_a_message_that_cannot_be_captured_stays_while_the_others_are(world: World, inbox: FailuresTable) -> None:
    # GIVEN a bucket that is gone, which only the second message needs
    world.s3.delete_bucket(Bucket="failed-payloads-bucket")

    answer = invoke("capture_failure", messages("small", "x" * 500_000, "small too"))

    assert answer == {"batchItemFailures": [{"itemIdentifier": "message-1"}]}
    assert {record.payload for record in map(inbox.get, ids(inbox)) if record} == {"small", "small too"}


def ids(inbox: FailuresTable) -> list[str]:
    return [record.failure_id for record in inbox.with_status(FailureStatus.NEW)]


def test_a_table_that_refuses_leaves_every_message_on_the_queue(world: World) -> None:
    world.dynamodb.delete_table(TableName="FailuresTable")

    answer = invoke("capture_failure", messages("one", "two"))

    assert [failure["itemIdentifier"] for failure in answer["batchItemFailures"]] == ["message-0", "message-1"]


def pointer(stream_arn: str, shard: str, first: str, last: str) -> dict[str, Any]:
    (record,) = sample("capture_failure/stream-pointer")["Records"]
    body: dict[str, Any] = json.loads(record["body"])
    body["DDBStreamBatchInfo"] |= {
        "streamArn": stream_arn,
        "shardId": shard,
        "startSequenceNumber": first,
        "endSequenceNumber": last,
    }
    return body


STREAM = "arn:aws:dynamodb:us-east-1:123456789012:table/OrdersTable/stream/2026-11-21T00:00:00.000"
SHARD = "shardId-00000001795243622000-0a1b2c3d"
NUMBERS = [f"10000000000000000000000{number}" for number in range(5)]


def stream_record(number: int, event: str, before: int | None, after: int | None) -> dict[str, Any]:
    def image(version: int) -> dict[str, Any]:
        return to_item({"orderId": f"order-{number}", "version": version, "currency": "EUR"})

    return {
        "eventID": str(number),
        "eventName": event,
        "dynamodb": {
            "ApproximateCreationDateTime": datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC),
            "Keys": to_item({"customerId": "c", "orderId": f"order-{number}"}),
            "SequenceNumber": NUMBERS[number],
            **({"OldImage": image(before)} if before else {}),
            **({"NewImage": image(after)} if after else {}),
        },
    }


def test_a_pointer_is_followed_while_the_stream_has_its_records(world: World, inbox: FailuresTable) -> None:
    # GIVEN a stream with two records of orders that moved, a note on one, a removal, and one after the pointer's end
    with Stubber(function("capture_failure")._streams) as streams:
        streams.add_response("get_shard_iterator", {"ShardIterator": "first"})
        streams.add_response("get_records", {"Records": [], "NextShardIterator": "second"})
        streams.add_response(
            "get_records",
            {
                "Records": [
                    stream_record(0, "INSERT", None, 1),
                    stream_record(1, "MODIFY", 1, 2),
                    stream_record(2, "MODIFY", 2, 2),
                    stream_record(3, "REMOVE", 2, None),
                    stream_record(4, "INSERT", None, 1),
                ],
                "NextShardIterator": "third",
            },
        )

        # WHEN the batch was given up
        invoke("capture_failure", messages(pointer(STREAM, SHARD, NUMBERS[0], NUMBERS[3])))

    # THEN each order that moved has a record with the whole stream record, ready to be published again
    records = {record.order_id: record for record in map(inbox.get, ids(inbox)) if record}
    assert records.keys() == {"order-0", "order-1"}
    payload = json.loads(records["order-1"].payload or "")
    assert payload["dynamodb"]["NewImage"] == to_item({"orderId": "order-1", "version": 2, "currency": "EUR"})
    assert payload["eventSourceARN"] == STREAM
    assert {record.redrive.action for record in records.values()} == {"publish"}


@pytest.mark.parametrize("code", ["TrimmedDataAccessException", "ResourceNotFoundException"])
def test_a_pointer_that_came_too_late_is_kept_with_a_note(world: World, inbox: FailuresTable, code: str) -> None:
    with Stubber(function("capture_failure")._streams) as streams:
        streams.add_client_error("get_shard_iterator", code)
        invoke("capture_failure", messages(pointer(STREAM, SHARD, NUMBERS[0], NUMBERS[1])))

    record = only(inbox)
    assert "24 hours" in (record.note or "")
    assert json.loads(record.payload or "")["DDBStreamBatchInfo"]["startSequenceNumber"] == NUMBERS[0]


def test_a_pointer_that_nobody_can_follow_is_kept(world: World, inbox: FailuresTable) -> None:
    assert invoke("capture_failure", messages(pointer("?", "?", "?", "?"))) == {"batchItemFailures": []}

    assert only(inbox).note


def test_two_writers_do_not_overwrite_each_other(world: World, inbox: FailuresTable) -> None:
    # GIVEN a failure, and a second message about it while an operator claims it
    invoke("capture_failure", messages(receipt_failure()))
    failure_id = only(inbox).failure_id
    again = read_message(messages(receipt_failure())["Records"][0])

    def claim_in_between(record: FailureRecord) -> FailureRecord:
        if record.status is FailureStatus.NEW:
            inbox.claim(failure_id, by="ada")
        return seen_again(record, again, at="2026-11-21T07:00:00.000Z", message_id="other")

    # WHEN both write
    record = inbox.change(failure_id, claim_in_between)

    # THEN both are in the record
    assert (record.count, record.status, record.claimed_by) == (2, FailureStatus.REDRIVEN, "ada")


def test_an_unreadable_record_in_the_table_is_an_error_and_not_a_loss(world: World, inbox: FailuresTable) -> None:
    invoke("capture_failure", messages("text"))
    world.dynamodb.put_item(TableName="FailuresTable", Item=to_item({"failureId": only(inbox).failure_id}))

    answer = invoke("capture_failure", messages("text"))

    assert answer == {"batchItemFailures": [{"itemIdentifier": "message-0"}]}
