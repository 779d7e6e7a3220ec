"""The receipt of a fulfilled order, and the shipment that is called off."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from orders.domain.errors import AlreadyShipped, PaymentProviderError, WarehouseError
from tests.integration.world import World, an_order, function, invoke, sample

ORDER_ID = an_order().order_id


def receipts(world: World) -> dict[str, Any]:
    found = {}
    for entry in world.s3.list_objects_v2(Bucket="receipts-bucket").get("Contents", []):
        body = world.s3.get_object(Bucket="receipts-bucket", Key=entry["Key"])["Body"].read()
        found[entry["Key"]] = json.loads(body)
    return found


def pay(token: str = "tok_visa") -> None:
    function("process_payment")._provider.charge(ORDER_ID, 3380, "EUR", token)


def test_the_receipt_says_what_was_paid(world: World) -> None:
    pay()

    key = invoke("issue_receipt", sample("issue_receipt/order-fulfilled"))["receipt"]

    receipt = receipts(world)[key]
    assert (receipt["orderId"], receipt["total"], receipt["currency"]) == (ORDER_ID, 3380, "EUR")
    assert receipt["paidBy"] == "visa ending in 4242"
    assert [line["unitPrice"] for line in receipt["lines"]] == [890, 1600]


def test_a_second_event_writes_the_same_receipt(world: World) -> None:
    pay()
    event = sample("issue_receipt/order-fulfilled")
    invoke("issue_receipt", event)
    first = receipts(world)

    invoke("issue_receipt", event)

    assert receipts(world) == first
    assert len(first) == 1


def test_a_receipt_that_cant_be_had_is_tried_again(world: World) -> None:
    pay("tok_receipt_down_2")
    event = sample("issue_receipt/order-fulfilled")

    for _ in range(2):
        with pytest.raises(PaymentProviderError):
            invoke("issue_receipt", event)
    assert receipts(world) == {}

    invoke("issue_receipt", event)
    assert len(receipts(world)) == 1


def test_there_is_no_receipt_for_another_event(world: World) -> None:
    pay()
    event = sample("issue_receipt/order-fulfilled")
    event["detail-type"] = "OrderPaid"
    event["detail"]["data"]["status"] = "PAID"

    with pytest.raises(ValueError, match="no receipt"):
        invoke("issue_receipt", event)
    assert receipts(world) == {}


def test_a_receipt_logs_whose_it_is(world: World, logs: Callable[[], list[dict[str, Any]]]) -> None:
    pay()
    event = sample("issue_receipt/order-fulfilled")

    invoke("issue_receipt", event)

    (line,) = [line for line in logs() if line["message"] == "receipt issued"]
    assert line["order_id"] == ORDER_ID
    assert line["correlation_id"] == event["detail"]["metadata"]["correlationId"]


def cancel_shipment() -> Any:
    return invoke("cancel_shipment", {"orderId": ORDER_ID, "correlationId": "c-1"})


def test_a_shipment_that_is_called_off_never_leaves(world: World) -> None:
    assert cancel_shipment() == {}
    assert cancel_shipment() == {}

    with pytest.raises(WarehouseError):
        function("ship_order")._warehouse.ship(ORDER_ID, [], an_order().shipping_address)
    assert [entry["status"] for entry in world.items("ShipmentsTable")] == ["CANCELLED"]


def test_a_parcel_that_has_left_cant_be_called_off(world: World) -> None:
    function("ship_order")._warehouse.ship(ORDER_ID, [], an_order().shipping_address)

    with pytest.raises(AlreadyShipped):
        cancel_shipment()
    assert [entry["status"] for entry in world.items("ShipmentsTable")] == ["SHIPPED"]


def test_calling_off_what_was_refused_is_done_already(world: World) -> None:
    refused = msgspec.structs.replace(an_order().shipping_address, postal_code="TEST-REFUSED")
    with pytest.raises(WarehouseError):
        function("ship_order")._warehouse.ship(ORDER_ID, [], refused)

    assert cancel_shipment() == {}
