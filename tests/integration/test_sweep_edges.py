"""What the sweep must not get wrong when others are at work on the same orders and failures."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orders.domain.errors import Contended, NotAllowed
from orders.domain.order import Status
from orders.inbox.record import FailureStatus, Redrive
from orders.inbox.store import FailuresTable
from orders.storage.orders import IdleOrder, IdlePage
from tests.integration.test_sweep_orders import LONG_AGO, a_failure, an_overdue_order, status_of, sweep
from tests.integration.test_sweep_orders import alarms as alarms  # noqa: PLC0414 - a fixture
from tests.integration.test_sweep_orders import inbox as inbox  # noqa: PLC0414 - a fixture
from tests.integration.test_sweep_orders import workflows as workflows  # noqa: PLC0414 - a fixture
from tests.integration.world import World, an_order, function


def two_that_are_over(world: World) -> tuple[str, str]:
    """Two failures of orders that have ended; the first one is met first."""
    ids = []
    for number in (2, 1):
        order = an_order(order_id=f"{number:08}-8218-51d2-a18e-3e00fd0aa7a7")
        world.store(msgspec.structs.replace(order, status=Status.FAILED, open_shard=None))
        seen = f"2026-11-20T00:00:0{number}.000Z"
        ids.append(a_failure(world, order, failure_id=f"failure-{number}", last_seen_at=seen).failure_id)
    return ids[0], ids[1]


@pytest.mark.parametrize("error", [NotAllowed("settled"), LookupError("gone"), Contended("busy")])
def test_a_failure_that_somebody_else_is_at_is_left_to_them_and_no_error(
    world: World, workflows: Any, inbox: FailuresTable, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    first, second = two_that_are_over(world)
    table, logged = function("sweep_orders")._failures, []
    settle = table.settle

    def settle_unless_first(failure_id: str, *given: Any, **more: Any) -> Any:
        if failure_id == first:
            raise error
        return settle(failure_id, *given, **more)

    monkeypatch.setattr(table, "settle", settle_unless_first)
    monkeypatch.setattr(function("sweep_orders").logger, "exception", lambda *given, **_: logged.append(given))

    assert sweep()["resolved"] == 1

    record = inbox.get(second)
    assert record is not None
    assert (record.status, logged) == (FailureStatus.RESOLVED, [])


def test_a_failure_that_comes_back_at_this_moment_is_not_closed(
    world: World, workflows: Any, inbox: FailuresTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a redriven receipt that has been quiet, and fails again between the sweep's look and its write
    order = world.store(an_order(status=Status.FULFILLED, open_shard=None))
    record = a_failure(world, order, redrive=msgspec.convert({"action": "invoke", "to": "f"}, Redrive))
    inbox.confirm(inbox.claim(record.failure_id, by="ada"), "invoked")
    table = function("sweep_orders")._failures
    settle = table.settle

    def after_it_failed_again(failure_id: str, *given: Any, **more: Any) -> Any:
        inbox.change(failure_id, lambda known: msgspec.structs.replace(known, status=FailureStatus.NEW))
        return settle(failure_id, *given, **more)

    monkeypatch.setattr(table, "settle", after_it_failed_again)
    sweep(quietSeconds=0)

    assert status_of(inbox, record) is FailureStatus.NEW


def test_no_healthy_order_is_read_and_orders_of_failures_are_read_together(world: World, workflows: Any) -> None:
    # GIVEN a healthy order, an overdue one, and failures of three orders, one of which has two
    calls: list[str] = []
    client = function("sweep_orders")._orders._client
    client.meta.events.register(
        "provide-client-params.dynamodb.*", lambda params, model, **_: calls.append(model.name)
    )
    world.store(an_order())
    an_overdue_order(world, order_id="00000009-8218-51d2-a18e-3e00fd0aa7a7")
    for number in range(4):
        order = an_order(order_id=f"0000000{number % 3}-8218-51d2-a18e-3e00fd0aa7a7")
        a_failure(world, order, failure_id=f"failure-{number}", first_seen_at=LONG_AGO)

    assert sweep()["restarted"] == 1

    assert [call for call in calls if call != "Query"] == ["UpdateItem", "BatchGetItem"]


def test_an_operator_may_ask_for_a_promise_of_less_than_a_second_and_for_no_quiet_time(
    world: World, workflows: Any, inbox: FailuresTable
) -> None:
    an_overdue_order(world)

    assert sweep(promiseSeconds=0.5, quietSeconds=0)["restarted"] == 1


@pytest.mark.parametrize("request_", [{"promiseSeconds": 0}, {"promiseSeconds": -1}, {"quietSeconds": -1}])
def test_a_sweep_refuses_times_that_mean_nothing(
    world: World, workflows: Any, inbox: FailuresTable, request_: dict[str, float]
) -> None:
    with pytest.raises(msgspec.ValidationError):
        sweep(None, **request_)


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The errors that the sweep logs."""
    errors: list[str] = []
    monkeypatch.setattr(function("sweep_orders").logger, "exception", lambda text, **_: errors.append(text))
    return errors


def test_an_order_that_the_index_lists_and_the_table_lacks_is_no_error(
    world: World, workflows: Any, inbox: FailuresTable, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    gone = IdleOrder("ada", "gone", LONG_AGO, LONG_AGO, Status.PAID, "correlation-1")
    monkeypatch.setattr(function("sweep_orders")._orders, "idle", lambda **_: iter([IdlePage([gone], [])]))

    assert (sweep()["fine"], logged) == (1, [])


def test_an_order_whose_workflow_cannot_be_started_is_counted_and_logged(
    world: World, workflows: Any, inbox: FailuresTable, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    an_overdue_order(world)

    def refuse(**_: Any) -> None:
        raise RuntimeError("throttled")

    monkeypatch.setattr(function("sweep_orders")._workflows, "start_execution", refuse)

    assert (sweep()["failed"], logged) == (1, ["order not restarted"])


def test_a_failure_that_cannot_be_settled_is_logged_and_stops_no_other(
    world: World, workflows: Any, inbox: FailuresTable, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    first, _ = two_that_are_over(world)
    table = function("sweep_orders")._failures
    settle = table.settle

    def settle_unless_first(failure_id: str, *given: Any, **more: Any) -> Any:
        if failure_id == first:
            raise RuntimeError("throttled")
        return settle(failure_id, *given, **more)

    monkeypatch.setattr(table, "settle", settle_unless_first)

    assert (sweep()["resolved"], logged) == (1, ["failure not settled"])


def test_a_failure_whose_order_is_gone_stays_open_and_is_no_error(
    world: World, workflows: Any, inbox: FailuresTable, logged: list[str]
) -> None:
    record = a_failure(world, an_order())

    assert (sweep()["resolved"], status_of(inbox, record), logged) == (0, FailureStatus.NEW, [])


def test_a_damaged_failure_is_named_and_stops_no_other(
    world: World, workflows: Any, inbox: FailuresTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_that_are_over(world)
    world.put("FailuresTable", failureId="damaged", status="NEW", lastSeenAt="2026-11-20T00:00:09.000Z")
    named: list[Any] = []
    monkeypatch.setattr(function("sweep_orders").logger, "error", lambda _, extra: named.append(extra))

    assert sweep()["resolved"] == 2

    assert named == [{"failure_ids": ["damaged"]}]
