"""Log lines of an order, and of no other: orderctl logs, and the page of explain."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from orderctl.cloud.state import Cloud, CloudState
from orderctl.commands import logs as logs_command
from orderctl.exits import Exit, Interrupted
from orderctl.stack import logs as log_groups
from orderctl.stack.target import Target
from orderctl.ui import console
from orders.domain.clock import timestamp_before
from orders.domain.order import Order
from tests.integration.world import World, an_order
from tests.unit.orderctl.conftest import Logs, Run, group_of, store_failure
from tests.unit.orderctl.test_console import HOSTILE, obeyed_in

MINE = "694e228d-8218-51d2-a18e-3e00fd0aa7a7"
OTHER = "11aa22bb-8218-51d2-a18e-3e00fd0aa7a7"


def now_ms() -> int:
    return int(time.time() * 1000)


def entry(message: str, order_id: str | None = MINE, **fields: Any) -> dict[str, Any]:
    named = {"order_id": order_id} if order_id else {}
    return {"level": "INFO", "message": message, "correlation_id": "shared", **named, **fields}


@pytest.fixture
def order(world: World, target: Target) -> Order:
    return world.store(an_order(order_id=MINE, correlation_id="shared"))


# ---- Whose lines -------------------------------------------------------------------------------------------------


def test_two_customers_with_one_correlation_id_are_kept_apart(
    world: World, target: Target, logs: Logs, order: Order, run: Run
) -> None:
    # GIVEN an order that was declined, and somebody else's with the same correlation id that was shipped
    world.store(an_order(order_id=OTHER, customer_id="bob", correlation_id="shared"))
    logs.add("AcceptOrder", now_ms(), entry("order accepted"))
    logs.add("ProcessPayment", now_ms(), entry("payment declined"))
    logs.add("ProcessPayment", now_ms(), entry("order paid", OTHER))
    logs.add("ShipOrder", now_ms(), entry("order shipped", OTHER))
    logs.add("ShipOrder", now_ms(), entry(f"before {MINE} came", OTHER))
    logs.add("AcceptOrder", now_ms(), entry("order refused", None))  # bob's, too

    # WHEN the first one is asked about
    for command in (["explain", MINE], ["explain", MINE, "--json"], ["logs", "--order", MINE]):
        code, shown, _ = run(*command)

        # THEN nothing of the other one is told
        assert code == 0
        assert "order accepted" in shown
        assert "payment declined" in shown
        assert not any(word in shown for word in ("order paid", "order shipped", "refused", "before")), command


def taken_up(execution: str, order_id: str = MINE, **fields: Any) -> dict[str, Any]:
    """The line in which ValidateOrder tells which execution has the order."""
    return entry("order taken up", order_id, status="PLACED", execution=f"orders-order-express:{execution}", **fields)


def event(execution: str, kind: str, number: int, at_ms: int, **details: str) -> dict[str, Any]:
    """A line of the workflow's log."""
    return {
        "id": str(number),
        "type": kind,
        "details": details,
        "previous_event_id": str(number - 1),
        "event_timestamp": str(at_ms),
        "execution_arn": f"arn:aws:states:us-east-1:123456789012:express:orders-order-express:{execution}",
    }


def test_explain_without_logs_reads_only_what_tells_of_executions(
    target: Target, logs: Logs, order: Order, run: Run
) -> None:
    logs.add("AcceptOrder", now_ms(), entry("order accepted"))
    logs.add("ValidateOrder", now_ms(), entry("order validated"))
    logs.add("ValidateOrder", now_ms(), taken_up("e:1"))
    _, shown, _ = run("explain", MINE, "--no-logs")
    assert "took the order up, PLACED" in shown
    assert "order accepted" not in shown
    assert "order validated" not in shown
    assert logs.calls == 3  # ValidateOrder, the workflow by the order's id, and by the execution


def test_a_failed_workflow_is_found_by_what_validate_order_logged(
    world: World, target: Target, logs: Logs, run: Run
) -> None:
    # GIVEN a log of failures only, in which two executions failed, and only the line of ValidateOrder knows whose
    began = now_ms() - 900_000
    world.store(an_order(order_id=MINE, placed_at=timestamp_before(901)))
    logs.add("ValidateOrder", began, taken_up("mine:1"))
    logs.add("ValidateOrder", began, taken_up("theirs:1", OTHER))
    cause = json.dumps({"errorMessage": "no answer", "errorType": "WarehouseUnavailable"})
    for execution in ("mine:1", "theirs:1"):
        failed = event(execution, "TaskFailed", 9, began + 1, error=f"Boom-{execution}", cause=cause)
        logs.add("OrderWorkflow", began + 1, failed)
        end = event(execution, "ExecutionFailed", 12, began + 2, error=f"Boom-{execution}", cause="{}")
        logs.add("OrderWorkflow", began + 2, end)

    # WHEN the order is explained, and its log lines are read
    for command in (["explain", MINE], ["explain", MINE, "--no-logs"], ["logs", "--order", MINE]):
        _, shown, _ = run(*command)

        # THEN it is told of its own execution only
        assert "Boom-mine" in shown, command
        assert "theirs" not in shown, command
    _, explained, _ = run("explain", MINE, "--json")
    told = [line["what"] for line in json.loads(explained)["events"] if line["source"].startswith("workflow")]
    assert told == [
        "took the order up, PLACED",
        "an attempt failed: Boom-mine:1: no answer",
        "failed: Boom-mine:1: {}",
    ]
    assert json.loads(explained)["sentence"].startswith("Nobody is at work on it: its last workflow has failed")


