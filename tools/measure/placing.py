"""Placing orders on a target, and waiting until they have ended."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterable
from datetime import datetime

from orderctl.exits import Exit, Stop
from orderctl.stack import records, rest, signin
from orderctl.stack.target import Target
from orders.domain.order import TERMINAL, Order, Status


class Customer:
    """The demo user, who places orders from several threads. Each thread has a connection of its own."""

    def __init__(self, target: Target) -> None:
        self._url = target.api_url
        self._tokens = signin.token_source(target, None, None)
        self._of_thread = threading.local()

    def place(self, body: str | bytes) -> str:
        """Place the order in a request body; returns its id. Stop(REFUSED) if it is not accepted."""
        if not hasattr(self._of_thread, "api"):
            self._of_thread.api = rest.OrdersApi(self._url, self._tokens)
        answer = self._of_thread.api.submit(body, str(uuid.uuid4()))
        rest.require_success(answer)
        return str(answer.json()["orderId"])


def find_order(target: Target, order_id: str) -> Order | None:
    """Return an order by its id alone; None if there is none."""
    found = records.find_order(target, order_id)
    if isinstance(found, records.DamagedOrder):
        raise Stop(Exit.NOT_AS_EXPECTED, f"Order {order_id} can't be read: {found.problem}")
    return found


def wait_until_ended(target: Target, order_id: str, timeout_s: float) -> Order:
    """Return an order once it has ended. Stop(NOT_AS_EXPECTED) if it has not ended after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        order = find_order(target, order_id)
        if order and order.status in TERMINAL:
            return order
        if time.monotonic() > deadline:
            raise Stop(
                Exit.NOT_AS_EXPECTED,
                f"Order {order_id} has not ended after {timeout_s:.0f} s.",
                f"Look at it with: {target.command(f'order {order_id}')}",
            )
        time.sleep(0.1)


def wait_until_fulfilled(target: Target, order_ids: Iterable[str], timeout_s: float) -> dict[str, float]:
    """Return when each order was fulfilled, by its id, in seconds since 1970.

    Stop(NOT_AS_EXPECTED) if an order ends otherwise, or if one has not ended after `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    fulfilled: dict[str, float] = {}
    for order_id in order_ids:
        order = wait_until_ended(target, order_id, max(0.0, deadline - time.monotonic()))
        if order.status != Status.FULFILLED:
            raise Stop(Exit.NOT_AS_EXPECTED, f"Order {order_id} is {order.status}.")
        fulfilled[order_id] = datetime.fromisoformat(order.updated_at).timestamp()
    return fulfilled
