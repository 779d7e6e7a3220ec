"""The doctor and the smoke on a deployed stack: well as it is, and with things broken on purpose.

On a local cloud of its own, because what is broken here would break other tests.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from typer.testing import CliRunner

from orderctl import interrupts, lifecycle
from orderctl.cloud import server_process
from orderctl.cloud.state import Cloud
from orderctl.main import app
from orderctl.smoke import evidence
from orderctl.stack import records, throwaway
from orderctl.stack.description import describe
from orderctl.stack.target import Target, of_state
from orders.domain.clock import timestamp_before
from orders.inbox.healing import EVERYTHING, Hold, Holds
from tests.support import eventually


@pytest.fixture(scope="module")
def cloud(request: pytest.FixtureRequest) -> Iterator[Target]:
    mine = Cloud(f"test-doctor-{os.getpid()}")
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        state, _ = lifecycle.up(mine, server_process.free_port())
    failed_before = request.session.testsfailed
    yield of_state(state)
    lifecycle.down(mine)
    if request.session.testsfailed == failed_before:
        shutil.rmtree(mine.directory)


Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def ask(cloud: Target) -> Ask:
    """Return a function that runs a command with --json, checks its exit code and returns what the command says."""

    def run(*arguments: str, code: int = 0) -> Any:
        assert cloud.local is not None
        handlers = {number: signal.getsignal(number) for number in interrupts.SIGNALS}
        try:
            done = CliRunner().invoke(app, [*arguments, "--name", cloud.local.name, "--json"])
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        assert done.exit_code == code, done.stdout + done.stderr
        return json.loads(done.stdout)

    return run


def physical_id(cloud: Target, logical_id: str) -> str:
    return next(each.physical_id for each in describe(cloud).resources if each.logical_id == logical_id)


def test_a_stack_as_it_was_deployed_is_well(cloud: Target, ask: Ask) -> None:
    # GIVEN a stack whose scheduled functions have run for the first time: until then, two alarms miss them
    assert evidence.run_schedules(cloud, describe(cloud)) == []
    names = [physical_id(cloud, each) for each in ("SweepMissingAlarm", "HealingMissingAlarm")]
    eventually(lambda: quiet(cloud, names), "the alarms to notice")

    report = ask("doctor")
    assert report["findings"] == []
    # The local cloud has no Service Quotas: that isn't a pass.
    assert {each["check"] for each in report["notChecked"]} == {"start-execution", "put-events"}
    assert len(report["passed"]) > 15


def quiet(cloud: Target, names: list[str]) -> bool:
    alarms = cloud.client("cloudwatch").describe_alarms(AlarmNames=names)["MetricAlarms"]
    return all(each["StateValue"] == "OK" for each in alarms)


# ---- things broken on purpose -----------------------------------------------------------------------------------


@contextmanager
def mapping_disabled(cloud: Target) -> Iterator[None]:
    functions = cloud.client("lambda")
    uuid = physical_id(cloud, "ShipOrderFunctionFulfilment")
    functions.update_event_source_mapping(UUID=uuid, Enabled=False)
    yield
    functions.update_event_source_mapping(UUID=uuid, Enabled=True)


@contextmanager
def rule_disabled(cloud: Target) -> Iterator[None]:
    events, bus = cloud.client("events"), cloud.output("EventBusName")
    name = physical_id(cloud, "OrderEventsRule").rpartition("|")[2]
    events.disable_rule(Name=name, EventBusName=bus)
    yield
    events.enable_rule(Name=name, EventBusName=bus)


@contextmanager
def schedule_disabled(cloud: Target) -> Iterator[None]:
    scheduler, name = cloud.client("scheduler"), physical_id(cloud, "SweepSchedule")
    known = scheduler.get_schedule(Name=name)
    kept = {key: known[key] for key in ("Name", "ScheduleExpression", "FlexibleTimeWindow", "Target")}
    scheduler.update_schedule(**kept, State="DISABLED")
    yield
    scheduler.update_schedule(**kept, State="ENABLED")


@contextmanager
def catalogue_emptied(cloud: Target) -> Iterator[None]:
    dynamodb, table = cloud.client("dynamodb"), cloud.output("CatalogueTable")
    for item in dynamodb.scan(TableName=table)["Items"]:
        dynamodb.delete_item(TableName=table, Key={"sku": item["sku"]})
    yield
    lifecycle.seed_catalogue(cloud)


@contextmanager
def healing_held(cloud: Target) -> Iterator[None]:
    failures = records.failures_table(cloud)

    def hold(holds: Holds) -> None:
        holds.held[EVERYTHING] = Hold("ada", timestamp_before(2 * 86400), "every failure")

    failures.change_holds(hold)
    yield
    failures.change_holds(lambda holds: holds.held.clear())


@contextmanager
def failure_not_captured(cloud: Target) -> Iterator[None]:
    sqs, queue = cloud.client("sqs"), cloud.output("FailuresDeadLetterQueueUrl")
    sqs.send_message(QueueUrl=queue, MessageBody="?")
    yield
    sqs.purge_queue(QueueUrl=queue)


@contextmanager
def alarm_ringing(cloud: Target) -> Iterator[None]:
    cloudwatch, name = cloud.client("cloudwatch"), physical_id(cloud, "EventsLateAlarm")
    cloudwatch.set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="a test")
    yield
    cloudwatch.set_alarm_state(AlarmName=name, StateValue="OK", StateReason="a test")


@contextmanager
def retention_removed(cloud: Target) -> Iterator[None]:
    logs, group = cloud.client("logs"), physical_id(cloud, "AcceptOrderLogs")
    logs.delete_retention_policy(logGroupName=group)
    yield
    logs.put_retention_policy(logGroupName=group, retentionInDays=30)


@pytest.mark.parametrize(
    ("broken", "checks"),
    [
        (mapping_disabled, {"mappings", "queues"}),
        (rule_disabled, {"rules"}),
        (schedule_disabled, {"schedules"}),
        (catalogue_emptied, {"catalogue"}),
        (healing_held, {"healing"}),
        (failure_not_captured, {"dead-letters"}),
        (alarm_ringing, {"alarms"}),
        (retention_removed, {"log-retention"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_doctor_finds_what_is_broken(
    cloud: Target, ask: Ask, broken: Callable[[Target], AbstractContextManager[None]], checks: set[str]
) -> None:
    with broken(cloud):
        report = ask("doctor", code=1)
    assert {each["check"] for each in report["findings"]} >= checks
    assert {each["check"] for each in report["findings"]} <= checks | {"alarms"}


def test_a_rate_that_the_account_can_not_carry(ask: Ask) -> None:
    report = ask("doctor", "--expected-rate", "100000", code=1)
    assert {each["check"] for each in report["findings"]} == {"lambda-concurrency", "api-throttle"}


# ---- the smoke --------------------------------------------------------------------------------------------------


def contents(cloud: Target) -> dict[str, Any]:
    """What a smoke could leave behind, apart from logs, archived events and mails' idempotency keys."""
    dynamodb, s3 = cloud.client("dynamodb"), cloud.client("s3")
    tables = ("OrdersTable", "PaymentsTable", "ShipmentsTable", "CatalogueTable")
    found: dict[str, Any] = {name: dynamodb.scan(TableName=cloud.output(name))["Items"] for name in tables}
    failures = dynamodb.scan(TableName=cloud.output("FailuresTable"))["Items"]
    # How causes heal is nobody's failure.
    found["failures"] = [item for item in failures if "status" in item]
    found["receipts"] = s3.list_objects_v2(Bucket=cloud.output("ReceiptsBucket")).get("Contents", [])
    found["customers"] = throwaway.left_behind(cloud)
    return found


