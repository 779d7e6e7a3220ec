"""Which messages of the failures queue tell of the same failure, and what a record keeps of its message."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest

from orders.inbox import parse
from orders.inbox.record import (
    Action,
    Failure,
    FailureRecord,
    FailureStatus,
    HistoryEntry,
    Kind,
    claimed,
    first_seen,
    released,
    seen_again,
    sent,
    settled,
)
from tests.unit.test_inbox_parse import (
    BUS_EVENT,
    DEAD_LETTER,
    EXECUTION,
    FUNCTION,
    INVOCATION,
    MACHINE,
    NOTIFICATIONS_QUEUE,
    RULE,
    STREAM,
    execution_event,
    read,
)

AT = [f"2026-11-21T06:0{minute}:00.000Z" for minute in range(6)]


def event_of(number: int) -> dict[str, Any]:
    return {
        "detail": {
            "metadata": {"eventId": f"order-{number}#4", "correlationId": f"correlation-{number}"},
            "data": {"orderId": f"order-{number}", "customerId": "customer-1"},
        }
    }


def pointer(**batch: str) -> dict[str, Any]:
    return {
        "requestContext": {"requestId": "request-1", "functionArn": FUNCTION, "condition": "RetryAttemptsExhausted"},
        "DDBStreamBatchInfo": {
            "shardId": "shard-1",
            "startSequenceNumber": "100",
            "endSequenceNumber": "200",
            "batchSize": 2,
            "streamArn": STREAM,
            **batch,
        },
    }


def stream_record(sequence: str = "100", stream: str = STREAM) -> str:
    keys = {"customerId": {"S": "customer-1"}, "orderId": {"S": "order-1"}}
    return json.dumps(
        {"eventName": "INSERT", "eventSourceARN": stream, "dynamodb": {"SequenceNumber": sequence, "Keys": keys}}
    )


# ---- The same failure, or another one


@pytest.mark.parametrize(
    "messages",
    [
        [{"body": {**INVOCATION, "requestPayload": event_of(number)}} for number in range(3)],
        [{"body": event_of(number), "attributes": DEAD_LETTER} for number in range(3)],
        [{"body": event_of(number), "came_from": NOTIFICATIONS_QUEUE} for number in range(3)],
        [{"body": execution_event(input=json.dumps(event_of(number)["detail"]))} for number in range(3)],
        [{"body": execution_event(input="", executionArn=f"{EXECUTION}-{number}")} for number in range(3)],
        [{"body": f"text {number}"} for number in range(3)],
    ],
    ids=["function", "rule's target", "queue", "execution", "execution of nobody's", "unknown"],
)
def test_failures_of_different_events_are_different_records(messages: list[dict[str, Any]]) -> None:
    assert len({read(**message).failure_id for message in messages}) == 3


def test_one_event_that_fails_at_several_places_is_a_record_for_each() -> None:
    other = NOTIFICATIONS_QUEUE.replace("Notifications", "Fulfilment")
    context = {**INVOCATION["requestContext"], "functionArn": f"{FUNCTION}Other"}  # type: ignore[dict-item]
    failures_of_one_event = [
        read({**INVOCATION, "requestPayload": event_of(1)}),
        read({**INVOCATION, "requestPayload": event_of(1), "requestContext": context}),
        read(event_of(1), attributes=DEAD_LETTER),
        read(event_of(1), attributes={**DEAD_LETTER, "TARGET_ARN": other}),
        read(event_of(1), attributes={**DEAD_LETTER, "RULE_ARN": f"{RULE}Other"}),
        read(event_of(1), came_from=NOTIFICATIONS_QUEUE),
        read(event_of(1), came_from=other),
        read(execution_event(input=json.dumps(event_of(1)["detail"]))),
    ]

    assert len({failure.failure_id for failure in failures_of_one_event}) == len(failures_of_one_event)


@pytest.mark.parametrize(
    "batch",
    [
        {"endSequenceNumber": "300"},
        {"startSequenceNumber": "150"},
        {"shardId": "shard-2"},
        {"streamArn": f"{STREAM}1"},
    ],
)
def test_batches_that_differ_in_their_place_are_different_failures(batch: dict[str, str]) -> None:
    assert read(pointer()).failure_id == read(pointer()).failure_id
    assert read(pointer()).failure_id != read(pointer(**batch)).failure_id


def test_a_lost_event_is_one_record_however_it_was_told_of() -> None:
    # GIVEN a stream record that publish_events parked, and that a pointer led to
    parked = read(
        {"kind": "UnreadableStreamRecord", "error": "ValueError: no", "record": json.loads(stream_record())}
    )
    # the form in which it is written doesn't matter
    text = json.dumps(json.loads(stream_record()), indent=1)
    found = parse.stream_record(text, "RetryAttemptsExhausted", "", occurrence="request-1")

    # THEN both are the same failure
    assert parked.failure_id == found.failure_id


@pytest.mark.parametrize("other", [stream_record("101"), stream_record(stream=f"{STREAM}1")])
def test_two_lost_events_are_two_records(other: str) -> None:
    one, two = (parse.stream_record(text, "E", "", occurrence="request-1") for text in (stream_record(), other))
    assert one.failure_id != two.failure_id


def test_records_without_a_number_are_told_apart_by_their_text() -> None:
    one, two = (parse.stream_record(text, "E", "", occurrence="r") for text in ('{"a": 1}', '{"a": 2}'))
    assert one.failure_id != two.failure_id


@pytest.mark.parametrize("body", [{**INVOCATION, "requestContext": {"functionArn": FUNCTION}}, INVOCATION])
def test_a_second_failure_of_the_same_event_is_told_from_a_copy(body: dict[str, Any]) -> None:
    assert read(body).occurrence == read(body).occurrence
    assert read(body).occurrence


# ---- Whose failure it is


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"orderId": "outer", "detail": {"orderId": "inner"}}, "outer"),
        ({"data": {"orderId": "detail of an execution"}}, "detail of an execution"),
        ({"detail": {"orderId": "first"}, "data": {"orderId": "second"}}, "first"),
        ({"dynamodb": {"NewImage": {"orderId": {"S": "new"}}, "Keys": {"orderId": {"S": "key"}}}}, "new"),
        ({"dynamodb": {"Keys": {"orderId": {"S": "key"}}}}, "key"),
        ({"orderId": "", "data": {"orderId": "the one that can be used"}}, "the one that can be used"),
        ({"orderId": "x" * 129, "data": {"orderId": "the one that can be used"}}, "the one that can be used"),
        ({"orderId": "x" * 128}, "x" * 128),
        ({"orderId": "x"}, "x"),
        ({"orderId": "two\nlines"}, None),
        ({"orderId": 7}, None),
    ],
)
def test_the_id_nearest_to_the_top_is_the_payloads(payload: dict[str, Any], expected: str | None) -> None:
    assert parse.identify(json.dumps(payload)).get("order_id") == expected


def test_order_customer_and_correlation_are_found_each_by_its_own_name() -> None:
    payload = {"orderId": "o", "customerId": "c", "correlationId": "x"}
    found = parse.identify(json.dumps(payload))
    assert found == {"order_id": "o", "customer_id": "c", "correlation_id": "x"}


# ---- What else an operator reads


def as_read(failure: Failure) -> dict[str, Any]:
    """What the record shows apart from its identity and payload."""
    fields: dict[str, Any] = msgspec.to_builtins(failure)
    return {name: value for name, value in fields.items() if name not in {"failureId", "payload"}}


IDS = {"orderId": "order-1", "customerId": "customer-1", "correlationId": "correlation-1"}


def test_all_that_a_rules_dead_letter_tells_is_kept() -> None:
    failure = read(BUS_EVENT, attributes={**DEAD_LETTER, "EXHAUSTED_RETRY_CONDITION": "MaximumRetryAttempts"})

    assert as_read(failure) == {
        "kind": "rule-target",
        "component": "NotificationsQueue",
        "resourceArn": NOTIFICATIONS_QUEUE,
        "errorName": "NO_PERMISSIONS",
        "errorMessage": "access is denied",
        "occurrence": "event-1",
        "redrive": {"action": "deliver", "to": NOTIFICATIONS_QUEUE, "rule": RULE},
        "attempts": 3,
        "source": {"rule": RULE, "condition": "MaximumRetryAttempts"},
        **IDS,
    }


def test_a_schedules_dead_letter_names_its_schedule() -> None:
    schedule = "arn:aws:scheduler:eu-west-1:123456789012:schedule/default/orders-dev-sweep"
    failure = read("{}", attributes={"TARGET_ARN": FUNCTION, "SCHEDULE_ARN": schedule})

    assert as_read(failure) == {
        "kind": "rule-target",
        "component": "IssueReceiptFunction",
        "resourceArn": FUNCTION,
        "errorName": "Unknown",
        "errorMessage": "",
        "occurrence": failure.occurrence,
        "redrive": {"action": "invoke", "to": FUNCTION},
        "source": {"rule": schedule},
    }


@pytest.mark.parametrize(("attempts", "expected"), [("0", 1), ("185", 186), ("", 1), ("many", 1), ("-1", 1)])
def test_the_first_attempt_counts_too(attempts: str, expected: int) -> None:
    assert read("{}", attributes={**DEAD_LETTER, "RETRY_ATTEMPTS": attempts}).attempts == expected


def test_all_that_is_known_of_a_message_moved_out_of_a_queue_is_kept() -> None:
    failure = read(BUS_EVENT, came_from=NOTIFICATIONS_QUEUE, message_id="message-7")

    assert as_read(failure) == {
        "kind": "queue",
        "component": "NotificationsQueue",
        "resourceArn": NOTIFICATIONS_QUEUE,
        "errorName": "TooManyReceives",
        "errorMessage": failure.error_message,
        "occurrence": "message-7",
        "redrive": {"action": "send", "to": NOTIFICATIONS_QUEUE},
        "source": {"messageId": "message-7"},
        **IDS,
    }
    assert "before it could report an error" in failure.error_message


def test_all_that_an_invocation_record_tells_is_kept() -> None:
    assert as_read(read(INVOCATION)) == {
        "kind": "function",
        "component": "IssueReceiptFunction",
        "resourceArn": FUNCTION,
        "errorName": "PaymentProviderError",
        "errorMessage": "answered 503",
        "occurrence": "request-1",
        "redrive": {"action": "invoke", "to": FUNCTION},
        "attempts": 3,
        "stackTrace": ["  File x, line 1\n"],
        "source": {"requestId": "request-1", "condition": "RetriesExhausted"},
        **IDS,
    }


def test_an_answer_that_is_no_json_is_kept_as_the_error() -> None:
    failure = read({**INVOCATION, "responsePayload": "Task timed out after 10.00 seconds"})

    assert failure.error_message == '"Task timed out after 10.00 seconds"'


def test_an_invocation_record_that_says_nothing_of_the_error_has_a_name_all_the_same() -> None:
    failure = read({"requestContext": {"functionArn": FUNCTION}, "requestPayload": BUS_EVENT})

    assert as_read(failure) == {
        "kind": "function",
        "component": "IssueReceiptFunction",
        "resourceArn": FUNCTION,
        "errorName": "Unknown",
        "errorMessage": failure.error_message,
        "occurrence": failure.occurrence,
        "redrive": {"action": "invoke", "to": FUNCTION},
        **IDS,
    }


def test_all_that_a_pointer_into_the_stream_tells_is_kept() -> None:
    assert as_read(read(pointer())) == {
        "kind": "stream",
        "component": "OrdersTable",
        "resourceArn": STREAM,
        "errorName": "RetryAttemptsExhausted",
        "errorMessage": "IssueReceiptFunction failed on 2 records; see its log",
        "occurrence": "request-1",
        "redrive": {"action": "none"},
        "source": {
            "requestId": "request-1",
            "shardId": "shard-1",
            "startSequenceNumber": "100",
            "endSequenceNumber": "200",
            "batchSize": "2",
        },
    }


def test_all_that_is_known_of_a_lost_event_is_kept() -> None:
    failure = parse.stream_record(stream_record(), "Some", "thing", occurrence="request-1", attempts=4)

    assert as_read(failure) == {
        "kind": "stream",
        "component": "OrdersTable",
        "resourceArn": STREAM,
        "errorName": "Some",
        "errorMessage": "thing",
        "occurrence": "request-1",
        "redrive": {"action": "publish"},
        "attempts": 4,
        "source": {"sequenceNumber": "100"},
        "orderId": "order-1",
        "customerId": "customer-1",
    }


def test_all_that_an_executions_end_tells_is_kept() -> None:
    inner = json.dumps({"errorType": "LookupError", "errorMessage": "no such order", "stackTrace": ["x"]})
    cause = json.dumps({"state": "ValidateOrder", "cause": inner})

    assert as_read(read(execution_event(error="LookupError", cause=cause))) == {
        "kind": "execution",
        "component": "ValidateOrder",
        "resourceArn": MACHINE,
        "errorName": "LookupError",
        "errorMessage": "no such order",
        "occurrence": EXECUTION,
        "redrive": {"action": "resume"},
        "stackTrace": ["x"],
        "source": {"executionArn": EXECUTION, "executionStatus": "FAILED"},
        **IDS,
    }


@pytest.mark.parametrize("cause", ["out of memory", '{"state": "X", "cause": "out of memory"}'])
def test_a_cause_in_plain_words_is_kept(cause: str) -> None:
    assert read(execution_event(error="E", cause=cause)).error_message == "out of memory"


def test_an_execution_without_a_state_is_named_after_its_machine() -> None:
    assert read(execution_event(status="ABORTED")).component == "orders-dev-order-workflow"


def test_a_message_of_no_known_kind_keeps_its_attributes_and_says_why_it_is_unknown() -> None:
    failure = read("?", attributes={"SOME": "a" * 300}, message_id="message-7")

    assert as_read(failure) == {
        "kind": "unknown",
        "component": "unknown",
        "resourceArn": "",
        "errorName": "Unclassified",
        "errorMessage": "no kind of failure message looks like this",
        "occurrence": "message-7",
        "redrive": {"action": "none"},
        "source": {"messageId": "message-7", "attribute SOME": "a" * 256},
    }


def test_a_message_that_breaks_its_kinds_form_says_how() -> None:
    failure = read('{"kind": "PoisonMessage", "error": "e"}')

    assert (failure.kind, failure.redrive.action) == (Kind.UNKNOWN, Action.NONE)
    assert failure.error_message.startswith("ValidationError: ")


def test_a_message_without_any_field_is_a_failure_too() -> None:
    failure = parse.read_message({})

    assert (failure.kind, failure.payload, failure.occurrence) == (Kind.UNKNOWN, "", "")


def test_half_a_surrogate_pair_can_be_stored_and_had_back() -> None:
    failure = read("before \ud800 after")

    assert isinstance(failure.payload, str)
    assert base64.b64decode(failure.payload).decode(errors="surrogatepass") == "before \ud800 after"


def test_texts_are_cut_to_their_size_and_keep_their_beginning() -> None:
    trace = [f"line {number} {'x' * 400}" for number in range(50)]
    answer = {"errorType": "E" * 300, "errorMessage": "m" * 5_000, "stackTrace": trace}
    failure = read({**INVOCATION, "responsePayload": answer})

    assert failure.error_message == "m" * 3_999 + "…"
    assert failure.error_name == "E" * 255 + "…"
    assert len(failure.stack_trace) == 40  # the last ones: there it happened
    assert failure.stack_trace[-1] == ("line 49 " + "x" * 400)[:299] + "…"


def test_a_text_that_just_fits_is_left_alone() -> None:
    failure = read({**INVOCATION, "responsePayload": {"errorMessage": "m" * 4_000}})

    assert failure.error_message == "m" * 4_000


# ---- The audit trail


def history_of(record: FailureRecord) -> list[tuple[str, str, str, str | None]]:
    return [(entry.at, entry.by, entry.what, entry.detail) for entry in record.history]


def test_the_audit_trail_says_when_who_what_and_why() -> None:
    first = read(INVOCATION)
    context = {**INVOCATION["requestContext"], "requestId": "request-2"}  # type: ignore[dict-item]
    second = read({**INVOCATION, "requestContext": context, "responsePayload": {"errorType": "Other"}})
    record = first_seen(first, at=AT[0], message_id="message-1")
    record = claimed(record, at=AT[1], lease_expired=False, by="ada")
    record = released(record, at=AT[2], detail="no such queue")
    record = claimed(record, at=AT[3], lease_expired=False, by="bob")
    record = sent(record, at=AT[3], detail="sent as message 7")
    record = seen_again(record, second, at=AT[4], message_id="message-2")
    record = settled(record, FailureStatus.DISCARDED, at=AT[5], expires_at=1, by="cyd", reason="shipped by hand")

    assert history_of(record) == [
        (AT[0], "capture", "captured", "PaymentProviderError"),
        (AT[1], "ada", "redrive claimed", None),
        (AT[2], "ada", "redrive failed", "no such queue"),
        (AT[3], "bob", "redrive claimed", None),
        (AT[3], "bob", "redriven", "sent as message 7"),
        (AT[4], "capture", "failed again", "Other"),
        (AT[5], "cyd", "discarded", "shipped by hand"),
    ]
    assert record.reason == "shipped by hand"


def test_of_a_long_history_the_latest_entries_are_kept() -> None:
    record = first_seen(read(INVOCATION), at=AT[0], message_id="message-1")
    record = msgspec.structs.replace(record, history=[HistoryEntry(AT[0], "x", str(n)) for n in range(50)])
    record = sent(record, at=AT[1], detail="d")

    assert [entry.what for entry in record.history] == [*map(str, range(1, 50)), "redriven"]


def test_a_failure_that_happens_again_shows_its_latest_error_and_nobodys_claim() -> None:
    context = {**INVOCATION["requestContext"], "requestId": "request-2", "approximateInvokeCount": 5}  # type: ignore[dict-item]
    answer = {"errorType": "Other", "errorMessage": "another", "stackTrace": ["y"]}
    again = read({**INVOCATION, "requestContext": context, "responsePayload": answer})
    record = first_seen(read(INVOCATION), at=AT[0], message_id="message-1")
    record = claimed(record, at=AT[1], lease_expired=False, by="ada")
    record = sent(record, at=AT[1], detail="sent")
    record = settled(record, FailureStatus.RESOLVED, at=AT[2], expires_at=9, by="sweep", reason="quiet")

    record = seen_again(record, again, at=AT[3], message_id="message-2")

    assert (record.status, record.count, record.redrives) == (FailureStatus.NEW, 2, 1)
    assert (record.error_name, record.error_message, record.stack_trace) == ("Other", "another", ["y"])
    assert (record.attempts, record.source["requestId"]) == (5, "request-2")
    assert (record.first_seen_at, record.last_seen_at) == (AT[0], AT[3])
    assert record.occurrences == ["request-1", "request-2"]
    assert (record.claimed_at, record.claimed_by, record.sent_at) == (None, None, None)
    assert (record.reason, record.expires_at) == (None, None)


# ---- The payload of a failure that happens again


@pytest.mark.parametrize("payload", ["", None])
def test_a_failure_that_happens_again_without_its_payload_keeps_the_one_that_is_known(payload: str | None) -> None:
    first, again = read(execution_event()), read(execution_event(executionArn=f"{EXECUTION}-2"))
    record = first_seen(first, at=AT[0], message_id="message-1")

    record = seen_again(record, msgspec.structs.replace(again, payload=payload), at=AT[1], message_id="2")

    assert (record.payload, record.occurrence, record.status) == (first.payload, EXECUTION, FailureStatus.NEW)


def test_a_failure_that_happens_again_is_redriven_with_its_latest_payload_wherever_that_is_kept() -> None:
    first, again = read(execution_event()), read(execution_event(executionArn=f"{EXECUTION}-2"))
    record = first_seen(first, at=AT[0], message_id="message-1")
    in_bucket = msgspec.structs.replace(again, payload=None, payload_key="payloads/2")
    encoded = msgspec.structs.replace(again, occurrence="3", payload="AAAA", payload_encoding="base64")

    record = seen_again(record, in_bucket, at=AT[1], message_id="message-2")
    assert (record.payload, record.payload_encoding, record.payload_key) == (None, "text", "payloads/2")

    record = seen_again(record, encoded, at=AT[2], message_id="message-3")
    assert (record.payload, record.payload_encoding, record.payload_key) == ("AAAA", "base64", None)
