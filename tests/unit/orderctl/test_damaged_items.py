"""An operator can look at what is damaged: every command shows the rest, and says what can't be read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orderctl.exits import Exit
from orderctl.stack import records
from orderctl.stack.records import DamagedOrder
from orderctl.stack.target import Target
from orders.domain.order import Order
from orders.storage.dynamodb import to_item
from tests.integration.world import World, an_order
from tests.unit.orderctl.conftest import Run, store_failure

DAMAGED = "694e228d-8218-51d2-a18e-3e00fd0aa7a7"
WHOLE = "11aa22bb-8218-51d2-a18e-3e00fd0aa7a7"
FAILURE = "3f0c9a1b" + "1" * 12
OTHER_FAILURE = "77e0aaaa" + "2" * 12


def damage(world: World, table: str, key: dict[str, str], **attributes: Any) -> None:
    """Replace attributes of an item, each given in DynamoDB's own form."""
    world.dynamodb.update_item(
        TableName=table,
        Key=to_item(key),
        UpdateExpression="SET " + ", ".join(f"#{name} = :{name}" for name in attributes),
        ExpressionAttributeNames={f"#{name}": name for name in attributes},
        ExpressionAttributeValues={f":{name}": value for name, value in attributes.items()},
    )


@pytest.fixture(params=[{"version": {"S": "x"}}, {"total": {"N": "1.5"}}, {"lines": {"SS": ["a"]}}], ids=str)
def damaged(request: pytest.FixtureRequest, world: World, target: Target) -> Order:
    """A damaged order and, of the same customer, one that is not."""
    world.store(an_order(order_id=WHOLE))
    order = world.store(an_order(order_id=DAMAGED))
    damage(world, "OrdersTable", {"customerId": order.customer_id, "orderId": order.order_id}, **request.param)
    return order


def test_an_order_is_shown_as_far_as_it_can_be_read(damaged: Order, run: Run) -> None:
    code, shown, _ = run("order", DAMAGED)
    found = json.loads(run("order", DAMAGED, "--json")[1])
    assert code == 0
    assert "Can't be read" in shown
    assert damaged.customer_id in shown
    assert found["status"] == "PLACED"
    assert found["unreadable"]


@pytest.mark.parametrize("by", [["--open"], ["--customer"]], ids=" ".join)
def test_a_list_of_orders_has_the_damaged_one_too(damaged: Order, run: Run, by: list[str]) -> None:
    choice = [*by, damaged.customer_id] if by == ["--customer"] else by
    code, shown, _ = run("orders", *choice)
    found = {each["orderId"]: each for each in json.loads(run("orders", *choice, "--json")[1])}
    assert code == 0
    assert "PLACED can't be read" in shown
    assert "unreadable" in found[DAMAGED]
    assert "unreadable" not in found[WHOLE]


def test_an_order_is_explained_as_far_as_it_can_be_read(damaged: Order, run: Run) -> None:
    code, shown, _ = run("explain", DAMAGED)
    assert code == 0
    assert "The order's item in the table can't be read" in shown
    assert json.loads(run("explain", DAMAGED, "--json")[1])["order"]["unreadable"]


def test_without_a_time_of_placing_all_logs_are_read(world: World, target: Target, run: Run) -> None:
    # GIVEN an order whose item has a time that is none
    order = world.store(an_order(order_id=DAMAGED))
    key = {"customerId": order.customer_id, "orderId": order.order_id}
    damage(world, "OrdersTable", key, placedAt={"S": "yesterday"}, version={"S": "x"})

    for command in (["explain", DAMAGED], ["orders", "--open"], ["logs", "--order", DAMAGED]):
        assert run(*command)[0] == 0, command


def test_a_damaged_order_keeps_what_a_redrive_asks_for(world: World, damaged: Order, target: Target) -> None:
    key = {"customerId": damaged.customer_id, "orderId": damaged.order_id}
    damage(world, "OrdersTable", key, givenUp={"M": {}})
    found = records.find_order(target, DAMAGED)
    assert isinstance(found, DamagedOrder)
    assert (found.customer_id, found.status, found.given_up) == (damaged.customer_id, "PLACED", True)


@pytest.fixture
def failure(world: World, target: Target) -> str:
    """A damaged failure and, of the same order, one that is not."""
    world.store(an_order(order_id=WHOLE))
    store_failure(world, OTHER_FAILURE, order_id=WHOLE)
    store_failure(world, FAILURE, order_id=WHOLE)
    damage(world, "FailuresTable", {"failureId": FAILURE}, attempts={"S": "many"})
    return FAILURE


@pytest.mark.parametrize("choice", [[], ["--order", WHOLE]], ids=["all", "of an order"])
def test_a_list_of_failures_names_the_damaged_one(failure: str, run: Run, choice: list[str]) -> None:
    code, shown, _ = run("failures", "list", *choice)
    found = json.loads(run("failures", "list", *choice, "--json")[1])
    assert code == 0
    assert f"Can't be read: {failure}." in shown
    assert OTHER_FAILURE[:8] in shown
    assert found["unreadable"] == [failure]
    assert [each["failureId"] for each in found["failures"]] == [OTHER_FAILURE]


def test_an_explanation_names_the_damaged_failure(failure: str, run: Run) -> None:
    code, shown, _ = run("explain", WHOLE)
    assert code == 0
    assert f"Failures that can't be read: {failure}." in shown
    assert json.loads(run("explain", WHOLE, "--json")[1])["unreadableFailures"] == [failure]


@pytest.mark.parametrize("command", [["show"], ["redrive"], ["discard", "--reason", "x"]], ids=" ".join)
def test_a_damaged_failure_is_refused_by_name(failure: str, run: Run, command: list[str]) -> None:
    code, _, said = run("failures", *command, failure[:8])
    assert code in {Exit.REFUSED, Exit.NOT_AS_EXPECTED}
    assert failure in said
    assert "can't be read" in said
