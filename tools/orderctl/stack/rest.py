"""The REST API as a customer's program uses it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx

from orderctl.exits import Exit, Stop
from orderctl.stack.signin import TokenSource

TERMINAL = frozenset({"FULFILLED", "FAILED", "CANCELLED"})
POLL_S = 0.2


class OrdersApi:
    """A customer's calls; an answer that is not a success becomes Stop(REFUSED) with the API's own words."""

    def __init__(self, url: str, tokens: TokenSource) -> None:
        self.url = url
        self.tokens = tokens
        # Retries concern only connections that could not be made, so nothing is sent twice.
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
        """Make any call, signed in unless `headers` say otherwise; `options` are httpx's."""
        headers = {"Authorization": self.tokens.current(), **options.pop("headers", {})}
        return self._http.request(method, f"{self.url}{path}", headers=headers, **options)

    def order(self, order_id: str) -> dict[str, Any]:
        """GET /orders/{orderId}: the order as its customer sees it."""
        return self._get(f"/orders/{order_id}")

    def orders(self, limit: int) -> list[dict[str, Any]]:
        """GET /orders, page after page: the customer's newest `limit` orders."""
        found: list[dict[str, Any]] = []
        cursor: str | None = None
        while len(found) < limit:
            page = self._get(
                "/orders",
                {"limit": min(100, limit - len(found)), **({"cursor": cursor} if cursor else {})},
            )
            found += page["orders"]
            cursor = page.get("nextCursor")
            if not cursor:
                break
        return found

    def follow(self, order_id: str, timeout_s: float, next_step: str = "") -> Iterator[dict[str, Any]]:
        """Yield the order at each change of status until it has ended.

        Raises Stop(NOT_AS_EXPECTED) with `next_step` if it has not ended after `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        shown = ""
        while True:
            order = self.order(order_id)
            if order["status"] != shown:
                shown = order["status"]
                yield order
            if shown in TERMINAL:
                return
            if time.monotonic() > deadline:
                raise Stop(
                    Exit.NOT_AS_EXPECTED,
                    f"Order {order_id} is still {shown} after {timeout_s:.0f} s.",
                    next_step,
                )
            time.sleep(POLL_S)

    def _get(self, path: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = self.request("GET", path, params=params)
        require_success(answer)
        found: dict[str, Any] = answer.json()
        return found


def _transport(url: str) -> httpx.HTTPTransport | None:
    # A transport of our own takes no proxy from the environment, so only loop-back addresses get one.
    return httpx.HTTPTransport(retries=2) if url.startswith("http://127.") else None


def require_success(answer: httpx.Response, next_step: str = "") -> None:
    """Return if the answer is a 2xx, else raise Stop(REFUSED) with every reason that it names, or the next step."""
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
