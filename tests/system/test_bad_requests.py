"""Every bad request gets the 4xx that fits, with every bad field named, and leaves nothing behind."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from orderctl.demo import samples
from orderctl.stack import records
from orderctl.stack.rest import OrdersApi
from orderctl.stack.target import Target

LINE = {"sku": "TEA-ASSAM-250", "quantity": 1}
ADDRESS = samples.sample("fulfilled")["shippingAddress"]


def order(**fields: Any) -> str:
    return json.dumps({**samples.sample("fulfilled"), **fields})


BAD_BODIES: dict[str, tuple[str, int, set[str]]] = {
    "nothing": ("", 400, set()),
    "malformed JSON": ('{"currency": "EUR", ', 400, set()),
    "a list": ("[]", 422, {""}),
    "no fields": ("{}", 422, {"/currency", "/lines", "/shippingAddress", "/paymentMethod"}),
    "wrong types": (order(lines="two", currency=978), 422, {"/lines", "/currency"}),
    "an unknown field": (order(total=1), 422, {"/total"}),
    "an unknown field in a line": (order(lines=[{**LINE, "price": 1}]), 422, {"/lines/0/price"}),
    "no lines": (order(lines=[]), 422, {"/lines"}),
    "too many lines": (order(lines=[LINE] * 101), 422, {"/lines"}),
    "quantity 0": (order(lines=[{**LINE, "quantity": 0}]), 422, {"/lines/0/quantity"}),
    "quantity 1000": (order(lines=[{**LINE, "quantity": 1000}]), 422, {"/lines/0/quantity"}),
    "quantity of half a thing": (order(lines=[{**LINE, "quantity": 0.5}]), 422, {"/lines/0/quantity"}),
    "a quantity that is no number": (order(lines=[{**LINE, "quantity": True}]), 422, {"/lines/0/quantity"}),
    "an unknown currency": (order(currency="XXX"), 422, {"/currency"}),
    "a currency in small letters": (order(currency="eur"), 422, {"/currency"}),
    "card data": (order(paymentMethod="4242424242424242"), 422, {"/paymentMethod"}),
    "an address without city": (
        order(shippingAddress={key: value for key, value in ADDRESS.items() if key != "city"}),
        422,
        {"/shippingAddress/city"},
    ),
    "several mistakes": (
        order(currency="euro", lines=[{"sku": "", "quantity": 0}, {"sku": "A"}], colour="red"),
        422,
        {"/colour", "/currency", "/lines/0/sku", "/lines/0/quantity", "/lines/1/quantity"},
    ),
    "too large a body": (order(comment="x" * 65_536), 413, set()),
}


@pytest.mark.parametrize(("body", "status", "pointers"), BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_a_bad_order_is_refused_and_nothing_is_stored(
    cloud: Target, api: OrdersApi, body: str, status: int, pointers: set[str]
) -> None:
    # WHEN a customer without orders sends it
    answer = api.submit(body, str(uuid.uuid4()))

    # THEN it is refused in the standard form (RFC 9457), naming every bad field
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["detail"]
    assert {error["pointer"] for error in problem.get("errors", [])} == pointers
    # AND nothing is stored
    assert records.orders_of(cloud, api.tokens.customer_id, 10) == []


def test_a_body_that_is_not_text_is_refused(cloud: Target, api: OrdersApi) -> None:
    # How the gateway passes such bytes on is its own affair: 400 and 422 are both fair.
    answer = api.submit(b'{"currency": "\xff"}', str(uuid.uuid4()))
    assert answer.status_code in {400, 422}
    assert records.orders_of(cloud, api.tokens.customer_id, 10) == []


@pytest.mark.parametrize("token", ["", "nonsense", "Bearer nonsense", "a.b.c"])
def test_without_a_valid_token_nobody_gets_in(cloud: Target, api: OrdersApi, token: str) -> None:
    for method, path in (("POST", "/orders"), ("GET", "/orders"), ("GET", f"/orders/{uuid.uuid4()}")):
        answer = api.request(method, path, headers={"Authorization": token}, content=order())
        assert answer.status_code == 401, (method, path, answer.text)
    assert records.orders_of(cloud, api.tokens.customer_id, 10) == []


def test_a_token_with_a_forged_customer_is_refused(cloud: Target, api: OrdersApi) -> None:
    # GIVEN a valid token whose payload was exchanged
    header, _, signature = api.tokens.current().split(".")
    payload = "eyJzdWIiOiAic29tZWJvZHkifQ"  # {"sub": "somebody"}

    # WHEN it is used
    answer = api.request("GET", "/orders", headers={"Authorization": f"{header}.{payload}.{signature}"})

    # THEN its signature gives it away
    assert answer.status_code == 401


@pytest.mark.parametrize("key", ["with space", "x" * 256, "schlüssel"])
def test_a_bad_idempotency_key_is_refused(cloud: Target, api: OrdersApi, key: str) -> None:
    answer = api.request("POST", "/orders", headers={"Idempotency-Key": key.encode()}, content=order())
    assert answer.status_code == 400
    assert records.orders_of(cloud, api.tokens.customer_id, 10) == []


def test_another_media_type_is_refused(cloud: Target, api: OrdersApi) -> None:
    answer = api.request("POST", "/orders", headers={"Content-Type": "text/xml"}, content="<order/>")
    assert answer.status_code == 415


@pytest.mark.parametrize(
    "parameters",
    [
        {"cursor": "nonsense"},
        {"cursor": "W10="},
        {"limit": "0"},
        {"limit": "101"},
        {"limit": "-1"},
        {"limit": "many"},
    ],
)
def test_a_bad_page_is_refused(cloud: Target, api: OrdersApi, parameters: dict[str, str]) -> None:
    answer = api.request("GET", "/orders", params=parameters)
    assert answer.status_code == 400
    assert answer.json()["detail"]


@pytest.mark.parametrize("order_id", ["nonsense", "%00", "..", "a" * 300])
def test_an_unknown_order_does_not_exist(cloud: Target, api: OrdersApi, order_id: str) -> None:
    assert api.request("GET", f"/orders/{order_id}").status_code == 404


def test_the_open_endpoints_need_no_token(cloud: Target, api: OrdersApi) -> None:
    assert api.request("GET", "/health", headers={"Authorization": ""}).json() == {"status": "ok"}
    document = api.request("GET", "/openapi.json", headers={"Authorization": ""}).json()
    assert "/orders" in document["paths"]
