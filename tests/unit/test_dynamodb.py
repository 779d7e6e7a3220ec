"""Plain values to DynamoDB's attribute values and back."""

from __future__ import annotations

from typing import Any

import pytest
from boto3.dynamodb.types import TypeDeserializer
from hypothesis import given
from hypothesis import strategies as st

from orders.domain.order import Status
from orders.storage.dynamodb import from_attribute, from_item, to_attribute, to_item

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**37), 10**37) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)
DESERIALIZER: Any = TypeDeserializer()


@given(VALUES)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    assert from_attribute(to_attribute(value)) == value


@given(st.dictionaries(st.text(max_size=9), VALUES, max_size=4))
def test_an_item_comes_back_as_it_was(fields: dict[str, Any]) -> None:
    assert from_item(to_item(fields)) == fields


@given(VALUES)
def test_boto3_reads_the_same(value: Any) -> None:
    assert DESERIALIZER.deserialize(to_attribute(value)) == value


def test_a_status_is_text() -> None:
    assert to_attribute(Status.PAID) == {"S": "PAID"}
    assert type(to_attribute(Status.PAID)["S"]) is str


@pytest.mark.parametrize("value", [1.5, b"x", {1, 2}, object()], ids=lambda value: type(value).__name__)
def test_what_no_item_of_ours_holds_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        to_attribute(value)


@pytest.mark.parametrize(
    "attribute", [{"B": "AA=="}, {"SS": ["a"]}, {"N": "1.5"}, {"N": "x"}, {}, {"S": "a", "N": "1"}], ids=str
)
def test_what_no_item_of_ours_holds_is_not_read(attribute: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        from_attribute(attribute)
