"""How long a claim lives, how much a record remembers, and what is told of more."""

from __future__ import annotations

import msgspec
import pytest

from orders.domain.errors import NotAllowed
from orders.inbox import store
from orders.inbox.record import FailureStatus, released, seen_again, sent
from orders.inbox.store import FailuresTable
from tests.integration.test_inbox_claims import captured, inbox
from tests.integration.world import World

__all__ = ["inbox"]  # a fixture

NOW = "2026-11-21T12:00:00.000Z"


def test_a_claim_lives_for_two_minutes_to_the_last_millisecond(
    inbox: FailuresTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def before(seconds: float) -> str:
        asked.append(seconds)
        return NOW

    monkeypatch.setattr(store, "timestamp", lambda: NOW)
    claim = inbox.claim(captured(inbox).failure_id, by="ada")
    monkeypatch.setattr(store, "timestamp_before", before)

    with pytest.raises(NotAllowed, match="just now"):
        inbox.claim(claim.failure_id, by="bob")
    assert asked == [120]


def test_a_claim_without_a_time_is_nobodys_to_take(inbox: FailuresTable, world: World) -> None:
    record = msgspec.structs.replace(captured(inbox), status=FailureStatus.REDRIVEN, claimed_by="ada")
    world.put("FailuresTable", **msgspec.to_builtins(record))

    with pytest.raises(NotAllowed):
        inbox.claim(record.failure_id, by="bob")


def test_a_record_remembers_its_latest_fifty(inbox: FailuresTable) -> None:
    record = captured(inbox)
    for number in range(60):
        failure = msgspec.structs.replace(record, occurrence=f"request {number}")
        record = seen_again(record, failure, at=NOW, message_id=f"message {number}")

    last = [f"request {number}" for number in range(10, 60)]
    assert record.occurrences == last
    assert record.message_ids == [each.replace("request", "message") for each in last]
    assert len(record.history) == 50


def test_releasing_says_by_whom_though_nobody_is_named(inbox: FailuresTable) -> None:
    record = captured(inbox)

    for changed in (sent(record, at=NOW, detail="d"), released(record, at=NOW, detail="d")):
        assert changed.history[-1].by == "?"


def test_a_new_failure_that_cannot_be_stored_raises_the_cause(
    inbox: FailuresTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = msgspec.structs.replace(captured(inbox), failure_id="another")

    def put_item(**_: object) -> None:
        raise ConnectionError("throttled")

    monkeypatch.setattr(inbox._client, "put_item", put_item)
    with pytest.raises(ConnectionError):
        inbox.add(failure, "message-9")


def test_another_message_with_a_small_payload_leaves_the_large_one_alone(
    inbox: FailuresTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a failure whose payload lies in the bucket
    small = msgspec.structs.replace(captured(inbox), failure_id="another", payload="{}")
    monkeypatch.setattr(store, "MAX_PAYLOAD", 3)
    large = msgspec.structs.replace(small, payload="a large payload")
    inbox.add(large, "message-1")

    # WHEN another message tells of the same occurrence
    deleted: list[str] = []
    monkeypatch.setattr(inbox, "_delete_object", deleted.append)
    record = inbox.add(small, "message-2")

    assert (record.count, inbox.payload_of(record), deleted) == (2, "a large payload", [])


def test_a_first_large_payload_replaces_no_object(inbox: FailuresTable, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN a failure whose payload lies in its record
    small = captured(inbox)
    monkeypatch.setattr(store, "MAX_PAYLOAD", 3)
    deleted: list[str] = []
    monkeypatch.setattr(inbox, "_delete_object", deleted.append)

    # WHEN it occurs again, with a large payload
    again = msgspec.structs.replace(small, occurrence="request-2", payload="a large payload")
    record = inbox.add(again, "message-2")

    assert (inbox.payload_of(record), deleted) == ("a large payload", [])


def test_a_record_is_read_as_its_last_change_left_it(inbox: FailuresTable, monkeypatch: pytest.MonkeyPatch) -> None:
    failure_id = captured(inbox).failure_id
    get_item, asked = inbox._client.get_item, []

    def recorded(**request: object) -> object:
        asked.append(request["ConsistentRead"])
        return get_item(**request)  # type: ignore[arg-type]

    monkeypatch.setattr(inbox._client, "get_item", recorded)
    inbox.get(failure_id)

    assert asked == [True]
