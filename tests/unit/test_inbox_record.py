"""What may be done about a failure, and what each message about it changes."""

from __future__ import annotations

import msgspec
import pytest

from orders.domain.errors import NotAllowed
from orders.inbox.record import (
    MAX_HISTORY,
    MAX_REMEMBERED,
    Action,
    Failure,
    FailureRecord,
    FailureStatus,
    Kind,
    Redrive,
    claimed,
    first_seen,
    seen_again,
    sent,
    settled,
)
from orders.workflow import execution_name

FIRST, SECOND, THIRD = (f"2026-11-21T06:0{minute}:00.000Z" for minute in range(3))


def a_failure(**changes: object) -> Failure:
    failure = Failure(
        failure_id="0123456789abcdef0123",
        kind=Kind.FUNCTION,
        component="IssueReceiptFunction",
        resource_arn="arn:aws:lambda:eu-west-1:123456789012:function:receipts",
        error_name="PaymentProviderError",
        error_message="answered 503",
        occurrence="request-1",
        redrive=Redrive(Action.INVOKE, "arn:aws:lambda:eu-west-1:123456789012:function:receipts"),
        payload="{}",
        order_id="order-1",
    )
    return msgspec.structs.replace(failure, **changes)


def a_record() -> FailureRecord:
    return first_seen(a_failure(), at=FIRST, message_id="message-1")


def a_redriven_record() -> FailureRecord:
    return sent(claimed(a_record(), at=SECOND, lease_expired=False, by="ada"), at=SECOND, detail="sent")


def test_a_failure_starts_new_and_counted_once() -> None:
    record = a_record()

    assert (record.status, record.count, record.first_seen_at, record.last_seen_at) == (
        FailureStatus.NEW,
        1,
        FIRST,
        FIRST,
    )
    assert record.expires_at is None


def test_the_same_message_delivered_twice_changes_nothing() -> None:
    record = a_record()

    assert seen_again(record, a_failure(), at=SECOND, message_id="message-1") is record


def test_another_message_about_the_same_failure_is_counted() -> None:
    record = seen_again(a_record(), a_failure(), at=SECOND, message_id="message-2")

    assert (record.count, record.first_seen_at, record.last_seen_at) == (2, FIRST, SECOND)


def test_a_late_copy_does_not_reopen_what_was_redriven() -> None:
    record = seen_again(a_redriven_record(), a_failure(), at=THIRD, message_id="message-2")

    assert (record.status, record.count) == (FailureStatus.REDRIVEN, 2)


@pytest.mark.parametrize("status", [None, FailureStatus.RESOLVED, FailureStatus.DISCARDED])
def test_a_new_occurrence_reopens_with_the_latest_error_and_payload(status: FailureStatus | None) -> None:
    # GIVEN a failure that was redriven, and perhaps settled
    record = a_redriven_record()
    if status:
        record = settled(record, status, at=SECOND, expires_at=1, by="sweep", reason="over")

    # WHEN it fails again
    again = a_failure(occurrence="request-2", error_name="TimeoutError", payload="something else", component="Other")
    record = seen_again(record, again, at=THIRD, message_id="message-2")

    # THEN it is as good as new, and doesn't expire
    assert (record.status, record.error_name, record.payload) == (FailureStatus.NEW, "TimeoutError", "something else")
    assert record.component == "Other"
    assert (record.expires_at, record.claimed_by, record.sent_at, record.redrives) == (None, None, None, 1)
    assert record.history[-1].what == "failed again"


def test_a_new_occurrence_that_brings_no_payload_keeps_the_one_there_is() -> None:
    record = seen_again(a_redriven_record(), a_failure(occurrence="2", payload=""), at=THIRD, message_id="2")

    assert (record.status, record.payload) == (FailureStatus.NEW, "{}")


def test_of_two_operators_one_gets_the_failure() -> None:
    record = claimed(a_record(), at=SECOND, lease_expired=False, by="ada")

    with pytest.raises(NotAllowed, match="ada is redriving it just now"):
        claimed(record, at=SECOND, lease_expired=False, by="bob")


def test_a_claim_that_died_half_way_is_taken_over_under_the_same_number() -> None:
    record = claimed(a_record(), at=FIRST, lease_expired=False, by="ada")

    taken = claimed(record, at=SECOND, lease_expired=True, by="bob")

    assert (taken.claimed_by, taken.redrives) == ("bob", record.redrives)


def test_what_was_redriven_is_sent_again_only_on_demand() -> None:
    with pytest.raises(NotAllowed, match="--again"):
        claimed(a_redriven_record(), at=THIRD, lease_expired=True, by="ada")

    assert claimed(a_redriven_record(), at=THIRD, lease_expired=True, by="ada", again=True).redrives == 2


@pytest.mark.parametrize("status", [FailureStatus.RESOLVED, FailureStatus.DISCARDED])
def test_what_is_settled_is_neither_redriven_nor_settled_again(status: FailureStatus) -> None:
    record = settled(a_record(), status, at=SECOND, expires_at=1, by="ada", reason="test data")

    with pytest.raises(NotAllowed, match=status):
        claimed(record, at=THIRD, lease_expired=True, by="ada", again=True)
    with pytest.raises(NotAllowed, match=status):
        settled(record, FailureStatus.DISCARDED, at=THIRD, expires_at=1, by="ada", reason="again")


def test_history_and_memory_stay_bounded() -> None:
    record = a_record()
    for number in range(200):
        failure = a_failure(occurrence=f"request-{number + 2}")
        record = seen_again(record, failure, at=SECOND, message_id=f"message-{number + 2}")

    assert record.count == 201
    assert len(record.history) == MAX_HISTORY
    assert len(record.occurrences) == len(record.message_ids) == MAX_REMEMBERED


def test_an_executions_name_keeps_to_the_quota() -> None:
    assert len(execution_name("5" * 128, a_record().failure_id)) <= 80


def test_a_stored_record_has_no_empty_fields() -> None:
    stored = msgspec.to_builtins(claimed(a_record(), at=SECOND, lease_expired=False, by="ada"))

    assert None not in stored.values()
    assert [entry.keys() for entry in stored["history"]] == [{"at", "by", "what", "detail"}, {"at", "by", "what"}]
