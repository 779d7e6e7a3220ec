"""The API's description says what the API does."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given

from orders import openapi
from orders.model import OrderRequest
from tests.unit.test_model import A_REQUEST, REQUESTS

DOCUMENT = openapi.document("v1")


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
        {"paymentMethod": "4242"},
        {"extra": 1},
        {"shippingAddress": {}},
    ],
)
def test_what_the_api_refuses_does_not_fit_the_schema(change: dict[str, Any]) -> None:
    body = json.loads(msgspec.json.encode(A_REQUEST)) | change

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(body, schema("OrderRequest"))
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(body, OrderRequest)


def test_what_is_hidden_is_not_described() -> None:
    described = DOCUMENT["components"]["schemas"]["Order"]["properties"]
    assert (
        not {"customerId", "requestHash", "openShard", "schemaVersion", "paymentMethod", "version"} & described.keys()
    )


def test_patterns_are_ecmascripts() -> None:
    assert "\\\\Z" not in json.dumps(DOCUMENT)
