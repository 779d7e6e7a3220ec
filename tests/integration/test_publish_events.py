"""The outbox's relay: every change of status becomes one event, whatever EventBridge and the records are like."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from orders.domain.order import Order, PricedLine, Reason, Status
from orders.storage.dynamodb import to_item
from tests.integration.world import World, an_order, function, invoke, sample

FIRST = 4421584500000000017450439091


class Bus:
    """An EventBridge that takes what it is told to; remembers each call's entries."""

    def __init__(self, refuse: Callable[[int, dict[str, Any]], bool] = lambda call, entry: False) -> None:
        self.calls: list[list[dict[str, Any]]] = []
        self._refuse = refuse

    def put_events(self, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
        call = len(self.calls)
        self.calls.append(Entries)
        refused = [self._refuse(call, entry) for entry in Entries]
        return {
            "FailedEntryCount": sum(refused),
            "Entries": [{"ErrorCode": "ThrottlingException"} if no else {"EventId": "1"} for no in refused],
        }

    @property
    def sent(self) -> list[dict[str, Any]]:
        return [json.loads(entry["Detail"]) for call in self.calls for entry in call]

    @property
    def ids(self) -> list[str]:
        return [detail["metadata"]["eventId"] for detail in self.sent]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, world: World) -> Callable[[Any], Any]:
    """Has the function publish to another bus, and not wait."""

    def replace(bus: Any) -> Any:
        monkeypatch.setattr(function("publish_events"), "_events", bus)
        monkeypatch.setattr(function("publish_events").time, "sleep", lambda _: None)
        return bus

    return replace


def numbered(n: int) -> Order:
    return an_order(order_id=f"00000000-0000-4000-8000-{n:012}")


def change(new: Order | None, old: Order | None = None, n: int = 0) -> dict[str, Any]:
    """The stream's record of a change, the nth of its shard."""
    record: dict[str, Any] = copy.deepcopy(sample("publish_events/order-placed")["Records"][0])
    record["eventName"] = "REMOVE" if new is None else "MODIFY" if old else "INSERT"
    record["dynamodb"]["SequenceNumber"] = str(FIRST + n)
    for name, order in (("NewImage", new), ("OldImage", old)):
        record["dynamodb"].pop(name, None)
        if order is not None:
            record["dynamodb"][name] = to_item(msgspec.to_builtins(order))
    return record


def publish(*records: dict[str, Any]) -> list[int]:
    """Which record, by its number, has to come again."""
    answer = invoke("publish_events", {"Records": list(records)})
    return [int(failure["itemIdentifier"]) - FIRST for failure in answer["batchItemFailures"]]


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (Status.PLACED, "OrderPlaced"),
        (Status.RESERVED, "OrderReserved"),
        (Status.PAID, "OrderPaid"),
        (Status.FULFILLED, "OrderFulfilled"),
        (Status.FAILED, "OrderFailed"),
        (Status.CANCELLED, "OrderCancelled"),
    ],
)
def test_a_change_of_status_is_published(use: Callable[[Any], Bus], status: Status, name: str) -> None:
    bus = use(Bus())
    placed = an_order()
    order = an_order(status=status, version=2, lines=[PricedLine("TEA", 1, 5)], total=5, reason=Reason("Code", "why"))

    assert publish(change(order, placed)) == []

    ((entry,),) = bus.calls
    detail = json.loads(entry["Detail"])
    assert (entry["EventBusName"], entry["Source"], entry["DetailType"]) == ("OrdersBus", "orders", name)
    assert detail["metadata"]["eventId"] == f"{order.order_id}#2"
    assert detail["metadata"]["correlationId"] == order.correlation_id
    assert detail["data"]["reason"] == {"code": "Code", "message": "why"}
    assert not {"shippingAddress", "paymentMethod"} & detail["data"].keys()