def test_a_smoke_is_well_and_leaves_nothing(cloud: Target, ask: Ask) -> None:
    before = contents(cloud)
    report = ask("smoke")

    assert report["ok"]
    assert [step["problems"] for step in report["steps"] if step["problems"]] == []
    assert report["removed"]["orders"] == report["cost"]["orders"] == 9
    assert 0 < report["cost"]["atMostUsd"] < 0.05
    assert contents(cloud) == before


@contextmanager
def permission_taken(cloud: Target) -> Iterator[None]:
    """Take the permission to write receipts from issue_receipt."""
    iam, role = cloud.client("iam"), physical_id(cloud, "IssueReceiptFunctionRole")
    names = iam.list_role_policies(RoleName=role)["PolicyNames"]
    policies = {name: iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"] for name in names}
    for name, policy in policies.items():
        without = [each for each in policy["Statement"] if "s3:PutObject" not in str(each["Action"])]
        iam.put_role_policy(
            RoleName=role, PolicyName=name, PolicyDocument=json.dumps({**policy, "Statement": without})
        )
    yield
    for name, policy in policies.items():
        iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=json.dumps(policy))


def test_a_smoke_finds_a_missing_permission(cloud: Target, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN a function that may not do its work
    monkeypatch.setattr("orderctl.demo.demonstration.CHECKS_TIMEOUT_S", 10.0)
    with permission_taken(cloud):
        report = ask("smoke", code=5)

    # THEN the smoke names the function and the permission
    said = [problem for step in report["steps"] for problem in step["problems"]]
    assert any("IssueReceiptFunction lacks a permission" in each and "s3:PutObject" in each for each in said)

    # THEN nothing stays: whatever may still write a receipt keeps its customer until it has ended
    if report["left"]:
        ask("smoke", "--remove", report["run"])
    assert throwaway.left_behind(cloud) == []
