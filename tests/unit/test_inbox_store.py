"""The failures table with a store in memory."""

from __future__ import annotations

import msgspec
import pytest

from orders.domain.errors import Contended
from orders.inbox.record import FailureRecord
from orders.inbox.store import FailuresTable
from tests.unit.test_payload_objects import FAILURE_ID, Store, a_failure


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def inbox(store: Store) -> FailuresTable:
    """The failures table with one failure in it."""
    table = FailuresTable(store, store, "table", "bucket")  # type: ignore[arg-type]
    table.add(a_failure("1"), "message-1")
    return table


def test_a_change_gives_up_after_ten_attempts(inbox: FailuresTable) -> None:
    seen: list[FailureRecord] = []

    def meanwhile(record: FailureRecord) -> FailureRecord:
        seen.append(record)
        inbox.change(FAILURE_ID, lambda each: msgspec.structs.replace(each, count=each.count + 1))
        return msgspec.structs.replace(record, reason="mine")

    with pytest.raises(Contended, match=FAILURE_ID):
        inbox.change(FAILURE_ID, meanwhile)
    assert [record.count for record in seen] == list(range(1, 11))
