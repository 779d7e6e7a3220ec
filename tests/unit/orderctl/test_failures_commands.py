"""The commands on the failure inbox: what they show, take, refuse and change."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from orderctl.exits import Exit, Interrupted, Stop
from orderctl.redrive import discarding, many
from orderctl.stack import prefixes, records
from orderctl.stack.target import Target
from orderctl.ui import console
from orders.domain.clock import timestamp, timestamp_before
from orders.inbox.record import Action, FailureRecord, FailureStatus, Redrive
from orders.inbox.store import FailuresTable
from orders.redrive.sending import Outcome, Sender
from tests.integration.world import World, an_order
from tests.unit.orderctl.conftest import MACHINE, QUEUE, Run, store_failure
from tests.unit.orderctl.test_console import HOSTILE, obeyed_in

FIRST = "3f0c9a1b" + "1" * 12
SECOND = "3f0c9a1b" + "2" * 12
THIRD = "77e0aaaa" + "3" * 12
ORDER = "694e228d-8218-51d2-a18e-3e00fd0aa7a7"


@pytest.fixture
def inbox(target: Target) -> FailuresTable:
    return records.failures_table(target)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.out, "width", 80)


def status_of(inbox: FailuresTable, failure_id: str) -> FailureStatus:
    record = inbox.get(failure_id)
    assert record is not None
    return record.status


# ---- list --------------------------------------------------------------------------------------------------------


def test_eighty_columns_show_what_is_typed_next(world: World, inbox: FailuresTable, run: Run, narrow: None) -> None:
    # GIVEN failures with names as long as they come
    for failure_id in (FIRST, SECOND, THIRD):
        store_failure(
            world,
            failure_id,
            component="NotificationsQueueWithAVeryLongName",
            error_name="ProvisionedThroughputExceededException",
            order_id=ORDER,
            last_seen_at=timestamp_before(185),
        )

    # WHEN they are listed
    code, shown, _ = run("failures", "list")

    # THEN each line fits, and has ids that the next command takes
    assert code == 0
    assert max(len(line) for line in shown.splitlines() if "failures show" not in line) <= 80
    ids = [word for word in shown.split() if word[:8] in {FIRST[:8], THIRD[:8]}]
    assert ids == [FIRST[:9], SECOND[:9], THIRD[:8]] or sorted(ids) == [FIRST[:9], SECOND[:9], THIRD[:8]]
    assert sorted(prefixes.failure_ids(inbox, ids)) == [FIRST, SECOND, THIRD]
    assert ORDER[:8] in shown
    assert "3 min ago" in shown
    assert "failures show ID" in shown


def test_what_was_redriven_is_not_counted_as_stuck(world: World, inbox: FailuresTable, run: Run) -> None:
    store_failure(world, FIRST)
    store_failure(world, SECOND, status=FailureStatus.REDRIVEN, sent_at=timestamp())
    store_failure(world, THIRD, status=FailureStatus.REDRIVEN, sent_at=timestamp())

    _, shown, _ = run("failures", "list")
    _, as_json, _ = run("failures", "list", "--json")

    head, row = shown.splitlines()[:2]
    assert head.split()[:2] == ["NEW", "REDRIVEN"]
    assert row.split()[:2] == ["1", "2"]
    assert json.loads(as_json)["groups"][0]["statuses"] == {"NEW": 1, "REDRIVEN": 2}


def test_a_long_message_ends_in_an_ellipsis(world: World, inbox: FailuresTable, run: Run, narrow: None) -> None:
    store_failure(world, error_message="word " * 100)
    _, shown, _ = run("failures", "list")
    assert "word…" in shown


def test_a_long_list_says_of_how_many_it_shows_the_first(world: World, inbox: FailuresTable, run: Run) -> None:
    for number in range(57):
        store_failure(world, f"{number:020}")

    _, shown, _ = run("failures", "list")
    _, limited, _ = run("failures", "list", "--limit", "10")
    _, as_json, _ = run("failures", "list", "--limit", "10", "--json")

    assert "50 of 57 failures" in shown
    assert "see all with --json" in shown
    assert "Causes of" not in shown
    assert "Causes of the first 10 read" in limited
    assert "The first 10 read; narrow them down, or read more with --limit." in limited
    assert json.loads(as_json)["more"] is True


@pytest.mark.parametrize(("options", "said"), [([], "Nothing is stuck."), (["--error", "x"], "No failures match.")])
def test_an_empty_list_says_so(inbox: FailuresTable, run: Run, options: list[str], said: str) -> None:
    assert run("failures", "list", *options) == (0, f"{said}\n", "")


def test_a_list_can_not_be_watched_as_json(inbox: FailuresTable, run: Run) -> None:
    assert run("failures", "list", "--watch", "--json")[0] == Exit.USAGE
    assert run("failures", "list", "--watch")[0] == Exit.USAGE  # no terminal


def test_a_missing_table_is_named(world: World, target: Target, run: Run) -> None:
    world.dynamodb.delete_table(TableName="FailuresTable")
    for command in (["failures", "list"], ["failures", "show", FIRST], ["explain", "694e228d"]):
        code, _, said = run(*command)
        assert code == Exit.NO_TARGET, command
        assert "has no table FailuresTable" in said
        assert "Restore it" in said


# ---- Prefixes ----------------------------------------------------------------------------------------------------


def test_the_start_of_an_id_is_enough_in_any_case(world: World, inbox: FailuresTable, run: Run) -> None:
    store_failure(world, FIRST)
    store_failure(world, THIRD, status=FailureStatus.RESOLVED)
    assert json.loads(run("failures", "show", "3F0C", "--json")[1])["failureId"] == FIRST
    assert json.loads(run("failures", "show", "77e0", "--json")[1])["failureId"] == THIRD


def test_an_ambiguous_start_names_the_candidates_and_changes_nothing(
    world: World, inbox: FailuresTable, run: Run
) -> None:
    for failure_id in (FIRST, SECOND, THIRD):
        store_failure(world, failure_id)
    for command in (["show"], ["redrive"], ["discard", "--reason", "x"]):
        code, shown, said = run("failures", *command, "3f0c")
        assert code == Exit.REFUSED
        assert FIRST in said
        assert SECOND in said
        assert THIRD not in said
        assert shown == ""
    assert run("failures", "redrive", THIRD[:8], "3f0c")[0] == Exit.REFUSED
    assert {status_of(inbox, each) for each in (FIRST, SECOND, THIRD)} == {FailureStatus.NEW}


def test_many_candidates_are_named_in_part(world: World, inbox: FailuresTable) -> None:
    for number in range(15):
        store_failure(world, f"{number:020}")
    with pytest.raises(Stop) as stop:
        prefixes.failure_ids(inbox, ["0000"])
    assert stop.value.next_step.endswith("and 5 more")


@pytest.mark.parametrize(("typed", "code"), [("3f0", Exit.USAGE), ("ffff", Exit.REFUSED), ("f" * 20, Exit.REFUSED)])
def test_a_start_that_is_too_short_or_unknown(
    world: World, inbox: FailuresTable, run: Run, typed: str, code: Exit
) -> None:
    store_failure(world, FIRST)
    assert run("failures", "show", typed)[0] == code
    assert run("failures", "redrive", typed, "--wait", "0")[0] == code


def test_the_start_of_an_order_id_is_looked_for_in_the_indexes(world: World, target: Target, run: Run) -> None:
    # GIVEN an open order, and one that has ended and left a failure
    world.store(an_order(order_id=ORDER))
    ended = "11aa22bb-8218-51d2-a18e-3e00fd0aa7a7"
    store_failure(world, FIRST, order_id=ended)

    # THEN the starts of both are enough
    assert prefixes.order_id(target, "694E228D") == ORDER
    assert prefixes.order_id(target, "11aa") == ended
    assert json.loads(run("order", "694e", "--json")[1])["orderId"] == ORDER
    assert len(json.loads(run("failures", "list", "--order", "11aa", "--json")[1])["failures"]) == 1

    # AND an ended order without a failure needs its whole id
    world.store(an_order(order_id="99aa22bb-8218-51d2-a18e-3e00fd0aa7a7", open_shard=None))
    code, _, said = run("order", "99aa22bb")
    assert code == Exit.REFUSED
    assert "whole id" in said
    assert run("order", "99aa22bb-8218-51d2-a18e-3e00fd0aa7a7")[0] == 0

    # AND who has typed a whole id isn't told to
    code, _, said = run("order", "88aa22bb-8218-51d2-a18e-3e00fd0aa7a7")
    assert code == Exit.REFUSED
    assert "whole id" not in said
    assert "List orders with" in said


def test_an_ambiguous_start_of_an_order_id(world: World, target: Target, run: Run) -> None:
    other = ORDER.replace("694e228d", "694eeeee")
    world.store(an_order(order_id=ORDER))
    world.store(an_order(order_id=other))
    for command in (["order"], ["explain"], ["logs", "--order"], ["failures", "list", "--order"]):
        code, _, said = run(*command, "694e")
        assert code == Exit.REFUSED
        assert ORDER in said
        assert other in said


def test_nothing_is_scanned(world: World, target: Target, run: Run) -> None:
    store_failure(world, FIRST, order_id=ORDER)
    world.store(an_order(order_id=ORDER))

    def forbid(**_: Any) -> None:
        raise AssertionError("a scan")

    target.client("dynamodb").meta.events.register("before-call.dynamodb.Scan", forbid)
    for command in (["failures", "list"], ["failures", "show", "3f0c"], ["order", "694e"], ["orders", "--open"]):
        assert run(*command)[0] == 0


# ---- show --------------------------------------------------------------------------------------------------------


def hostile_failure(world: World) -> str:
    return store_failure(
        world,
        FIRST,
        component=HOSTILE.replace("\ud800", "").replace("\udfff", ""),
        error_name=HOSTILE[:-20].encode(errors="ignore").decode(),
        error_message=HOSTILE.encode(errors="ignore").decode(),
        stack_trace=[HOSTILE.encode(errors="ignore").decode()],
        payload=HOSTILE.encode(errors="ignore").decode(),
        order_id=HOSTILE.encode(errors="ignore").decode(),
        customer_id=HOSTILE.encode(errors="ignore").decode(),
        correlation_id=HOSTILE.encode(errors="ignore").decode(),
        note=HOSTILE.encode(errors="ignore").decode(),
        source={"messageId": HOSTILE.encode(errors="ignore").decode()},
    )


def test_a_hostile_customer_reaches_no_terminal(world: World, inbox: FailuresTable, run: Run, narrow: None) -> None:
    hostile_failure(world)
    for command in (
        ["failures", "list"],
        ["failures", "list", "--json"],
        ["failures", "show", FIRST],
        ["failures", "show", FIRST, "--json"],
        ["failures", "redrive", FIRST, "--dry-run"],
        ["failures", "discard", FIRST, "--reason", HOSTILE.encode(errors="ignore").decode()],
        ["failures", "show", FIRST],
        ["failures", "show", HOSTILE],
    ):
        code, shown, said = run(*command)
        assert code in {0, Exit.REFUSED}, said
        assert not obeyed_in(shown + said), command


def test_a_failure_is_shown_whole_at_any_width(world: World, inbox: FailuresTable, run: Run, narrow: None) -> None:
    arn = f"arn:aws:lambda:eu-west-1:123456789012:function:{'long-' * 30}end"
    store_failure(world, FIRST, resource_arn=arn, error_message="x" * 300)
    _, shown, _ = run("failures", "show", FIRST)
    assert arn in "".join(shown.split())
    assert "x" * 300 in "".join(shown.split())
    assert "1 time\n" in "\n".join(line.rstrip() for line in shown.splitlines()) + "\n"


# ---- redrive -----------------------------------------------------------------------------------------------------


def test_a_redrive_sends_once(world: World, inbox: FailuresTable, run: Run) -> None:
    store_failure(world, FIRST)

    code, shown, said = run("failures", "redrive", "3f0c9a1b", "--wait", "0")
    assert code == 0
    assert "1 failure: 1 redriven, 0 resolved, 0 refused, 0 failed." in shown
    assert "Redriving 1 failure," in said
    assert status_of(inbox, FIRST) is FailureStatus.REDRIVEN

    code, shown, said = run("failures", "redrive", FIRST, "--wait", "0")
    assert code == Exit.REFUSED
    assert "1 failure: 0 redriven, 0 resolved, 1 refused, 0 failed." in shown
    assert "--again" in said
    assert "done" not in said
    assert world.messages("NotificationsQueue") == ["the mail"]


def test_a_redrive_as_json(world: World, inbox: FailuresTable, run: Run) -> None:
    store_failure(world, FIRST, order_id=ORDER)
    code, shown, _ = run("failures", "redrive", "--all", "--wait", "0", "--json")
    found = json.loads(shown)
    assert (code, found["redriven"], found["cameBack"], found["stopped"]) == (0, 1, 0, None)
    (outcome,) = found["outcomes"]
    assert outcome.pop("detail").startswith("sent to queue NotificationsQueue")
    assert outcome == {"failureId": FIRST, "orderId": ORDER, "result": "redriven"}


def test_a_dry_run_sends_nothing(world: World, inbox: FailuresTable, run: Run) -> None:
    store_failure(world, FIRST)
    code, shown, _ = run("failures", "redrive", "--error", "MailRefused", "--dry-run")
    assert code == 0
    assert "send the message to the queue NotificationsQueue" in shown
    assert "1 failure; nothing was sent." in shown
    assert status_of(inbox, FIRST) is FailureStatus.NEW
    assert world.messages("NotificationsQueue") == []


def test_what_fails_again_at_once_is_no_success(
    world: World, inbox: FailuresTable, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a consumer that fails on whatever it gets
    monkeypatch.setattr(many, "CHECK_EVERY_S", 0)
    ids = [store_failure(world, failure_id) for failure_id in (FIRST, SECOND, THIRD)]

    def fail_again(sender: Sender, claim: FailureRecord, payload: str) -> tuple[str, bool]:
        inbox.change(
            claim.failure_id,
            lambda record: msgspec.structs.replace(record, status=FailureStatus.NEW, last_seen_at=timestamp()),
        )
        return "sent", False

    monkeypatch.setattr(Sender, "send", fail_again)

    # WHEN all are redriven
    code, shown, said = run("failures", "redrive", *ids, "--rate", "1000")
    as_json = json.loads(run("failures", "redrive", *ids, "--rate", "1000", "--json")[1])

    # THEN the redrive says that they are back, and doesn't pass for a success
    assert code == Exit.NOT_AS_EXPECTED
    assert "3 of 3 redriven have failed again" in said
    assert "3 redriven" in shown
    assert as_json["cameBack"] == 3


def test_a_redrive_that_can_not_know_yet_says_so(world: World, inbox: FailuresTable, run: Run) -> None:
    store_failure(world, FIRST)
    code, shown, _ = run("failures", "redrive", FIRST, "--wait", "0.1")
    assert code == 0
    assert "None has failed again in 0 s." in shown or "None has failed again in" in shown
    assert "The result shows later" in shown


@pytest.mark.parametrize("option", [[], ["--dry-run"]])
def test_a_redrive_of_unknown_ids_names_them_all_and_begins_nothing(
    world: World, inbox: FailuresTable, run: Run, option: list[str]
) -> None:
    store_failure(world, FIRST)
    code, shown, said = run("failures", "redrive", FIRST, "zzzz", "f" * 20, *option)
    assert (code, shown) == (Exit.REFUSED, "")
    assert f"There are no failures 'zzzz', '{'f' * 20}'." in said
    assert "Redriving" not in said
    assert status_of(inbox, FIRST) is FailureStatus.NEW


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_a_redrive_that_is_interrupted_while_it_watches_tells_what_was_sent(
    world: World, inbox: FailuresTable, run: Run, monkeypatch: pytest.MonkeyPatch, option: list[str]
) -> None:
    store_failure(world, FIRST)
    monkeypatch.setattr("orderctl.commands.failures._watch_for_failures", interrupt)
    code, shown, said = run("failures", "redrive", FIRST, "--rate", "1000", *option)
    assert code == Exit.INTERRUPTED
    assert "interrupted" in said
    assert FIRST in shown
    assert "sent to queue NotificationsQueue" in shown


def test_a_redrive_that_is_interrupted_half_way_tells_what_was_sent_and_what_was_not(
    world: World, inbox: FailuresTable, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for failure_id in (FIRST, SECOND, THIRD):
        store_failure(world, failure_id)
    pauses = iter([lambda: None, interrupt])
    monkeypatch.setattr(many.Pace, "wait", lambda _: next(pauses)())
    code, shown, said = run("failures", "redrive", FIRST, SECOND, THIRD)
    assert code == Exit.INTERRUPTED
    assert f"{FIRST}  redriven: sent to queue" in shown
    assert "2 failures not touched" in said
    assert status_of(inbox, THIRD) is FailureStatus.NEW


def interrupt(*_: Any) -> None:
    raise Interrupted


def test_what_can_not_be_sent_is_a_failure(world: World, inbox: FailuresTable, run: Run) -> None:
    gone = msgspec.structs.replace(record_of(inbox, store_failure(world, FIRST)).redrive, to=f"{QUEUE}-gone")
    store_failure(world, FIRST, redrive=gone)
    code, _, said = run("failures", "redrive", FIRST)
    assert code == Exit.NOT_AS_EXPECTED
    assert f"{FIRST}  failed" in said
    assert status_of(inbox, FIRST) is FailureStatus.NEW


def record_of(inbox: FailuresTable, failure_id: str) -> FailureRecord:
    record = inbox.get(failure_id)
    assert record is not None
    return record


@pytest.mark.parametrize("arguments", [[], ["--all", FIRST], [FIRST, "--error", "x"]])
def test_a_redrive_needs_ids_or_a_choice(run: Run, target: Target, arguments: list[str]) -> None:
    assert run("failures", "redrive", *arguments)[0] == Exit.USAGE


# ---- discard -----------------------------------------------------------------------------------------------------


def test_a_discard_gives_up_once(world: World, inbox: FailuresTable, run: Run) -> None:
    store_failure(world, FIRST)
    store_failure(world, THIRD)

    code, shown, _ = run("failures", "discard", "3f0c", "--reason", "test data")
    assert code == 0
    assert f"{FIRST} discarded" in shown
    record = record_of(inbox, FIRST)
    assert record.status is FailureStatus.DISCARDED
    assert "test data" in (record.reason or "")

    code, shown, said = run("failures", "discard", FIRST, "--reason", "again")
    assert code == Exit.REFUSED
    assert "DISCARDED already" in said
    assert record_of(inbox, FIRST) == record
    assert status_of(inbox, THIRD) is FailureStatus.NEW
    assert world.messages("NotificationsQueue") == []


@pytest.fixture
def given_up(world: World, target: Target) -> str:
    """A failure for which an order waits."""
    world.store(an_order(order_id=ORDER))
    return store_failure(world, FIRST, order_id=ORDER, redrive=Redrive(Action.RESUME, MACHINE))


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_a_discard_that_is_interrupted_while_it_waits_tells_what_was_discarded(
    run: Run, monkeypatch: pytest.MonkeyPatch, given_up: str, option: list[str]
) -> None:
    # GIVEN a discard that waits for an order's undoing
    monkeypatch.setattr(discarding, "await_undoing", interrupt)

    # WHEN it is interrupted
    code, shown, _ = run("failures", "discard", given_up, "--reason", "x", *option)

    # THEN it says what it has done
    assert code == Exit.INTERRUPTED
    assert given_up in shown
    assert "the order is given up and is being undone" in shown


def test_a_discard_that_is_interrupted_half_way_names_what_is_left(
    world: World, inbox: FailuresTable, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for failure_id in (FIRST, SECOND, THIRD):
        store_failure(world, failure_id)
    real = discarding.discard_one

    def discard_one(target: Target, table: FailuresTable, failure_id: str, *said: str) -> Outcome:
        if failure_id == SECOND:
            raise Interrupted
        return real(target, table, failure_id, *said)

    monkeypatch.setattr(discarding, "discard_one", discard_one)
    code, shown, said = run("failures", "discard", FIRST, SECOND, THIRD, "--reason", "x")
    assert code == Exit.INTERRUPTED
    assert f"{FIRST} discarded" in shown
    assert f"Not discarded, or not completely: {SECOND}, {THIRD}." in said


def test_a_repeated_discard_tells_where_the_order_is(
    world: World, inbox: FailuresTable, run: Run, monkeypatch: pytest.MonkeyPatch, given_up: str
) -> None:
    monkeypatch.setattr(discarding, "await_undoing", lambda *_: None)
    run("failures", "discard", given_up, "--reason", "x")
    code, _, said = run("failures", "discard", given_up, "--reason", "x")
    assert code == Exit.REFUSED
    assert "it is DISCARDED already; the order is FAILING and is being undone; see its progress" in said
    assert f"explain {ORDER}" in said

    world.dynamodb.update_item(
        TableName="OrdersTable",
        Key={"customerId": {"S": an_order().customer_id}, "orderId": {"S": ORDER}},
        UpdateExpression="SET #status = :failed",
        ExpressionAttributeNames={"#status": "status"},
        ExpressionAttributeValues={":failed": {"S": "FAILED"}},
    )
    code, _, said = run("failures", "discard", given_up, "--reason", "x")
    assert code == Exit.REFUSED
    assert "it is DISCARDED already; the order is FAILED: nothing stays charged" in said


def test_a_discard_as_json(world: World, inbox: FailuresTable, run: Run) -> None:
    store_failure(world, FIRST)
    code, shown, _ = run("failures", "discard", FIRST, "f" * 20, "--reason", "x", "--json")
    assert code == Exit.REFUSED
    found = json.loads(shown)
    assert [each["result"] for each in found] == ["discarded", "refused"]
    assert [sorted(each) for each in found] == [["detail", "failureId", "orderId", "result"]] * 2


@pytest.mark.parametrize("reason", ["", "  ", "x" * 501])
def test_a_discard_needs_a_reason(world: World, inbox: FailuresTable, run: Run, reason: str) -> None:
    store_failure(world, FIRST)
    assert run("failures", "discard", FIRST, "--reason", reason)[0] == Exit.USAGE
    assert status_of(inbox, FIRST) is FailureStatus.NEW


def test_a_redrive_that_was_never_confirmed_says_so(
    world: World, inbox: FailuresTable, run: Run, narrow: None
) -> None:
    store_failure(world, FIRST, status=FailureStatus.REDRIVEN, claimed_at=timestamp())
    store_failure(world, THIRD, status=FailureStatus.REDRIVEN, claimed_at=timestamp(), sent_at=timestamp())
    assert run("failures", "list")[1].count("not confirmed") == 1
    assert "REDRIVEN (not confirmed)" in run("failures", "show", FIRST)[1]
    assert "not confirmed" not in run("failures", "show", THIRD)[1]
