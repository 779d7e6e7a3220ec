"""A claim on a failure: of two operators one sends, a dead one's claim is freed, and nobody speaks for another."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from botocore.exceptions import ClientError

from orders.domain.clock import timestamp, timestamp_before
from orders.domain.errors import NotAllowed
from orders.inbox import store
from orders.inbox.record import CLAIM_LEASE_S, FailureRecord, FailureStatus
from orders.inbox.store import FailuresTable
from tests.integration.world import LambdaContext, World, function, invoke, sample


@pytest.fixture
def inbox(world: World) -> FailuresTable:
    return FailuresTable(world.dynamodb, world.s3)


def captured(inbox: FailuresTable, request: str = "request-1", message: str = "message-1") -> FailureRecord:
    """The failure of a receipt, as its message tells it; the same one with every request."""
    event = sample("capture_failure/asynchronous-function")
    record = event["Records"][0]
    body: dict[str, Any] = json.loads(record["body"])
    body["requestContext"]["requestId"] = request
    record["body"], record["messageId"] = json.dumps(body), message
    assert invoke("capture_failure", event) == {"batchItemFailures": []}
    (found,) = inbox.with_status(FailureStatus.NEW)
    return record_of(inbox, found)


def record_of(inbox: FailuresTable, record: FailureRecord) -> FailureRecord:
    found = inbox.get(record.failure_id)
    assert found is not None
    return found


def replace(record: FailureRecord, **changes: Any) -> FailureRecord:
    return msgspec.structs.replace(record, **changes)


def seconds_ago(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let what is written from now on have been written so long ago; 0 for now."""
    monkeypatch.setattr(store, "timestamp", lambda: timestamp_before(seconds))


class Context(LambdaContext):
    def get_remaining_time_in_millis(self) -> int:
        return 300_000


def sweep() -> dict[str, int]:
    answer: dict[str, int] = function("sweep_orders").handler({}, Context())
    return answer


def test_a_claim_says_since_when_and_whose_it_is(inbox: FailuresTable) -> None:
    before = timestamp()

    claim = inbox.claim(captured(inbox).failure_id, by="ada")

    assert record_of(inbox, claim) == claim
    assert (claim.status, claim.claimed_by, claim.sent_at) == (FailureStatus.REDRIVEN, "ada", None)
    assert before <= (claim.claimed_at or "") <= timestamp()


def test_a_claim_that_is_alive_is_nobody_elses(inbox: FailuresTable, monkeypatch: pytest.MonkeyPatch) -> None:
    failure_id = captured(inbox).failure_id
    seconds_ago(monkeypatch, CLAIM_LEASE_S - 5)
    claim = inbox.claim(failure_id, by="ada")
    seconds_ago(monkeypatch, 0)

    with pytest.raises(NotAllowed, match="ada is redriving it just now"):
        inbox.claim(failure_id, by="bob")

    assert record_of(inbox, claim).claimed_by == "ada"