@pytest.mark.parametrize("started_by", ["sweep", "3f0c9a1b"])
def test_an_execution_that_is_named_after_the_order_is_found_before_a_function_logs(
    target: Target, logs: Logs, order: Order, run: Run, started_by: str
) -> None:
    # GIVEN executions that failed in their first state, of this order and of one whose id begins differently
    for order_id in (MINE, f"x{MINE}"):
        execution = f"{order_id}-{started_by}:1"
        logs.add("OrderWorkflow", now_ms(), event(execution, "TaskFailed", 3, now_ms(), error=order_id[0]))

    _, shown, _ = run("explain", MINE, "--json")

    told = [line for line in json.loads(shown)["events"] if line["source"].startswith("workflow")]
    assert [(line["source"], line["what"]) for line in told] == [
        (f"workflow {started_by}", f"an attempt failed: {MINE[0]}")
    ]


def test_the_execution_of_a_stuck_order_is_known_from_the_inbox(
    world: World, target: Target, logs: Logs, order: Order, run: Run
) -> None:
    # GIVEN an execution that failed before ValidateOrder said anything; the inbox has its report
    line = event("e:1", "TaskFailed", 3, now_ms(), error="Boom")
    logs.add("OrderWorkflow", now_ms(), line)
    store_failure(world, order_id=MINE, source={"executionArn": line["execution_arn"]})

    for command in (["explain", MINE], ["logs", "--order", MINE]):
        assert "Boom" in run(*command)[1], command


def test_a_whole_workflow_log_is_told_state_by_state(world: World, target: Target, logs: Logs, run: Run) -> None:
    # GIVEN a log of every event, whose lines arrive in another order and fall into one millisecond
    world.store(an_order(order_id=MINE))
    now = now_ms()
    history = [
        event("e:1", "ExecutionStarted", 1, now),
        event("e:1", "PassStateEntered", 2, now, name="TakeUp"),
        event("e:1", "TaskStateEntered", 3, now, name="ValidateOrder"),
        event("e:1", "TaskScheduled", 4, now, resource="invoke"),
        event("e:1", "TaskSucceeded", 5, now, resource="invoke"),
        event("e:1", "TaskStateExited", 6, now, name="ValidateOrder"),
        event("e:1", "TaskStateEntered", 7, now, name="ReserveInventory"),
        event("e:1", "TaskTimedOut", 8, now, error="States.Timeout"),
        event("e:1", "TaskScheduled", 9, now),
    ]
    for each in reversed(history):
        logs.add("OrderWorkflow", now, each)
    logs.add("ValidateOrder", now, taken_up("e:1"))

    _, shown, _ = run("explain", MINE, "--json")

    # THEN each state is told, and where the order is now
    told = [line["what"] for line in json.loads(shown)["events"] if line["source"] == "workflow e"]
    assert told == [
        "took the order up, PLACED",
        "started",
        "ValidateOrder",
        "ReserveInventory",
        "ReserveInventory: attempt 1 failed: States.Timeout",
    ]
    assert json.loads(shown)["sentence"].startswith("In ReserveInventory for ")
    assert json.loads(shown)["sentence"].endswith(", 2nd attempt.")


def test_the_workflows_lines_have_the_level_and_time_of_their_event(
    target: Target, logs: Logs, order: Order, run: Run
) -> None:
    logs.add("ValidateOrder", now_ms(), taken_up("e:1"))
    logs.add("OrderWorkflow", now_ms(), event("e:1", "TaskFailed", 3, 1_764_547_200_123, error="Boom", cause="why"))
    logs.add("OrderWorkflow", now_ms(), event("e:1", "TaskStateEntered", 2, 1_764_547_200_123, name="ValidateOrder"))

    _, shown, _ = run("logs", "--order", MINE, "--component", "workflow", "--json")

    lines = [json.loads(each) for each in shown.splitlines()]
    assert [(line["component"], line["level"], line["message"]) for line in lines] == [
        ("OrderWorkflow", "INFO", "TaskStateEntered ValidateOrder"),
        ("OrderWorkflow", "ERROR", "TaskFailed Boom: why"),
    ]
    assert {line["at"] for line in lines} == {"2025-12-01T00:00:00.123Z"}


