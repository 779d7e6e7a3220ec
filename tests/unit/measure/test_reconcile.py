"""What the reckoning after a load calls wrong."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from measure import load, reconcile
from orders.inbox.healing import Outlook
from orders.inbox.record import Action, Failure, FailureRecord, FailureStatus, Kind, Redrive, first_seen


def test_percentiles_are_those_of_the_sorted_values() -> None:
    assert reconcile.percentiles([]) == {}
    assert reconcile.percentiles([float(n) for n in range(100, 0, -1)]) == {
        "p50": 51.0,
        "p95": 96.0,
        "p99": 100.0,
        "max": 100.0,
    }


def test_the_same_seed_orders_the_same_and_each_fault_shows_in_what_is_ordered() -> None:
    def bodies(seed: int, *faults: load.Fault) -> list[dict[str, Any]]:
        target: Any = None
        return load.order_bodies(load.Load(target, 300, 10.0, frozenset(faults), seed))

    assert bodies(1) == bodies(1)
    assert bodies(1) != bodies(2)
    assert {body["paymentMethod"] for body in bodies(1)} == {"tok_visa", "tok_declined"}
    assert any("provider_down" in body["paymentMethod"] for body in bodies(1, load.Fault.PROVIDER))
    postal = {body["shippingAddress"]["postalCode"] for body in bodies(1, load.Fault.WAREHOUSE)}
    assert {"TEST-DOWN-1", "TEST-REFUSED"} <= postal


def test_orders_a_second_count_to_the_last_order_and_not_to_the_end_of_waiting() -> None:
    # GIVEN ten orders, accepted within 2 s, of which eight had ended after 4 s before anything was redriven
    target: Any = None
    run = load.Load(target, 10, 5.0, frozenset(), seed=1)
    run.accepted = [load.AcceptedOrder(f"order-{number}", f"key-{number}", 0.01, 1) for number in range(10)]
    run.answered = run.began + 2
    first = reconcile.Reckoning(accepted=10, fulfilled=7, failed=1, in_inbox=2)
    first.last_end = (run.began_at + timedelta(seconds=4)).isoformat()

    # WHEN it is reported, THEN so many were accepted, and ended, a second
    found = reconcile.report(run, first, reconcile.Reckoning(accepted=10, fulfilled=9, failed=1))
    assert (found["acceptedPerSecond"], found["endedPerSecond"]) == (5.0, 2.0)


class Table:
    """The failures table, as far as the reckoning reads it."""

    def __init__(self, *records: FailureRecord) -> None:
        self.records = {record.failure_id: record for record in records}

    def with_status(self, status: FailureStatus, *, since: str) -> list[FailureRecord]:
        assert status is FailureStatus.NEW
        return [record for record in self.records.values() if record.last_seen_at >= since]

    def get(self, failure_id: str) -> FailureRecord | None:
        return self.records.get(failure_id)


def a_failure(failure_id: str, order_id: str | None, payload: str = "", at: str = "9") -> FailureRecord:
    failure = Failure(
        failure_id=failure_id,
        kind=Kind.EXECUTION,
        component="ProcessPayment",
        resource_arn="arn",
        error_name="Broken",
        error_message="it broke",
        occurrence=failure_id,
        redrive=Redrive(Action.RESUME, "arn"),
        order_id=order_id,
        payload=payload,
    )
    return first_seen(failure, at=at, message_id=failure_id)


def a_run(*order_ids: str) -> load.Load:
    target: Any = None
    run = load.Load(target, len(order_ids), 1.0, frozenset(), seed=1)
    run.accepted = [load.AcceptedOrder(order_id, f"key-{order_id}", 0.01, 1) for order_id in order_ids]
    return run


def test_the_inbox_is_judged_by_what_heals_what_is_poison_and_what_nobody_expects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # GIVEN failures of a run, one of somebody else's order, and one from before
    run = a_run("o1", "o2")
    table = Table(
        a_failure("heals", "o1"),
        a_failure("broken", "o2"),
        a_failure("poison", None, payload=f"poison {run.run_id} 3"),
        a_failure("other", "o9"),
        a_failure("earlier", None, at="0"),
    )
    monkeypatch.setattr(reconcile, "failures_table", lambda _: table)
    monkeypatch.setattr(
        reconcile,
        "outlooks",
        lambda _, __, records: {
            each.failure_id: Outlook("" if each.failure_id == "heals" else "its error is not known", 0)
            for each in records
        },
    )

    # WHEN
    found = reconcile.inbox_since(run)

    # THEN
    assert found.healing == Counter({"ProcessPayment: Broken": 1})
    assert found.for_humans == Counter({"ProcessPayment: Broken": 2})
    assert found.poison == 1
    assert list(found.unexpected) == ["broken"]
    assert found.orders == {"o1", "o2"}


@pytest.mark.parametrize(
    ("wrong", "well"),
    [
        ({}, True),
        ({"inbox": reconcile.Inbox(for_humans=Counter(x=1), poison=1)}, True),
        ({"inbox": reconcile.Inbox(healing=Counter(x=1))}, False),
        ({"inbox": reconcile.Inbox(unexpected={"f": "x"})}, False),
        ({"lost": {"o": "x"}}, False),
        ({"doubled": {"o": "x"}}, False),
    ],
)
def test_a_run_is_well_if_only_poison_is_left(wrong: dict[str, Any], well: bool) -> None:
    assert reconcile.Reckoning(**wrong).well is well


def test_some_payments_hang_in_the_middle_of_a_run() -> None:
    target: Any = None
    bodies = load.order_bodies(load.Load(target, 300, 10.0, load.PROFILES["hang"], seed=1))
    hanging = [number for number, body in enumerate(bodies) if body["paymentMethod"] == load.HANGING_TOKEN]

    assert len(hanging) == load.HANGING_PAYMENTS > load.ACCOUNT_CONCURRENCY
    assert (hanging[0], hanging[-1]) == (100, 159)


def test_a_provider_that_hangs_is_no_part_of_the_full_profile() -> None:
    assert not load.HANGS & load.PROFILES["full"]
