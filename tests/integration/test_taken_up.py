"""Only ValidateOrder's log tells which order an execution is for: orderctl reads what the function writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from orderctl.stack.logs import VALIDATE, execution_of, parse
from orders.domain.order import PricedLine, Status
from tests.integration.world import World, an_order, invoke

ARN = "arn:aws:states:us-east-1:123456789012:express:orders-order-express:name:number"

ReadLogs = Callable[[], list[dict[str, Any]]]


@pytest.mark.parametrize("again", [False, True])
def test_an_execution_that_takes_an_order_up_is_logged_once(world: World, logs: ReadLogs, again: bool) -> None:
    # GIVEN an order that goes on where it stands
    order = world.store(an_order(status=Status.PAID, lines=[PricedLine("TEA", 2, 890)]))
    logs()

    # WHEN its execution starts, or asks for other stock
    data = {"customerId": order.customer_id, "orderId": order.order_id}
    given = {"metadata": {"correlationId": "c"}, "data": data, "again": again, "execution": execution_of(ARN)}
    invoke("validate_order", given)

    # THEN orderctl finds the execution, and the order's status, in the log
    lines = [parse(VALIDATE, {"timestamp": 0, "message": json.dumps(each)}) for each in logs()]
    found = [(line.order_id, line.execution, line.fields["status"]) for line in lines if line and line.execution]
    assert found == ([] if again else [(order.order_id, "orders-order-express:name:number", "PAID")])