# ---- The command -------------------------------------------------------------------------------------------------


def test_lines_of_all_components_come_in_the_order_of_time(target: Target, logs: Logs, run: Run) -> None:
    # GIVEN lines whose own time is earlier than when they arrived, as where a function's lines come at its end
    logs.add("ShipOrder", now_ms(), entry("first", timestamp="2026-11-21 17:52:34,428+0000"))
    logs.add("AcceptOrder", now_ms(), entry("third", timestamp="2026-11-21 17:52:34,430+0000"))
    logs.add("ProcessPayment", now_ms(), entry("second", timestamp="2026-11-21 17:52:34,429+0000"))
    code, shown, _ = run("logs")
    assert code == 0
    assert [line.split()[3] for line in shown.splitlines()] == ["first", "second", "third"]
    assert shown.splitlines()[0].startswith("2026-11-21T17:52:34.428Z  ShipOrderFunction  INFO  first")


@pytest.mark.parametrize(
    "message",
    [
        "START RequestId: 2fbf10e7 Version: 1",
        "END RequestId: 2fbf10e7",
        "REPORT RequestId: 2fbf10e7\tDuration: 225.00 ms",
        "INIT_START Runtime Version: python:3.13",
        {"time": "x", "type": "platform.start", "record": {}},
        {"_aws": {"CloudWatchMetrics": []}, "OrderPaid": [1.0]},
        "",
    ],
)
def test_what_lambda_and_the_metrics_write_is_left_out(
    target: Target, logs: Logs, run: Run, message: str | dict[str, Any]
) -> None:
    logs.add("ShipOrder", now_ms(), message)
    assert run("logs") == (0, "", "")


@pytest.mark.parametrize("message", ["Task timed out after 30 s", "[1, 2]", "{broken", "null"])
def test_a_line_that_is_no_object_is_shown_as_it_is(target: Target, logs: Logs, run: Run, message: str) -> None:
    logs.add("ShipOrder", now_ms(), message)
    _, shown, _ = run("logs", "--json")
    assert json.loads(shown)["message"] == message


def test_what_was_logged_overwrites_nothing_that_orderctl_says(target: Target, logs: Logs, run: Run) -> None:
    logs.add("ShipOrder", now_ms(), entry("failed", component="FulfilmentQueue", at="never", fields="mine"))
    line = json.loads(run("logs", "--json")[1])
    assert (line["component"], line["level"], line["message"]) == ("ShipOrderFunction", "INFO", "failed")
    assert line["at"].startswith("20")
    logged = line["fields"]
    assert (logged["component"], logged["at"], logged["fields"]) == ("FulfilmentQueue", "never", "mine")
    assert logged["order_id"] == MINE


def test_a_traceback_is_shown_whole(target: Target, logs: Logs, run: Run) -> None:
    logs.add(
        "ShipOrder", now_ms(), entry("failed", exception="Traceback\n  File x\nValueError: y", exception_name="V")
    )
    assert "    Traceback\n      File x\n    ValueError: y\n" in run("logs")[1]


def test_a_line_break_forges_no_line(target: Target, logs: Logs, run: Run) -> None:
    forged = "x\n2026-11-21T17:52:34.428Z  ShipOrderFunction  INFO  forged"
    logs.add("ShipOrder", now_ms(), entry(forged, reason=forged))
    logs.add("ShipOrder", now_ms(), forged)
    lines = run("logs")[1].splitlines()
    assert sum("forged" in line for line in lines) == 2
    assert not any(line.startswith("2026-11-21T17:52:34.428Z") for line in lines)


def test_one_component_and_a_time(target: Target, logs: Logs, run: Run) -> None:
    logs.add("ShipOrder", now_ms(), entry("shipped"))
    logs.add("ProcessPayment", now_ms(), entry("paid"))
    logs.add("ProcessPayment", now_ms() - 1_800_000, entry("paid earlier"))
    logs.add("ProcessPayment", now_ms() - 7_200_000, entry("paid long ago"))
    assert "shipped" not in run("logs", "--component", "processpayment")[1]
    assert "paid earlier" in run("logs")[1]
    assert "paid earlier" not in run("logs", "--since", "15m")[1]
    assert "paid long ago" not in run("logs")[1]
    assert "paid long ago" in run("logs", "--since", "3h")[1]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--component", "NoSuchThing"], Exit.USAGE),
        (["--since", "yesterday"], Exit.USAGE),
        (["--order", "f" * 36], Exit.REFUSED),
    ],
)
def test_what_logs_can_not_do(target: Target, run: Run, arguments: list[str], code: Exit) -> None:
    assert run("logs", *arguments)[0] == code


