"""The failure inbox as it is stored: words and names that are in the table already, and how long a text may be."""

from __future__ import annotations

import msgspec

from orders.inbox.parse import component_of
from orders.inbox.record import SETTLED, Action, FailureRecord, FailureStatus, HistoryEntry, Kind, Redrive
from tests.unit.test_inbox_parse import BUS_EVENT, DEAD_LETTER, read


def test_stored_words_stay_what_they_are() -> None:
    assert [str(word) for word in Kind] == ["rule-target", "queue", "function", "stream", "execution", "unknown"]
    assert [str(word) for word in FailureStatus] == ["NEW", "REDRIVEN", "RESOLVED", "DISCARDED"]
    assert [str(word) for word in Action] == ["send", "invoke", "deliver", "publish", "resume", "none"]
    assert {FailureStatus.RESOLVED, FailureStatus.DISCARDED} == SETTLED


def test_a_failure_is_stored_under_these_names() -> None:
    record = FailureRecord(
        failure_id="f",
        kind=Kind.QUEUE,
        component="c",
        resource_arn="r",
        error_name="e",
        error_message="m",
        occurrence="o",
        redrive=Redrive(Action.DELIVER, "to", "rule"),
        attempts=2,
        stack_trace=["s"],
        order_id="order",
        customer_id="customer",
        correlation_id="correlation",
        payload="p",
        payload_encoding="base64",
        payload_key="k",
        note="n",
        source={"a": "b"},
        status=FailureStatus.NEW,
        first_seen_at="1",
        last_seen_at="2",
        redrives=3,
        claimed_at="4",
        claimed_by="ada",
        sent_at="5",
        reason="why",
        expires_at=6,
        history=[HistoryEntry("7", "by", "what", "detail")],
        occurrences=["o"],
        message_ids=["i"],
    )
    stored = msgspec.to_builtins(record)

    assert stored == {
        "failureId": "f",
        "kind": "queue",
        "component": "c",
        "resourceArn": "r",
        "errorName": "e",
        "errorMessage": "m",
        "occurrence": "o",
        "redrive": {"action": "deliver", "to": "to", "rule": "rule"},
        "attempts": 2,
        "stackTrace": ["s"],
        "orderId": "order",
        "customerId": "customer",
        "correlationId": "correlation",
        "payload": "p",
        "payloadEncoding": "base64",
        "payloadKey": "k",
        "note": "n",
        "source": {"a": "b"},
        "status": "NEW",
        "version": 1,
        "count": 1,
        "firstSeenAt": "1",
        "lastSeenAt": "2",
        "redrives": 3,
        "claimedAt": "4",
        "claimedBy": "ada",
        "sentAt": "5",
        "reason": "why",
        "expiresAt": 6,
        "history": [{"at": "7", "by": "by", "what": "what", "detail": "detail"}],
        "occurrences": ["o"],
        "messageIds": ["i"],
    }
    assert msgspec.convert(stored, FailureRecord) == record


def test_a_failure_of_which_little_is_known_is_stored_short_and_read_with_the_usual_values() -> None:
    stored = {
        "failureId": "f",
        "kind": "unknown",
        "component": "c",
        "resourceArn": "",
        "errorName": "e",
        "errorMessage": "m",
        "occurrence": "o",
        "redrive": {"action": "none"},
        "status": "NEW",
        "version": 1,
        "count": 1,
        "firstSeenAt": "1",
        "lastSeenAt": "1",
    }
    record = msgspec.convert(stored, FailureRecord)

    assert msgspec.to_builtins(record) == stored
    assert (record.attempts, record.stack_trace, record.payload, record.payload_encoding) == (1, [], None, "text")
    assert (record.redrives, record.claimed_at, record.sent_at, record.expires_at) == (0, None, None, None)
    assert (record.redrive.to, record.redrive.rule, record.source, record.history) == ("", "", {}, [])


def test_texts_are_cut_to_what_indexes_and_items_take() -> None:
    long = "x" * 5_000
    failure = read({**BUS_EVENT, "id": long}, attributes={**DEAD_LETTER, "TARGET_ARN": long, "RULE_ARN": long})

    texts = (failure.component, failure.resource_arn, failure.occurrence, failure.source["rule"])
    assert [len(text) for text in texts] == [128, 2_048, 256, 2_048]
    assert failure.redrive.to == long  # whole: it is where the payload goes


def test_a_text_that_cannot_be_stored_is_stored_as_far_as_it_can() -> None:
    assert read("{}", attributes={**DEAD_LETTER, "ERROR_MESSAGE": "a\ud800b"}).error_message == "a?b"


def test_a_name_that_is_no_arn_stays_whole() -> None:
    assert component_of("no:arn/at:all") == "no:arn/at:all"
