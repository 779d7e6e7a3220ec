"""The REST API as a customer's program uses it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, TypeVar

import httpx
import msgspec
from msgspec import Struct

from orderctl.exits import Exit, Stop
from orderctl.stack.signin import TokenSource
from orders.domain.customer_view import OrderView
from orders.domain.order import TERMINAL, Status

POLL_S = 0.2


class Accepted(Struct, rename="camel", omit_defaults=True):
    """The 202 answer to `POST /orders` and to `POST /orders/{orderId}/cancel`; a cancellation has no links."""

    order_id: str
    status: Status
    links: dict[str, str] = {}


class OrderPage(Struct, rename="camel", omit_defaults=True):
    """A page of the customer's orders, newest first; `next_cursor` leads to the next page."""

    orders: list[OrderView]
    next_cursor: str | None = None


Answer = TypeVar("Answer")


class OrdersApi:
    """A customer's calls; an answer that is not a success becomes Stop(REFUSED) with the API's reasons."""

    def __init__(self, url: str, tokens: TokenSource) -> None:
        self.url = url
        self.tokens = tokens
        # The transport's retries concern only connections that could not be made, so no request is sent twice.
        self._http = httpx.Client(
            timeout=30.0, trust_env=not url.startswith("http://127."), transport=_transport(url)
        )

    def __enter__(self) -> OrdersApi:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def submit(self, body: str | bytes, idempotency_key: str) -> httpx.Response:
        """POST /orders and return the answer, whatever its status."""
        return self.request(
            "POST",
            "/orders",
            content=body,
            headers={"Content-Type": "application/json", "Idempotency-Key": idempotency_key},
        )

    def cancel(self, order_id: str) -> httpx.Response:
        """POST /orders/{orderId}/cancel and return the answer, whatever its status."""
        return self.request("POST", f"/orders/{order_id}/cancel")

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Make any call with the customer's token, unless `headers` has another; `options` are httpx's."""
        headers = {"Authorization": self.tokens.current(), **options.pop("headers", {})}
        return self._http.request(method, f"{self.url}{path}", headers=headers, **options)

    def order(self, order_id: str) -> OrderView:
        """GET /orders/{orderId}."""
        return decode(self.request("GET", f"/orders/{order_id}"), OrderView)

    def orders(self, limit: int) -> list[OrderView]:
        """GET /orders, page after page: the customer's newest `limit` orders."""
        found: list[OrderView] = []
        cursor: str | None = None
        while len(found) < limit:
            parameters = {"limit": min(100, limit - len(found)), **({"cursor": cursor} if cursor else {})}
            page = decode(self.request("GET", "/orders", params=parameters), OrderPage)
            found += page.orders
            cursor = page.next_cursor
            if not cursor:
                break
        return found

    def follow(self, order_id: str, timeout_s: float, next_step: str = "") -> Iterator[OrderView]:
        """Yield the order at each change of its status, until it has ended.

        Raises Stop(NOT_AS_EXPECTED) with `next_step` if it has not ended after `timeout_s` seconds.
        """
        deadline = time.monotonic() + timeout_s
        shown = ""
        while True:
            order = self.order(order_id)
            if order.status != shown:
                shown = order.status
                yield order
            if order.status in TERMINAL:
                return
            if time.monotonic() > deadline:
                raise Stop(
                    Exit.NOT_AS_EXPECTED,
                    f"Order {order_id} is still {shown} after {timeout_s:.0f} s.",
                    next_step,
                )
            time.sleep(POLL_S)


def _transport(url: str) -> httpx.HTTPTransport | None:
    # A transport of our own ignores the environment's proxy, so only loop-back addresses get one.
    return httpx.HTTPTransport(retries=2) if url.startswith("http://127.") else None


def decode(answer: httpx.Response, shape: type[Answer], next_step: str = "") -> Answer:
    """Return the body of a 2xx answer; Stop(REFUSED) for another status, and for a body that isn't a `shape`."""
    require_success(answer, next_step)
    try:
        return msgspec.json.decode(answer.content, type=shape)
    except ValueError as error:
        raise Stop(
            Exit.REFUSED,
            f"The API's answer can't be read: {error}",
            "Does the stack have the same version as this orderctl?",
        ) from error


def require_success(answer: httpx.Response, next_step: str = "") -> None:
    """Return if the answer is a 2xx; else Stop(REFUSED) with the API's reasons, or without any, with `next_step`."""
    if answer.is_success:
        return
    try:
        problem = answer.json()
    except ValueError:
        problem = {}
    detail = problem.get("detail") or problem.get("title") or problem.get("message") or answer.reason_phrase
    reasons = [f"{e.get('pointer') or '/'}: {e.get('detail')}" for e in problem.get("errors", [])]
    raise Stop(
        Exit.REFUSED,
        f"The API answered {answer.status_code}: {detail}",
        "\n       ".join(reasons) if reasons else next_step,
    )