def test_what_changes_no_status_is_not_published(use: Callable[[Any], Bus]) -> None:
    bus = use(Bus())
    noted = an_order(timeline=[])

    assert publish(change(noted, an_order()), change(None, an_order(), 1)) == []
    assert bus.calls == []


def test_a_record_that_comes_twice_is_recognisable(use: Callable[[Any], Bus]) -> None:
    bus = use(Bus())

    publish(change(an_order()))
    publish(change(an_order()))

    assert len(bus.ids) == 2
    assert len(set(bus.ids)) == 1


def test_no_call_has_more_entries_than_eventbridge_takes(use: Callable[[Any], Bus]) -> None:
    bus = use(Bus())

    assert publish(*(change(numbered(n), n=n) for n in range(25))) == []

    assert [len(call) for call in bus.calls] == [10, 10, 5]
    assert bus.ids == [f"{numbered(n).order_id}#1" for n in range(25)]


def test_no_call_is_bigger_than_eventbridge_takes(use: Callable[[Any], Bus], monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN events of which two and a half fit into a call
    bus = use(Bus())
    publish(change(numbered(0)))
    size = len("orders" + "OrderPlaced" + bus.calls[0][0]["Detail"])
    monkeypatch.setattr(function("publish_events"), "MAX_BYTES", int(size * 2.5))

    publish(*(change(numbered(n), n=n) for n in range(5)))

    assert [len(call) for call in bus.calls[1:]] == [2, 2, 1]


def test_an_event_that_is_too_big_goes_alone(use: Callable[[Any], Bus], monkeypatch: pytest.MonkeyPatch) -> None:
    bus = use(Bus())
    monkeypatch.setattr(function("publish_events"), "MAX_BYTES", 10)

    publish(*(change(numbered(n), n=n) for n in range(3)))

    assert [len(call) for call in bus.calls] == [1, 1, 1]


def test_only_what_was_refused_is_sent_again(use: Callable[[Any], Bus]) -> None:
    # GIVEN a bus that refuses the third event once
    bus = use(Bus(lambda call, entry: call == 0 and numbered(2).order_id in entry["Detail"]))

    assert publish(*(change(numbered(n), n=n) for n in range(4))) == []

    assert [len(call) for call in bus.calls] == [4, 1]
    assert bus.ids[-1] == f"{numbered(2).order_id}#1"


def test_the_first_that_is_refused_for_good_comes_again(use: Callable[[Any], Bus]) -> None:
    # GIVEN a bus that refuses two events, whatever is tried
    stubborn = (numbered(3).order_id, numbered(7).order_id)
    bus = use(Bus(lambda call, entry: any(order_id in entry["Detail"] for order_id in stubborn)))

    # THEN Lambda is told to go on from the first of them
    assert publish(*(change(numbered(n), n=n) for n in range(12))) == [3]

    # AND the others were published all the same
    assert {f"{numbered(n).order_id}#1" for n in range(12)} <= set(bus.ids)


def test_sequence_numbers_are_compared_as_numbers(use: Callable[[Any], Bus]) -> None:
    use(Bus(lambda call, entry: True))
    records = [change(numbered(0)), change(numbered(1))]
    records[0]["dynamodb"]["SequenceNumber"], records[1]["dynamodb"]["SequenceNumber"] = "9", "10"

    answer = invoke("publish_events", {"Records": records})

    assert answer == {"batchItemFailures": [{"itemIdentifier": "9"}]}


def test_a_call_that_fails_is_repeated(use: Callable[[Any], Any]) -> None:
    class Flaky(Bus):
        def put_events(self, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
            answer = super().put_events(Entries)
            if len(self.calls) < 3:
                raise ConnectionError
            return answer

    bus = use(Flaky())

    assert publish(change(an_order())) == []
    assert len(bus.calls) == 3


def test_a_bus_that_is_down_loses_nothing(use: Callable[[Any], Any]) -> None:
    class Down:
        def put_events(self, Entries: Any) -> Any:  # noqa: N803
            raise ConnectionError

    use(Down())

    assert publish(change(numbered(0)), change(numbered(1), n=1)) == [0]


# ---- Records that can't be read


def damaged(n: int = 0, **attributes: Any) -> dict[str, Any]:
    record = change(an_order(), n=n)
    record["dynamodb"]["NewImage"].update(attributes)
    return record


UNREADABLE: list[dict[str, Any]] = [
    damaged(status={"S": "TELEPORTED"}),
    damaged(version={"S": "1"}),
    damaged(version={"N": "1.5"}),
    damaged(version={}),
    damaged(version="1"),
    damaged(lines={"L": [{"S": "TEA"}]}),
    damaged(total={"B": "AAAA"}),
    {**change(an_order()), "eventName": None, "dynamodb": {"SequenceNumber": str(FIRST)}},
    {"eventName": "INSERT", "dynamodb": {"SequenceNumber": str(FIRST), "NewImage": {"sku": {"S": "TEA"}}}},
    {"dynamodb": {"SequenceNumber": str(FIRST)}},
    {"hello": "world"},
]


@pytest.mark.parametrize("record", UNREADABLE)
def test_a_record_that_cant_be_read_is_parked_whole(
    world: World, use: Callable[[Any], Bus], record: dict[str, Any]
) -> None:
    # GIVEN it comes amidst others
    bus = use(Bus())

    assert publish(change(numbered(1), n=1), record, change(numbered(2), n=2)) == []

    # THEN the others are published
    assert bus.ids == [f"{numbered(n).order_id}#1" for n in (1, 2)]

    # AND it is in the failure inbox's queue as it came
    (message,) = map(json.loads, world.messages("FailuresQueue"))
    assert message["kind"] == "UnreadableStreamRecord"
    assert message["record"] == record
    assert message["error"]


def test_a_record_that_cant_be_parked_comes_again(
    world: World, use: Callable[[Any], Bus], monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN an unreadable record and no queue to park it in
    bus = use(Bus())
    monkeypatch.setattr(function("publish_events"), "_sqs", None)

    # WHEN it comes between others, THEN Lambda goes on from it
    assert publish(change(numbered(0)), damaged(1, status={"S": "?"}), change(numbered(2), n=2)) == [1]

    # AND what came before it is published
    assert bus.ids == [f"{numbered(0).order_id}#1"]


def test_log_lines_name_the_order_and_its_correlation_id(
    use: Callable[[Any], Bus], logs: Callable[[], list[dict[str, Any]]]
) -> None:
    use(Bus(lambda call, entry: call == 0))

    publish(change(an_order(correlation_id="c-1")), damaged(1, status={"S": "?"}))

    named = {(line["message"], line.get("correlation_id")) for line in logs()}
    assert ("event published", "c-1") in named
    assert ("stream record can't be read", "correlation-1") in named


def test_an_event_of_a_status_that_only_newer_code_knows_is_parked(world: World, use: Callable[[Any], Bus]) -> None:
    bus = use(Bus())
    order = an_order(status=Status("PACKING"), version=2)
    change = {"NewImage": to_item(msgspec.to_builtins(order)), "SequenceNumber": str(FIRST)}

    answer = invoke("publish_events", {"Records": [{"eventName": "MODIFY", "dynamodb": change}]})

    assert (answer, bus.sent) == ({"batchItemFailures": []}, [])
    (parked,) = world.messages("FailuresQueue")
    assert "PACKING" in json.loads(parked)["error"]


def test_a_redriven_record_that_still_cannot_be_read_is_told_and_not_parked_again(
    world: World, use: Callable[[Any], Bus]
) -> None:
    use(Bus())
    record = {"eventName": "INSERT", "dynamodb": {"NewImage": {}, "SequenceNumber": str(FIRST)}}

    answer = invoke("publish_events", {"Records": [record], "redrive": True})

    assert "ValidationError" in answer["unreadable"][0]
    assert world.messages("FailuresQueue") == []
