"""failures hold and release, and what list and show tell of healing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orderctl.exits import Exit
from orderctl.stack import records
from orderctl.stack.target import Target
from orders.domain.clock import timestamp, timestamp_after, timestamp_before
from orders.inbox.healing import Cause, Hold, Pace
from orders.inbox.record import FailureStatus
from orders.inbox.store import FailuresTable
from tests.integration.world import World
from tests.unit.orderctl.conftest import Run, store_failure

FIRST = "3f0c9a1b" + "1" * 12
SECOND = "77e0aaaa" + "2" * 12
RECEIPTS = Cause("IssueReceiptFunction", "PaymentProviderError")
SHIPPING = Cause("FulfilmentQueue", "WarehouseUnavailable")


@pytest.fixture
def inbox(target: Target) -> FailuresTable:
    return records.failures_table(target)


def a_failure(world: World, failure_id: str = FIRST, cause: Cause = RECEIPTS, **changes: Any) -> str:
    return store_failure(world, failure_id, component=cause.component, error_name=cause.error_name, **changes)


def healing_of(run: Run, failure_id: str) -> dict[str, Any] | None:
    (listed,) = (
        each
        for each in json.loads(run("failures", "list", "--status", "ALL", "--json")[1])["failures"]
        if each["failureId"] == failure_id
    )
    shown = json.loads(run("failures", "show", failure_id, "--json")[1])
    assert listed["healing"] == shown["healing"]
    healing: dict[str, Any] | None = shown["healing"]
    return healing


# ---- list and show


def test_a_transient_failure_tells_how_often_it_was_tried_and_when_it_is_next(
    world: World, inbox: FailuresTable, run: Run
) -> None:
    a_failure(world, redrives=3)
    soon = timestamp_after(timestamp(), 300)
    inbox.store_pace(Pace(failure_id=RECEIPTS.key, not_before=soon))

    assert healing_of(run, FIRST) == {
        "byItself": True,
        "tried": 3,
        "notBefore": soon,
        "heldBy": None,
        "heldSince": None,
        "needsHuman": None,
    }
    assert f"1: heals by itself, next not before {soon}" in run("failures", "list")[1]
    assert f"heals by itself, tried 3 times, next not before {soon}" in " ".join(
        run("failures", "show", FIRST)[1].split()
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"error_name": "MailRefused"}, "its error is not known to be transient"),
        ({"first_seen_at": timestamp_before(25 * 3600)}, "it has not healed within 24 hours"),
    ],
)
def test_a_failure_that_needs_a_human_says_why(
    world: World, inbox: FailuresTable, run: Run, changes: dict[str, Any], why: str
) -> None:
    store_failure(world, FIRST, **{"error_name": "Busy", **changes})

    found = healing_of(run, FIRST)

    assert found is not None
    assert (found["byItself"], found["needsHuman"]) == (False, why)
    assert f"1: needs a human: {why}" in " ".join(run("failures", "list")[1].split())


@pytest.mark.parametrize("output", ["false", None])
def test_where_healing_is_off_or_unknown_everything_needs_a_human(
    world: World, target: Target, run: Run, output: str | None
) -> None:
    a_failure(world)
    del target.outputs["SelfHealing"]
    if output:
        target.outputs["SelfHealing"] = output

    found = healing_of(run, FIRST)

    assert found is not None
    assert found["needsHuman"] == "self-healing is switched off"


def test_a_settled_failure_has_no_outlook(world: World, inbox: FailuresTable, run: Run) -> None:
    a_failure(world, status=FailureStatus.RESOLVED)
    assert healing_of(run, FIRST) is None
    assert "Healing" not in run("failures", "show", FIRST)[1]


@pytest.mark.parametrize("key", ["healing#holds", RECEIPTS.key])
def test_a_damaged_item_of_healing_hides_no_failure(world: World, inbox: FailuresTable, run: Run, key: str) -> None:
    a_failure(world)
    world.put("FailuresTable", failureId=key, version="x", held="y")

    found = healing_of(run, FIRST)

    assert found is not None
    assert "can't be read" in found["needsHuman"]
    code, shown, _ = run("failures", "list")
    assert code == 0
    if key == "healing#holds":
        assert "nothing heals by itself" in shown
        assert json.loads(run("failures", "list", "--json")[1])["holds"] is None
        for command in ("hold", "release"):
            code, _, said = run("failures", command, "--all")
            assert (code, "healing#holds" in said) == (Exit.REFUSED, True)


# ---- hold and release


def test_a_held_cause_is_seen_by_everybody_until_it_is_released(world: World, inbox: FailuresTable, run: Run) -> None:
    a_failure(world)
    a_failure(world, SECOND, SHIPPING)

    code, shown, _ = run("failures", "hold", "--cause", "receipt")
    assert (code, f"holds {RECEIPTS} since" in shown) == (0, True)

    held = inbox.holds().held
    assert list(held) == [RECEIPTS.key]
    found = healing_of(run, FIRST)
    assert found is not None
    assert (found["byItself"], found["heldBy"]) == (False, held[RECEIPTS.key].by)
    other = healing_of(run, SECOND)
    assert other is not None
    assert other["byItself"] is True
    shown = " ".join(run("failures", "list")[1].split())
    assert f"1: held by {held[RECEIPTS.key].by} since" in shown
    assert f"Held: {RECEIPTS}, by" in shown

    code, shown, _ = run("failures", "release", "--cause", "PaymentProvider")
    assert (code, shown) == (0, f"Released: {RECEIPTS}.\n")
    assert inbox.holds().held == {}


def test_a_hold_is_seen_and_released_when_its_failures_are_gone(inbox: FailuresTable, run: Run) -> None:
    inbox.change_holds(lambda holds: holds.held.update({RECEIPTS.key: Hold("ada", timestamp(), str(RECEIPTS))}))

    assert f"Held: {RECEIPTS}, by ada" in run("failures", "list")[1]
    assert json.loads(run("failures", "list", "--json")[1])["holds"][0]["by"] == "ada"
    assert run("failures", "release", "--cause", str(RECEIPTS))[0] == 0


def test_one_failure_is_held_and_released_by_its_id(world: World, inbox: FailuresTable, run: Run) -> None:
    a_failure(world)
    code, shown, _ = run("failures", "hold", "3f0c", "--json")
    assert (code, [each["key"] for each in json.loads(shown)]) == (0, [FIRST])
    code, shown, _ = run("failures", "release", "3f0c", "--json")
    assert (code, json.loads(shown)) == (0, [])


def test_everything_is_held_also_what_comes_later(world: World, inbox: FailuresTable, run: Run) -> None:
    assert run("failures", "hold", "--all")[0] == 0
    a_failure(world)
    found = healing_of(run, FIRST)
    assert found is not None
    assert found["byItself"] is False
    # AND a single cause can't be released from it
    code, _, said = run("failures", "release", "--cause", "receipt")
    assert (code, "--all" in said) == (Exit.REFUSED, True)
    code, shown, _ = run("failures", "release", "--all")
    assert (code, shown) == (0, "Released: every failure.\n")


def test_a_second_hold_keeps_the_first_ones_name(world: World, inbox: FailuresTable, run: Run) -> None:
    a_failure(world)
    first = Hold("bob", "2026-11-22T00:00:00.000Z", str(RECEIPTS))
    inbox.change_holds(lambda holds: holds.held.update({RECEIPTS.key: first}))
    code, shown, _ = run("failures", "hold", "--cause", "receipt")
    assert (code, shown) == (0, f"bob holds {RECEIPTS} since 2026-11-22T00:00:00.000Z.\n")


@pytest.mark.parametrize("command", ["hold", "release"])
@pytest.mark.parametrize("choice", [[], ["--all", "--cause", "x"], [FIRST, "--all"], [FIRST, "--cause", "x"]])
def test_one_choice_is_needed(inbox: FailuresTable, run: Run, command: str, choice: list[str]) -> None:
    assert run("failures", command, *choice)[0] == Exit.USAGE


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hold", "--cause", "nothing"], "There are: IssueReceiptFunction: PaymentProviderError."),
        (["hold", "f" * 20], "There is no failure"),
        (["hold", SECOND], "does not heal by itself: its error is not known to be transient"),
        (["release", "--cause", "nothing"], "'nothing' is not held"),
        (["release", FIRST], f"'{FIRST}' is not held"),
        (["release", "--all"], "Nothing is held."),
    ],
)
def test_what_is_unknown_is_refused_and_changes_nothing(
    world: World, inbox: FailuresTable, run: Run, arguments: list[str], said: str
) -> None:
    a_failure(world)
    store_failure(world, SECOND)

    code, shown, complaint = run("failures", *arguments)

    assert (code, shown) == (Exit.REFUSED, "")
    assert said in " ".join(complaint.split())
    assert inbox.holds().version == 0


def test_a_settled_failure_cannot_be_held(world: World, inbox: FailuresTable, run: Run) -> None:
    a_failure(world, status=FailureStatus.RESOLVED)
    code, _, said = run("failures", "hold", FIRST)
    assert (code, "it is RESOLVED already" in said) == (Exit.REFUSED, True)
