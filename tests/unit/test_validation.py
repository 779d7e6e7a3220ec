"""A refused request: every bad field is listed, with its JSON Pointer, and nothing else is."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orders.api.problems import TITLES, Problem, response
from orders.api.validation import find_errors
from orders.domain.request import OrderRequest
from tests.unit.test_order import A_REQUEST, REQUESTS

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


def pointers(value: Any) -> list[str]:
    return [error["pointer"] for error in find_errors(value, OrderRequest)]


def fits(value: Any) -> bool:
    try:
        msgspec.convert(value, OrderRequest)
    except msgspec.ValidationError:
        return False
    return True


def resolve(value: Any, pointer: str) -> Any:
    """What a JSON Pointer (RFC 6901) points to; LookupError if there is nothing."""
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        value = value[int(name)] if isinstance(value, list) else value[name]
    return value


@st.composite
def damaged(draw: st.DrawFn) -> tuple[Any, set[str]]:
    """A good request with other values at some places, and the places."""
    body = json.loads(msgspec.json.encode(draw(REQUESTS)))
    places = [
        *(f"/{name}" for name in ("currency", "paymentMethod")),
        *(f"/shippingAddress/{name}" for name in ("name", "line1", "city", "postalCode", "country")),
        *(f"/lines/{n}/{name}" for n in range(len(body["lines"])) for name in ("sku", "quantity")),
    ]
    chosen = draw(st.sets(st.sampled_from(places), min_size=1))
    for place in chosen:
        parent, _, name = place.rpartition("/")
        resolve(body, parent)[name] = draw(st.sampled_from([None, [], {}, 1.5, -1, "", "x" * 300, True]))
    return body, chosen


@given(REQUESTS)
def test_a_good_request_has_no_errors(request: OrderRequest) -> None:
    assert pointers(json.loads(msgspec.json.encode(request))) == []


@given(damaged())
def test_every_bad_field_is_found_and_no_other(case: tuple[Any, set[str]]) -> None:
    body, places = case

    assert set(pointers(body)) == places
    assert len(pointers(body)) == len(places)


@given(JSON_VALUES)
def test_there_are_errors_exactly_where_the_fast_path_refuses(value: Any) -> None:
    assert (pointers(value) == []) == fits(value)


@given(st.dictionaries(st.text(max_size=5), JSON_VALUES, max_size=4) | damaged().map(lambda case: case[0]))
def test_pointers_lead_to_what_is_there_or_missing(value: Any) -> None:
    for error in find_errors(value, OrderRequest):
        # An unprintable name isn't repeated as it is.
        if error["rule"] != "required" and "\ufffd" not in error["pointer"]:
            resolve(value, error["pointer"])


@pytest.mark.parametrize(("name", "pointer"), [("a/b", "/a~1b"), ("a~b", "/a~0b"), ("", "/"), ("~1", "/~01")])
def test_pointers_are_escaped(name: str, pointer: str) -> None:
    assert pointer in pointers({name: 1})


def test_a_rule_over_several_fields_is_told_once_the_fields_are_right() -> None:
    request = json.loads(msgspec.json.encode(A_REQUEST))
    request["lines"] = [{"sku": f"S{n}", "quantity": 1} for n in range(100)]

    (error,) = find_errors(request, OrderRequest)

    detail = "an order names at most 99 different products"
    assert error == {"pointer": "", "rule": "combination", "detail": detail}


@given(damaged())
def test_details_are_sentences_without_paths_and_patterns(case: tuple[Any, set[str]]) -> None:
    for error in find_errors(case[0], OrderRequest):
        for part in ("$.", "\\", "^", "another value"):
            assert part not in error["detail"]


@given(st.text())
def test_what_a_client_wrote_comes_back_short_and_harmless(text: str) -> None:
    for body in ({text: 1}, {"currency": text}, {"lines": [{"sku": text, text: 1}]}):
        for error in find_errors(body, OrderRequest):
            shown = error["pointer"] + error["detail"]
            assert shown.isprintable()
            assert len(shown) < 300


@pytest.mark.parametrize(
    ("name", "pointer"),
    [
        ("x" * 41, "/" + "x" * 40 + "…"),
        ("~" * 60_000, "/" + "~0" * 40 + "…"),
        ("\x1b[2J", "/\ufffd[2J"),
        ("\x9b2J", "/\ufffd2J"),
        ("evil\u202etxt", "/evil\ufffdtxt"),
    ],
)
def test_a_hostile_field_name_is_cut_and_made_harmless(name: str, pointer: str) -> None:
    assert pointer in pointers({name: 1})


def test_a_value_that_is_not_on_the_list_is_quoted() -> None:
    (error,) = find_errors(json.loads(msgspec.json.encode(A_REQUEST)) | {"currency": "EUX"}, OrderRequest)

    assert error["detail"] == "Expected an active ISO 4217 currency code, got 'EUX'"


@pytest.mark.parametrize("status", sorted(TITLES))
def test_a_problem_is_a_problem_document(status: int) -> None:
    answer = Problem(status, "why", [{"pointer": "/a", "rule": "type", "detail": "wrong"}]).response()

    assert answer["statusCode"] == status
    assert answer["headers"]["Content-Type"] == "application/problem+json"
    assert json.loads(answer["body"]) == {
        "type": "about:blank",
        "title": TITLES[status],
        "status": status,
        "detail": "why",
        "errors": [{"pointer": "/a", "detail": "wrong"}],
    }


def test_an_answer_is_json_unless_said_otherwise() -> None:
    assert response(200, {"a": 1}) == {
        "statusCode": 200,
        "headers": {"Content-Type": "application/json"},
        "body": '{"a":1}',
    }
