"""A small load on the local cloud: everything that is accepted is accounted for."""

from __future__ import annotations

import time

import pytest

from measure import load, reconcile
from orderctl.cloud.state import Cloud
from orderctl.stack.target import Target

ORDERS = 8
DEADLINE_S = 90.0


def test_orders_whose_events_all_come_twice_end_once(cloud: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN orders at a steady rate, each of whose events comes again
    assert cloud.local is not None
    monkeypatch.setattr(load, "DUPLICATE_SHARE", 1.0)
    run = load.Load(cloud, ORDERS, 8.0, frozenset({load.Fault.DUPLICATES}), seed=1)
    chaos = load.Chaos(run, Cloud(cloud.local.name))

    # WHEN all have been sent and all events repeated
    load.send(run, chaos)
    deadline = time.monotonic() + DEADLINE_S
    while run.injected.get("duplicate events", 0) < ORDERS and time.monotonic() < deadline:
        time.sleep(0.2)
    chaos.end()
    found = reconcile.reckon(run, None, final=False)
    while found.under_way and time.monotonic() < deadline:
        time.sleep(0.5)
        found = reconcile.reckon(run, None, final=False)

    # THEN each has ended, and nothing happened twice
    assert run.injected["duplicate events"] == ORDERS
    assert (found.accepted, found.fulfilled + found.failed) == (ORDERS, ORDERS)
    assert not found.doubled
