"""Waiting for orders, and the duplicate events that a load publishes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from measure import load, placing, usage
from orderctl.cloud.state import Cloud
from orderctl.exits import Exit, Stop
from orders.domain.events import event_of
from orders.domain.order import Order, PricedLine, Reason, Status
from tests.integration.world import an_order


class Events:
    """EventBridge, as far as a load puts events."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def put_events(self, *, Entries: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803 - as boto3 has it
        self.entries += Entries
        return {"FailedEntryCount": 0}


class FakeTarget:
    """A target whose every client is `Events`."""

    local = None

    def __init__(self) -> None:
        self.events = Events()

    def client(self, _: str) -> Events:
        return self.events

    def output(self, name: str) -> str:
        return name

    def command(self, arguments: str) -> str:
        return f"orderctl {arguments}"


Found = Callable[..., None]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Found:
    """Return a function that sets the orders that are found, one look after the other; the last one stays."""

    def be(*orders: Order | None) -> None:
        left = list(orders)
        monkeypatch.setattr(placing, "find_order", lambda *_: left.pop(0) if len(left) > 1 else left[0])

    monkeypatch.setattr("time.sleep", lambda _: None)
    return be


def test_an_order_is_waited_for_until_it_has_ended(found: Found) -> None:
    target: Any = FakeTarget()
    ended = an_order(status=Status.CANCELLED)
    found(None, an_order(status=Status.PAID), ended)

    assert placing.wait_until_ended(target, ended.order_id, 5) is ended


def test_an_order_that_does_not_end_in_time_is_named(found: Found) -> None:
    target: Any = FakeTarget()
    found(an_order(status=Status.RESERVED))

    with pytest.raises(Stop) as stopped:
        placing.wait_until_ended(target, "order-1", 0)

    assert stopped.value.code is Exit.NOT_AS_EXPECTED
    assert "order-1" in stopped.value.what
    assert stopped.value.next_step == "Look at it with: orderctl order order-1"


def test_an_order_that_ends_otherwise_than_fulfilled_is_named(found: Found) -> None:
    target: Any = FakeTarget()
    found(an_order(status=Status.FULFILLED, updated_at="1970-01-01T00:01:00.000Z"), an_order(status=Status.FAILED))

    with pytest.raises(Stop, match="order-2 is FAILED"):
        placing.wait_until_fulfilled(target, ["order-1", "order-2"], 5)

    found(an_order(status=Status.FULFILLED, updated_at="1970-01-01T00:01:00.000Z"))
    assert placing.wait_until_fulfilled(target, ["order-1"], 5) == {"order-1": 60.0}


def test_a_duplicate_is_the_event_of_the_order_as_it_was_placed(found: Found) -> None:
    # GIVEN an order that has ended since it was placed
    target: Any = FakeTarget()
    placed = an_order(status=Status.PLACED, version=1)
    priced = [PricedLine(line.sku, line.quantity, 445) for line in placed.lines]
    found(
        msgspec.structs.replace(
            placed,
            status=Status.FAILED,
            version=3,
            updated_at="2026-11-21T12:00:00.000Z",
            total=890,
            lines=priced,
            reason=Reason("OutOfStock", "sold out"),
        )
    )
    run = load.Load(target, 1, 1.0, frozenset(), seed=1)
    chaos = load.Chaos(run, Cloud("none"))

    # WHEN its event is published a second time
    chaos._publish_duplicate(placed.order_id)

    # THEN the event is the same as the first
    (entry,) = target.events.entries
    first = event_of(placed)
    assert (entry["Source"], entry["DetailType"], entry["EventBusName"]) == ("orders", "OrderPlaced", "EventBusName")
    assert json.loads(entry["Detail"]) == json.loads(msgspec.json.encode(first))
    assert run.injected == {"duplicate events": 1}


@pytest.mark.parametrize(
    ("physical", "counted"),
    [
        ("orders-local-AcceptOrderFunction-1A2B3C4D5E6F", "AcceptOrder"),
        ("orders-local-OrdersTable-1A2B3C4D5E6F7", "OrdersTable"),
        ("arn:aws:dynamodb:us-east-1:000000000000:table/orders-local-OrdersTable-1A2B3C4D5E6F", "OrdersTable"),
        ("a-name-of-its-own", "a-name-of-its-own"),
    ],
)
def test_usage_is_counted_under_the_template_s_names(physical: str, counted: str) -> None:
    assert usage._resource(physical) == counted
