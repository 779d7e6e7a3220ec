"""Each sample event does what events/expected.json says of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.stub import Stubber
from scripts.invoke_samples import difference, expectations, sample_names

from orders.domain.order import PricedLine, Status
from tests.integration.world import EVENTS, World, an_order, function, invoke, sample

EXPECTED = expectations()
FUNCTIONS = sorted(path.stem for path in (EVENTS.parent / "src/orders/functions").glob("[!_]*.py"))


@pytest.fixture
def shop(world: World) -> Iterator[World]:
    """The sample order has gone its way: it is charged, shipped and FULFILLED. No stream is there any more."""
    accepted = invoke("accept_order", sample("accept_order/accepted"))
    order_id = json.loads(accepted["body"])["orderId"]
    (item,) = world.items("OrdersTable")
    payment_id = function("process_payment")._provider.charge(order_id, 3380, "EUR", "tok_visa")
    shipment_id = function("ship_order")._warehouse.ship(order_id, [], an_order().shipping_address)
    world.store(
        an_order(
            request_hash=item["requestHash"],
            status=Status.FULFILLED,
            version=4,
            lines=[PricedLine("TEA-ASSAM-250", 2, 890), PricedLine("CUP-STONEWARE", 1, 1600)],
            total=3380,
            payment_id=payment_id,
            shipment_id=shipment_id,
            open_shard=None,
        )
    )
    with Stubber(function("capture_failure")._streams) as streams:
        streams.add_client_error("get_shard_iterator", "ResourceNotFoundException")
        yield world


def outcome(name: str) -> dict[str, Any]:
    function_name, _, _ = name.partition("/")
    try:
        return {"returns": invoke(function_name, sample(name))}
    except Exception as error:
        return {"raises": type(error).__name__}


@pytest.mark.parametrize("name", sample_names())
def test_sample_does_what_is_expected(shop: World, name: str) -> None:
    assert difference(EXPECTED[name], outcome(name)) is None


@pytest.mark.parametrize("bad", [False, True])
def test_every_function_has_good_and_bad_samples(bad: bool) -> None:
    covered = {name.partition("/")[0] for name, expected in EXPECTED.items() if expected.get("bad", False) is bad}
    assert sorted(covered) == FUNCTIONS


def test_an_unexpected_outcome_is_a_difference() -> None:
    accepted = {"returns": {"statusCode": 202}}
    assert difference(accepted, {"returns": {"statusCode": 202, "body": "{}"}}) is None
    assert difference(accepted, {"returns": {"statusCode": 500}})
    assert difference(accepted, {"raises": "ValueError"})
    assert difference({"raises": "LookupError"}, {"raises": "ValueError"})
    assert difference({"raises": "LookupError"}, {"returns": {}})