def test_a_hostile_line_reaches_no_terminal(target: Target, logs: Logs, order: Order, run: Run) -> None:
    hostile = entry(HOSTILE, level=HOSTILE, exception=HOSTILE, exception_name=HOSTILE, **{HOSTILE: HOSTILE})
    logs.add("ShipOrder", now_ms(), {**hostile, "level": "ERROR"})
    logs.add("ShipOrder", now_ms(), hostile)
    logs.add("ShipOrder", now_ms(), f"{HOSTILE} {MINE}")
    for command in (["logs"], ["logs", "--json"], ["logs", "--order", MINE], ["explain", MINE]):
        code, shown, said = run(*command)
        assert code == 0
        assert not obeyed_in(shown + said), command


def test_following_shows_each_line_once_and_ends_well(
    target: Target, logs: Logs, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN lines that arrive while they are followed, two of them the same, and one late
    now = now_ms()
    logs.add("ShipOrder", now, entry("first"))
    pauses = itertools.count()

    def pause(_: float) -> None:
        match next(pauses):
            case 0:
                logs.add("ShipOrder", now + 1000, entry("second"))
                logs.add("ShipOrder", now + 1000, entry("second"))
            case 1:
                logs.add("ShipOrder", now - 1000, entry("late"))
            case 3:
                raise Interrupted

    monkeypatch.setattr("orderctl.commands.logs.time.sleep", pause)

    # WHEN they are followed
    code, shown, said = run("logs", "--follow")

    # THEN each is shown once, and Ctrl-C is the way to end it
    assert [line.split()[3] for line in shown.splitlines()] == ["first", "second", "second", "late"]
    assert (code, said) == (0, "")


@pytest.fixture
def local(target: Target, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CloudState:
    """The stack on a recorded local cloud whose process is gone, and whose server doesn't answer any more."""
    monkeypatch.setattr("orderctl.cloud.state.CLOUDS", tmp_path)
    monkeypatch.setattr(logs_command, "ENDING_S", 0.1)
    target.local = CloudState(
        "test", 4566, 2**22 + 1, "long ago", "2026-01-01T00:00:00+00:00", "process", deployed="x"
    )
    Cloud("test").save(target.local)

    def read(*_: Any) -> Any:
        raise EndpointConnectionError(endpoint_url="http://127.0.0.1:4566")

    monkeypatch.setattr(log_groups, "events", read)
    return target.local


def test_following_a_local_cloud_that_dies_tells_what_became_of_it(local: CloudState, run: Run) -> None:
    code, _, said = run("logs", "--follow")
    assert code == Exit.NO_TARGET
    assert "The local cloud 'test' died" in said
    assert "Start it" in said


# ---- More than a page --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 9, 10, 11, 95])
def test_no_event_is_missed_and_none_comes_twice(target: Target, logs: Logs, number: int) -> None:
    logs.most = 10
    for each in range(number):
        logs.add("ShipOrder", 1000 + each // 4, f"line {each}")

    found = [event["message"] for event in events_of(target)]

    assert found == [f"line {each}" for each in range(number)]


def events_of(target: Target) -> list[dict[str, Any]]:
    return list(log_groups.events(target, group_of("ShipOrder"), "", 0))


def test_a_log_group_that_is_gone_is_named_and_left_out(
    target: Target, logs: Logs, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.add("ShipOrder", now_ms(), entry("shipped"))
    real = logs.filter_log_events

    def gone(**asked: Any) -> dict[str, Any]:
        if asked["logGroupName"] == group_of("AcceptOrder"):
            raise logs.exceptions.ResourceNotFoundException
        return real(**asked)

    monkeypatch.setattr(logs, "filter_log_events", gone)
    code, shown, said = run("logs")
    assert code == 0
    assert "shipped" in shown
    assert group_of("AcceptOrder") in said


# ---- The page of explain at 80 columns ---------------------------------------------------------------------------


def test_explain_fits_eighty_columns_and_loses_nothing(
    target: Target, logs: Logs, order: Order, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console.out, "width", 80)
    logs.add("ProcessPayment", now_ms(), entry("x" * 200))
    _, shown, _ = run("explain", MINE)
    *page, sentence = shown.rstrip().splitlines()
    assert max(len(line.rstrip()) for line in page) <= 80
    assert shown.count("x") >= 200
    assert order.placed_at.partition("T")[0] in shown
    assert order.placed_at[11:23] in shown
    assert sentence.startswith("Placed ")  # 0 s ago, unless the machine is busy
