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
from orderctl.stack import executions
from orderctl.stack import logs as log_groups
from orderctl.stack.target import Target
from orderctl.ui import console
from orders.domain.clock import timestamp_before
from orders.domain.order import Order
from tests.integration.world import World, an_order
from tests.unit.orderctl.conftest import MACHINE, Logs, Run, group_of
from tests.unit.orderctl.test_console import HOSTILE, obeyed_in

MINE = "694e228d-8218-51d2-a18e-3e00fd0aa7a7"
OTHER = "11aa22bb-8218-51d2-a18e-3e00fd0aa7a7"


def now_ms() -> int:
    return int(time.time() * 1000)


def entry(message: str, order_id: str | None = MINE, **fields: Any) -> dict[str, Any]:
    named = {"order_id": order_id} if order_id else {}
    return {"level": "INFO", "message": message, "correlation_id": "shared", **named, **fields}


class Workflows:
    """Step Functions with executions by name, each of which has started and no more."""

    class exceptions:  # noqa: N801 - as boto3 has it
        class ExecutionDoesNotExist(Exception):
            pass

    def __init__(self, *names: str) -> None:
        self.names = names

    def describe_execution(self, *, executionArn: str) -> dict[str, Any]:  # noqa: N803
        if executionArn.rpartition(":")[2] not in self.names:
            raise self.exceptions.ExecutionDoesNotExist
        return {"status": "SUCCEEDED", "input": "{}"}

    def get_paginator(self, operation: str) -> Any:
        return Pages([{"events": []}] if operation == "get_execution_history" else [{"executions": []}])


class Pages(list[dict[str, Any]]):
    def paginate(self, **_: Any) -> Pages:
        return self


@pytest.fixture
def order(world: World, target: Target) -> Order:
    target._clients["stepfunctions"] = Workflows()
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


def test_explain_without_logs_asks_only_the_sweep(target: Target, logs: Logs, order: Order, run: Run) -> None:
    logs.add("AcceptOrder", now_ms(), entry("order accepted"))
    logs.add("SweepOrders", now_ms(), entry("order restarted", execution=f"{MINE}-sweep-1"))
    _, shown, _ = run("explain", MINE, "--no-logs")
    assert "order accepted" not in shown
    assert "order restarted" not in shown
    assert logs.calls == 1


@pytest.mark.parametrize("option", [[], ["--no-logs"]])
def test_a_restart_by_the_sweep_is_found_whatever_promise_it_was_asked_to_keep(
    world: World, target: Target, logs: Logs, run: Run, option: list[str]
) -> None:
    # GIVEN an order that the runbook's sweep, with a promise of 600 s, restarted after half an hour
    world.store(an_order(order_id=MINE, placed_at=timestamp_before(1900)))
    target._clients["stepfunctions"] = Workflows(f"{MINE}-sweep-3")
    logs.add("SweepOrders", now_ms(), entry("order restarted", execution=f"{MINE}-sweep-3", level="WARNING"))

    # WHEN it is explained
    _, shown, _ = run("explain", MINE, "--json", *option)

    # THEN its execution is known: without one the order's event "has not started a workflow yet"
    assert json.loads(shown)["sentence"].startswith("Nobody is at work on it: its last workflow has ended")


def test_an_execution_that_belongs_to_another_order_is_not_taken(target: Target, order: Order) -> None:
    line = log_groups.LogLine(
        "2026-01-01T00:00:00.000Z", "SweepOrdersFunction", entry("x", execution=f"{OTHER}-sweep-1")
    )
    assert executions.started_by_sweep(target, MINE, [line]) == []


def test_the_workflows_lines_are_found_by_the_orders_executions(
    world: World, target: Target, logs: Logs, run: Run
) -> None:
    prefix = MACHINE.replace(":stateMachine:", ":execution:")
    item = an_order(order_id=MINE)
    world.store(item)
    world.dynamodb.update_item(
        TableName="OrdersTable",
        Key={"customerId": {"S": item.customer_id}, "orderId": {"S": MINE}},
        UpdateExpression="SET executionArn = :arn",
        ExpressionAttributeValues={":arn": {"S": f"{prefix}:mine"}},
    )
    failed = {"type": "TaskFailed", "details": {"error": "Boom", "cause": "why"}}
    logs.add("OrderWorkflow", now_ms(), {**failed, "execution_arn": f"{prefix}:mine"})
    logs.add("OrderWorkflow", now_ms(), {**failed, "execution_arn": f"{prefix}:mine-not"})

    _, shown, _ = run("logs", "--order", MINE, "--json")

    (line,) = (json.loads(each) for each in shown.splitlines())
    assert (line["component"], line["level"], line["message"]) == ("OrderWorkflow", "ERROR", "TaskFailed Boom: why")


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
