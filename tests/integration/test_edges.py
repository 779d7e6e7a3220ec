"""Values just inside and just outside of what is allowed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orders.inbox.store import FailuresTable
from tests.integration.test_inbox_claims import captured, inbox
from tests.integration.world import World, function, invoke, sample

__all__ = ["inbox"]  # a fixture


@pytest.mark.parametrize(
    ("limit", "status"), [("1", 200), ("100", 200), ("0", 400), ("101", 400), ("1000", 400), ("٣", 400), ("²", 400)]
)
def test_a_page_has_one_to_a_hundred_orders(world: World, limit: str, status: int) -> None:
    event = sample("query_orders/list-orders")
    event["queryStringParameters"] = {"limit": limit}
    event["multiValueQueryStringParameters"] = {"limit": [limit]}

    assert invoke("query_orders", event)["statusCode"] == status


def test_all_waits_for_a_product_together_are_short_beside_the_functions_time_out() -> None:
    pauses = function("ship_order").CONFLICT_PAUSES_S

    assert sorted(pauses) == list(pauses)
    assert sum(pauses) * 1.5 < 1.5


def test_a_throttled_inbox_is_an_error_and_not_a_known_failure(
    inbox: FailuresTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = captured(inbox)

    def put_item(**_: Any) -> Any:
        raise ConnectionError("throttled")

    monkeypatch.setattr(inbox._client, "put_item", put_item)
    with pytest.raises(ConnectionError):
        inbox.add(record, "message-9")
    with pytest.raises(ConnectionError):
        inbox.change(record.failure_id, lambda each: msgspec.structs.replace(each, count=2))
