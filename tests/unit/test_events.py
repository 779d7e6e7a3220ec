"""The events on the bus: one form, made and read by the same types."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orders.domain.events import DETAIL_TYPES, SOURCE, bus_entry, decode_bus_event, event_of
from orders.domain.order import Order, Status
from tests.unit.test_order import A_REQUEST, REQUESTS, placed

ORDERS = st.builds(
    lambda request, status, version: msgspec.structs.replace(placed(request), status=status, version=version),
    REQUESTS,
    st.sampled_from(Status),
    st.integers(1, 9),
)


def delivered(order: Order) -> dict[str, Any]:
    """What EventBridge makes of an entry, as a target gets it."""
    entry = bus_entry(event_of(order), "bus")
    return {
        "version": "0",
        "id": "1",
        "detail-type": entry["DetailType"],
        "source": entry["Source"],
        "account": "123456789012",
        "time": "2026-01-31T12:00:00Z",
        "region": "us-east-1",
        "resources": [],
        "detail": json.loads(entry["Detail"]),
    }


def test_every_status_has_an_event() -> None:
    assert DETAIL_TYPES.keys() == set(Status)
    assert len(set(DETAIL_TYPES.values())) == len(Status)


@given(ORDERS)
def test_an_event_is_read_as_it_was_made(order: Order) -> None:
    for form in (delivered(order), json.dumps(delivered(order)), json.dumps(delivered(order)).encode()):
        assert decode_bus_event(form).detail == event_of(order)


@given(ORDERS)
def test_an_event_names_order_and_version(order: Order) -> None:
    metadata = event_of(order).metadata

    assert metadata.event_id == f"{order.order_id}#{order.version}"
    assert (metadata.correlation_id, metadata.occurred_at) == (order.correlation_id, order.updated_at)


@given(ORDERS)
def test_neither_address_nor_payment_method_travels(order: Order) -> None:
    detail = bus_entry(event_of(order), "bus")["Detail"]

    assert not {"shippingAddress", "paymentMethod", "requestHash"} & json.loads(detail)["data"].keys()


@pytest.mark.parametrize(
    "change", [{"source": "other"}, {"detail-type": "OrderPaid"}, {"detail": {}}, {"detail": None}, {"source": None}]
)
def test_what_is_no_order_event_is_refused(change: dict[str, Any]) -> None:
    event = delivered(placed(A_REQUEST)) | change

    for form in (event, json.dumps(event)):
        with pytest.raises(ValueError):
            decode_bus_event(form)


@pytest.mark.parametrize("text", ["", "x", "[]", "null", "{}", b"\xff", '"\\ud800"'])
def test_what_is_no_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        decode_bus_event(text)


def test_events_come_from_us() -> None:
    assert delivered(placed(A_REQUEST))["source"] == SOURCE
