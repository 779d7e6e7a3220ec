"""The API's description says what the API does."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, get_args

import jsonschema
import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from orders.api import openapi
from orders.domain.request import Address, Country, OrderRequest
from tests.unit.test_order import A_REQUEST, REQUESTS

DOCUMENT = openapi.document("v1")


ADDRESS = json.loads(msgspec.json.encode(A_REQUEST.shipping_address))


def schema(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}


def test_every_path_of_the_template_is_described() -> None:
    from tests.template.cloudformation import load_raw

    resources = load_raw()["Resources"].values()
    events = [event for resource in resources for event in resource.get("Properties", {}).get("Events", {}).values()]
    routes = {(e["Properties"]["Path"], e["Properties"]["Method"].lower()) for e in events if e["Type"] == "Api"}

    assert {(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods} == routes


@given(REQUESTS)
def test_what_the_api_takes_fits_the_schema(request: OrderRequest) -> None:
    jsonschema.validate(json.loads(msgspec.json.encode(request)), schema("OrderRequest"))


@pytest.mark.parametrize(
    "change",
    [
        {"currency": "EURO"},
        {"currency": "XXX"},
        {"lines": []},
        {"lines": [{"sku": "a b", "quantity": 1}]},
        {"lines": [{"sku": "A", "quantity": 1000}]},
        {"lines": [{"sku": "A", "quantity": 1.5}]},
        {"lines": [{"sku": "A", "quantity": "1"}]},
        {"paymentMethod": "4242"},
        {"extra": 1},
        {"shippingAddress": {}},
        *(
            {"shippingAddress": ADDRESS | {field: wrong}}
            for field in ("name", "line1", "city", "postalCode")
            for wrong in ("", " ", "\u200b", "\x00", "a\u2028b", "x" * 201, None)
        ),
        {"shippingAddress": ADDRESS | {"line2": "x" * 201}},
        {"shippingAddress": ADDRESS | {"line2": "a\x07"}},
        *({"shippingAddress": ADDRESS | {"country": wrong}} for wrong in ("ZZ", "UK", "gb", "")),
    ],
    ids=ascii,
)
def test_what_the_api_refuses_does_not_fit_the_schema(change: dict[str, Any]) -> None:
    body = json.loads(msgspec.json.encode(A_REQUEST)) | change

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(body, schema("OrderRequest"))
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(body, OrderRequest)


def takes(check: Callable[..., object], *arguments: Any) -> bool:
    try:
        check(*arguments)
    except (jsonschema.ValidationError, msgspec.ValidationError):
        return False
    return True


ODD = st.sampled_from(
    ["\x00", "\x1f", "\x7f", "\x85", "\xa0", "\u200b", "\u2028", "\u202e", "\u2066", "\ufeff", "\u3000", " "]
)


@given(st.text(ODD | st.characters(), max_size=4), st.sampled_from(["name", "line2"]))
def test_schema_and_api_take_the_same_texts(text: str, field: str) -> None:
    # Python's "$" also matches before a line break at the end; ECMAScript's, which a schema means, doesn't.
    assume(not text.endswith("\n"))
    address = ADDRESS | {field: text}

    api = takes(msgspec.convert, address, Address)

    assert takes(jsonschema.validate, address, schema("Address")) == api


def test_the_countries_are_those_of_iso_3166() -> None:
    # Officially assigned: 249. Neither reserved ones nor those for private use are among them.
    assert len(set(get_args(Country))) == len(get_args(Country)) == 249
    assert not {"EU", "UK", "XK", "ZZ", "AN", "SU", "QM"} & set(get_args(Country))


def test_what_is_hidden_is_not_described() -> None:
    described = DOCUMENT["components"]["schemas"]["Order"]["properties"]
    assert (
        not {"customerId", "requestHash", "openShard", "schemaVersion", "paymentMethod", "version"} & described.keys()
    )


def test_patterns_are_ecmascripts() -> None:
    assert "\\\\Z" not in json.dumps(DOCUMENT)


def test_no_gateway_response_repeats_what_a_client_sent() -> None:
    # API Gateway's own messages can have the Authorization header in them, however long it is.
    from tests.template.cloudformation import load_raw

    responses = load_raw()["Resources"]["Api"]["Properties"]["GatewayResponses"]

    assert "DEFAULT_4XX" in responses
    for kind, response in responses.items():
        (template,) = response["ResponseTemplates"].values()
        assert "$" not in template, kind
        assert {"type", "title", "detail"} <= json.loads(template).keys(), kind
