"""A payload too big for an item: its record never names an object that isn't there, whoever dies or comes between.

Two at work on one failure take every turn that they can, one call to DynamoDB or S3 at a time, and either may die
before any call.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from orders.domain.errors import NotAllowed
from orders.inbox import store as inbox_store
from orders.inbox.record import SETTLED, Action, Failure, FailureStatus, Kind, Redrive
from orders.inbox.store import FailuresTable
from orders.storage.dynamodb import from_item
from verify.scheduler import CallOutcome, Crash, Process, pause

FAILURE_ID = "0123456789abcdef0123"
PAYLOAD = "too big for an item"
Work = Callable[[FailuresTable], Any]


@pytest.fixture(autouse=True)
def small_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_store, "MAX_PAYLOAD", len(PAYLOAD) - 1)


def _refused(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": code}}, "Call")


class _ConditionNotMet(Exception):
    pass


class _NoSuchKey(ClientError):
    pass


class Store:
    """One record and a bucket. Each call first stops its process."""

    exceptions = SimpleNamespace(
        ClientError=ClientError, ConditionalCheckFailedException=_ConditionNotMet, NoSuchKey=_NoSuchKey
    )

    def __init__(self) -> None:
        self.item: dict[str, Any] | None = None
        self.objects: dict[str, bytes] = {}

    @staticmethod
    def _turn(call: str) -> None:
        if pause(call) is CallOutcome.CRASH:
            raise Crash

    # ---- DynamoDB

    def get_item(self, **_: Any) -> dict[str, Any]:
        self._turn("get_item")
        return {"Item": self.item} if self.item else {}

    def put_item(self, Item: dict[str, Any], ConditionExpression: str, **more: Any) -> None:  # noqa: N803
        self._turn("put_item")
        if ConditionExpression.startswith("attribute_not_exists"):
            met = self.item is None
        else:
            met = self.item is not None and self.item["version"] == more["ExpressionAttributeValues"][":version"]
        if not met:
            raise _ConditionNotMet
        self.item = Item

    # ---- S3

    def put_object(self, Key: str, Body: bytes, **_: Any) -> None:  # noqa: N803
        self._turn("put_object")
        self.objects[Key] = Body

    def copy_object(self, Key: str, CopySource: dict[str, str], **_: Any) -> None:  # noqa: N803
        self._turn("copy_object")
        if CopySource["Key"] not in self.objects:
            raise _refused("NoSuchKey")
        self.objects[Key] = self.objects[CopySource["Key"]]

    def get_object(self, Key: str, **_: Any) -> dict[str, Any]:  # noqa: N803
        self._turn("get_object")
        if Key not in self.objects:
            raise _NoSuchKey({"Error": {"Code": "NoSuchKey"}}, "GetObject")
        return {"Body": io.BytesIO(self.objects[Key])}

    def delete_object(self, Key: str, **_: Any) -> None:  # noqa: N803
        self._turn("delete_object")
        self.objects.pop(Key, None)

    # ---- What must hold

    def check(self) -> None:
        """At any moment: the record's object is there, where its status wants it."""
        if self.item is None:
            return
        record = from_item(self.item)
        assert record["payloadKey"] in self.objects, f"{record['payloadKey']} is gone"
        assert record["payloadKey"].startswith("settled/") == (FailureStatus(record["status"]) in SETTLED)


def a_failure(occurrence: str) -> Failure:
    return Failure(
        failure_id=FAILURE_ID,
        kind=Kind.STREAM,
        component="OrdersTable",
        resource_arn="arn",
        error_name="ValueError",
        error_message="no",
        occurrence=occurrence,
        redrive=Redrive(Action.PUBLISH),
        payload=PAYLOAD,
    )


def capture(occurrence: str, message_id: str) -> Work:
    return lambda table: table.add(a_failure(occurrence), message_id)


def discard(table: FailuresTable) -> None:
    table.settle(FAILURE_ID, FailureStatus.DISCARDED, by="ada", reason="rubbish")


def redrive(table: FailuresTable) -> None:
    claim = table.claim(FAILURE_ID, by="bob")
    assert table.payload_of(claim) == PAYLOAD
    table.confirm(claim, "sent")


PAIRS = {
    "captured again, and discarded": (capture("2", "message-2"), discard),
    "the same message again, and discarded": (capture("1", "message-1"), discard),
    "a copy of the message, and discarded": (capture("1", "message-2"), discard),
    "redriven, and discarded": (redrive, discard),
    "redriven, and captured again": (redrive, capture("2", "message-2")),
    "captured twice": (capture("2", "message-2"), capture("3", "message-3")),
    "discarded twice": (discard, discard),
}


def _histories(pair: tuple[Work, Work], *, settled: bool, dies: int | None) -> Iterator[Store]:
    """Every order in which the two can take their turns; the first dies before its call number `dies`."""
    waiting: list[tuple[int, ...]] = [()]
    while waiting:
        turns = waiting.pop()
        store = Store()
        table = FailuresTable(store, store, "table", "bucket")  # type: ignore[arg-type]
        table.add(a_failure("1"), "message-1")
        if settled:
            discard(table)
        processes = [Process("at work", partial(work, table)) for work in pair]
        calls = [0, 0]
        for turn in itertools.count():
            able = [number for number, process in enumerate(processes) if not process.done]
            if not able:
                break
            if turn < len(turns):
                chosen = turns[turn]
            else:
                chosen = able[0]
                waiting += [(*turns, other) for other in able[1:]]
                turns = (*turns, chosen)
            processes[chosen].step(CallOutcome.CRASH if (chosen, calls[chosen]) == (0, dies) else CallOutcome.GO)
            calls[chosen] += 1
            store.check()
        errors = [process.error for process in processes if process.error]
        assert all(isinstance(error, NotAllowed | Crash) for error in errors), errors
        yield store


@pytest.mark.parametrize(
    ("name", "settled"),
    [*((name, False) for name in PAIRS), ("captured again, and discarded", True), ("captured twice", True)],
)
def test_the_payload_is_always_there_and_nothing_else_stays(name: str, settled: bool) -> None:
    number = 0
    for store in _histories(PAIRS[name], settled=settled, dies=None):
        number += 1
        assert store.item is not None
        assert list(store.objects) == [from_item(store.item)["payloadKey"]]
    assert number > 1


@pytest.mark.parametrize("dies", range(1, 6))
@pytest.mark.parametrize("name", ["captured again, and discarded", "discarded twice"])
def test_the_payload_is_there_whenever_somebody_dies(name: str, dies: int) -> None:
    for store in _histories(PAIRS[name], settled=False, dies=dies):
        table = FailuresTable(store, store, "table", "bucket")  # type: ignore[arg-type]
        record = table.get(FAILURE_ID)
        assert record is not None
        assert table.payload_of(record) == PAYLOAD


def test_a_message_whose_capture_died_finds_its_object_when_it_comes_again() -> None:
    for dies in range(1, 4):
        store = Store()
        table = FailuresTable(store, store, "table", "bucket")  # type: ignore[arg-type]
        process = Process("capture", partial(capture("1", "message-1"), table))
        for call in range(dies + 1):
            process.step(CallOutcome.CRASH if call == dies else CallOutcome.GO)
        process.finish()

        capture("1", "message-1")(table)

        assert store.item is not None
        assert list(store.objects) == [from_item(store.item)["payloadKey"]]