def test_a_claim_that_died_half_way_is_taken_over_under_its_own_number(
    inbox: FailuresTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure_id = captured(inbox).failure_id
    seconds_ago(monkeypatch, CLAIM_LEASE_S + 5)
    dead = inbox.claim(failure_id, by="ada")
    seconds_ago(monkeypatch, 0)

    claim = inbox.claim(failure_id, by="bob")

    assert (claim.claimed_by, claim.redrives) == ("bob", dead.redrives)


def test_a_claim_that_died_half_way_is_given_back_by_the_sweep(
    inbox: FailuresTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    failure_id = captured(inbox).failure_id
    seconds_ago(monkeypatch, 3_600)
    claim = inbox.claim(failure_id, by="ada")
    seconds_ago(monkeypatch, 0)

    assert sweep()["released"] == 1

    assert record_of(inbox, claim).status is FailureStatus.NEW


def test_what_was_sent_is_sent_again_only_if_somebody_insists(inbox: FailuresTable) -> None:
    failure_id = captured(inbox).failure_id
    inbox.confirm(inbox.claim(failure_id, by="ada"), "invoked")

    with pytest.raises(NotAllowed, match="by ada; --again sends it once more"):
        inbox.claim(failure_id, by="bob")
    claim = inbox.claim(failure_id, by="bob", again=True)

    assert (claim.claimed_by, claim.redrives, claim.sent_at) == ("bob", 2, None)


def test_a_claim_under_way_is_not_sent_again_by_insisting(inbox: FailuresTable) -> None:
    failure_id = captured(inbox).failure_id
    inbox.claim(failure_id, by="ada")

    with pytest.raises(NotAllowed, match="just now"):
        inbox.claim(failure_id, by="bob", again=True)


@pytest.mark.parametrize("status", [FailureStatus.RESOLVED, FailureStatus.DISCARDED])
def test_what_is_settled_is_neither_claimed_nor_settled_again(inbox: FailuresTable, status: FailureStatus) -> None:
    failure_id = captured(inbox).failure_id
    settled = inbox.settle(failure_id, status, by="ada", reason="done by hand")

    with pytest.raises(NotAllowed, match=f"it is {status} already, since {settled.history[-1].at}"):
        inbox.claim(failure_id, by="bob", again=True)
    with pytest.raises(NotAllowed, match=f"it is {status} already, since {settled.history[-1].at}"):
        inbox.settle(failure_id, FailureStatus.DISCARDED, by="bob", reason="rubbish")


@pytest.mark.parametrize("how", ["confirm", "release"])
def test_a_late_word_of_a_sender_does_not_hide_that_it_failed_again(inbox: FailuresTable, how: str) -> None:
    # GIVEN a payload that was sent, and failed before its sender could say so
    claim = inbox.claim(captured(inbox).failure_id, by="ada")
    again = captured(inbox, "request-2", "message-2")

    # WHEN the sender says so
    getattr(inbox, how)(claim, "a late word")

    # THEN the operator still sees the new failure
    assert record_of(inbox, claim) == again
    assert again.status is FailureStatus.NEW


@pytest.mark.parametrize("how", ["confirm", "release"])
def test_a_sender_whose_claim_was_taken_over_says_nothing_for_the_next_one(
    inbox: FailuresTable, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    # GIVEN a claim that was thought dead, and taken over
    failure_id = captured(inbox).failure_id
    seconds_ago(monkeypatch, CLAIM_LEASE_S + 5)
    late = inbox.claim(failure_id, by="ada")
    seconds_ago(monkeypatch, 0)
    claim = inbox.claim(failure_id, by="bob")

    # WHEN its first holder comes back
    getattr(inbox, how)(late, "a late word")

    # THEN the second one's claim stands, unsent
    assert record_of(inbox, claim) == claim


def test_a_sender_says_what_became_of_its_claim(inbox: FailuresTable) -> None:
    failure_id = captured(inbox).failure_id

    released = inbox.release(inbox.claim(failure_id, by="ada"), "no such function")
    assert (released.status, released.claimed_at, released.claimed_by) == (FailureStatus.NEW, None, None)

    before = timestamp()
    confirmed = inbox.confirm(inbox.claim(failure_id, by="bob"), "invoked")
    assert (confirmed.status, confirmed.claimed_by, confirmed.redrives) == (FailureStatus.REDRIVEN, "bob", 2)
    assert before <= (confirmed.sent_at or "") <= timestamp()
    assert [(entry.by, entry.what, entry.detail) for entry in record_of(inbox, confirmed).history[1:]] == [
        ("ada", "redrive claimed", None),
        ("ada", "redrive failed", "no such function"),
        ("bob", "redrive claimed", None),
        ("bob", "redriven", "invoked"),
    ]


def test_a_record_is_settled_only_as_long_as_it_is_the_one_that_was_looked_at(inbox: FailuresTable) -> None:
    seen = captured(inbox)
    claim = inbox.claim(seen.failure_id, by="ada")

    left = inbox.settle(
        seen.failure_id, FailureStatus.RESOLVED, by="sweep", reason="it is over", if_version=seen.version
    )

    assert left == claim
    assert record_of(inbox, claim) == claim


def test_a_settled_failure_expires_after_ninety_days(inbox: FailuresTable) -> None:
    settled = inbox.settle(captured(inbox).failure_id, FailureStatus.DISCARDED, by="ada", reason="rubbish")

    assert abs((settled.expires_at or 0) - time.time() - 90 * 24 * 3600) < 60


def test_each_change_is_a_version_and_none_is_none(inbox: FailuresTable) -> None:
    record = captured(inbox)

    claim = inbox.claim(record.failure_id, by="ada")
    assert (record.version, claim.version) == (1, 2)

    assert inbox.change(record.failure_id, lambda same: same) == claim


def test_an_unknown_failure_is_nobodys(inbox: FailuresTable) -> None:
    with pytest.raises(LookupError, match="no failure 0123"):
        inbox.claim("0123", by="ada")
    assert inbox.get("0123") is None


# ---- Payloads in the bucket


def big(inbox: FailuresTable, world: World, body: str = "x" * 300_000, message: str = "message-1") -> FailureRecord:
    event = sample("capture_failure/unknown")
    event["Records"][0] |= {"body": body, "messageId": message}
    invoke("capture_failure", event)
    (found,) = inbox.with_status(FailureStatus.NEW)
    return record_of(inbox, found)


def keys(world: World) -> list[str]:
    found = world.s3.list_objects_v2(Bucket="failed-payloads-bucket").get("Contents", [])
    return [entry["Key"] for entry in found]


@pytest.mark.parametrize(
    ("letter", "times", "stored"),
    [("x", 250_000, 0), ("x", 250_001, 1), ("é", 125_000, 0), ("é", 125_001, 1)],
    ids=["250,000 bytes", "250,001 bytes", "250,000 bytes of UTF-8", "250,002 bytes of UTF-8"],
)
def test_only_what_no_item_holds_goes_to_the_bucket(
    inbox: FailuresTable, world: World, letter: str, times: int, stored: int
) -> None:
    record = big(inbox, world, letter * times)

    assert len(keys(world)) == stored
    assert inbox.payload_of(record) == letter * times


def test_a_payload_that_was_redriven_stays_where_it_is(inbox: FailuresTable, world: World) -> None:
    record = big(inbox, world)

    inbox.confirm(inbox.claim(record.failure_id, by="ada"), "sent")

    assert keys(world) == [record.payload_key]
    assert inbox.payload_of(record_of(inbox, record)) == "x" * 300_000


def once_before_a_copy(inbox: FailuresTable, monkeypatch: pytest.MonkeyPatch, happens: Callable[[], Any]) -> None:
    """Has something happen while a payload is moved."""
    copy = inbox._s3.copy_object

    def copy_object(**request: Any) -> Any:
        monkeypatch.setattr(inbox._s3, "copy_object", copy)
        happens()
        return copy(**request)

    monkeypatch.setattr(inbox._s3, "copy_object", copy_object)


def test_a_payload_that_is_moved_while_its_record_changes_is_there_once(
    inbox: FailuresTable, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a failure that is counted again just when its payload is moved
    record = big(inbox, world)
    other = FailuresTable(world.dynamodb, world.s3)
    once_before_a_copy(
        inbox,
        monkeypatch,
        lambda: other.change(record.failure_id, lambda each: replace(each, count=each.count + 1)),
    )

    # WHEN somebody settles it
    settled = inbox.settle(record.failure_id, FailureStatus.DISCARDED, by="ada", reason="rubbish")

    # THEN the bucket holds what the record names, and nothing else
    assert (settled.status, settled.count) == (FailureStatus.DISCARDED, 2)
    assert keys(world) == [settled.payload_key]
    assert (settled.payload_key or "").startswith("settled/")
    assert inbox.payload_of(settled) == "x" * 300_000


def test_who_reads_a_payload_while_it_is_moved_gets_it(inbox: FailuresTable, world: World) -> None:
    record = big(inbox, world)
    inbox.settle(record.failure_id, FailureStatus.DISCARDED, by="ada", reason="rubbish")

    # the record as it was read before
    assert inbox.payload_of(record) == "x" * 300_000


def test_a_payload_that_is_gone_is_an_error_and_not_empty(inbox: FailuresTable, world: World) -> None:
    record = big(inbox, world)
    world.s3.delete_object(Bucket="failed-payloads-bucket", Key=record.payload_key)

    with pytest.raises(ClientError, match="NoSuchKey"):
        inbox.payload_of(record)


def test_a_failure_whose_payload_is_gone_can_be_settled(inbox: FailuresTable, world: World) -> None:
    record = big(inbox, world)
    world.s3.delete_object(Bucket="failed-payloads-bucket", Key=record.payload_key)

    settled = inbox.settle(record.failure_id, FailureStatus.DISCARDED, by="ada", reason="rubbish")

    assert (settled.status, settled.payload_key) == (FailureStatus.DISCARDED, record.payload_key)


def test_a_payload_that_cannot_be_moved_leaves_its_failure_open(
    inbox: FailuresTable, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = big(inbox, world)

    def copy_object(**_: Any) -> Any:
        raise ClientError({"Error": {"Code": "SlowDown", "Message": ""}}, "CopyObject")

    monkeypatch.setattr(inbox._s3, "copy_object", copy_object)
    with pytest.raises(ClientError):
        inbox.settle(record.failure_id, FailureStatus.DISCARDED, by="ada", reason="rubbish")

    assert record_of(inbox, record) == record


def test_a_settled_failure_that_happens_again_has_its_payload_where_it_stays(
    inbox: FailuresTable, world: World
) -> None:
    record = big(inbox, world)
    settled = inbox.settle(record.failure_id, FailureStatus.DISCARDED, by="ada", reason="rubbish")

    again = big(inbox, world, message="message-2")

    assert again.failure_id == settled.failure_id
    assert again.status is FailureStatus.NEW
    assert keys(world) == [again.payload_key]
    assert (again.payload_key or "").startswith("payloads/")
    assert inbox.payload_of(again) == "x" * 300_000


def test_a_copy_of_a_big_failure_leaves_no_second_payload(inbox: FailuresTable, world: World) -> None:
    record = big(inbox, world)

    big(inbox, world)
    assert keys(world) == [record.payload_key]


def test_a_failure_without_a_payload_has_an_empty_one(inbox: FailuresTable) -> None:
    record = replace(captured(inbox), payload=None)
    assert inbox.payload_of(record) == ""


# ---- Lists


def test_failures_are_listed_last_seen_first_from_a_time_on(inbox: FailuresTable, world: World) -> None:
    record = captured(inbox)
    for number, at in enumerate(["2026-11-20", "2026-11-21", "2026-11-22", "2026-11-23", "2099"]):
        other = replace(record, failure_id=f"{number:020}", order_id="order-1", first_seen_at=at, last_seen_at=at)
        world.put("FailuresTable", **msgspec.to_builtins(other))
    inbox.settle(record.failure_id, FailureStatus.DISCARDED, by="ada", reason="rubbish")

    listed = [each.last_seen_at for each in inbox.with_status(FailureStatus.NEW, since="2026-11-21")]
    assert listed == ["2099", "2026-11-23", "2026-11-22", "2026-11-21"]
    assert [each.first_seen_at for each in inbox.of_order("order-1")] == [
        "2026-11-20",
        "2026-11-21",
        "2026-11-22",
        "2026-11-23",
        "2099",
    ]
    assert inbox.of_order("order-2") == []
