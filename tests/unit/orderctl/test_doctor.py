"""The doctor's judgements by table, what it makes of AWS's answers, and what the command says."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from orderctl.cloud import deployment
from orderctl.cloud.state import CloudState
from orderctl.doctor import alarming, examination, quotas, settings, upkeep, wiring
from orderctl.doctor.alarming import Alarm, Topic
from orderctl.doctor.model import Check, Circumstances, Deployed, Finding, NotCheckable, Severity
from orderctl.doctor.quotas import Quota
from orderctl.doctor.settings import Healing
from orderctl.doctor.upkeep import Snapshots
from orderctl.doctor.wiring import Mapping, Queue, Switch
from orderctl.stack import records
from orderctl.stack.description import Description, Resource, describe
from orderctl.stack.target import Target
from orderctl.stack.throwaway import Left
from orders.domain.clock import timestamp, timestamp_before
from orders.inbox.healing import Hold
from orders.storage.dynamodb import to_item
from tests.integration.world import World
from tests.unit.orderctl.conftest import Run

PROD = Circumstances("prod", 50)
DEV = replace(PROD, environment="dev")
LOCAL = replace(PROD, environment="local")
QUEUE = "arn:aws:sqs:eu-central-1:1:Q"
STREAM = "arn:aws:dynamodb:eu-central-1:1:table/T/stream/S"
READ = Mapping("Stream", STREAM, "Enabled", "OK")
REAL = {"F": {"PAYMENT_PROVIDER": "ours", "MAILER": "ours"}}
TWO_DAYS_AGO = timestamp_before(2 * 86400)


@pytest.mark.parametrize(
    ("judge", "facts", "circumstances", "expected"),
    [
        (upkeep.judge_state, "UPDATE_COMPLETE", PROD, []),
        (upkeep.judge_state, "UPDATE_ROLLBACK_COMPLETE", PROD, ["medium: rolled back"]),
        (upkeep.judge_state, "UPDATE_ROLLBACK_FAILED", PROD, ["high: broke half-way"]),
        (upkeep.judge_state, "UPDATE_IN_PROGRESS", PROD, ["low: UPDATE_IN_PROGRESS"]),
        (upkeep.judge_code, False, PROD, []),
        (upkeep.judge_code, True, PROD, ["low: isn't that of this checkout"]),
        (upkeep.judge_catalogue, True, PROD, []),
        (upkeep.judge_catalogue, False, PROD, ["high: catalogue is empty"]),
        (upkeep.judge_catalogue, False, DEV, ["medium: catalogue is empty"]),
        (upkeep.judge_snapshots, [Snapshots("F", [])], PROD, []),
        (upkeep.judge_snapshots, [Snapshots("F", ["1", "2"])], PROD, ["low: 2 SnapStart versions"]),
        (upkeep.judge_indexes, ["newest-first", "open-by-shard"], PROD, []),
        (upkeep.judge_indexes, ["newest-first", "open-orders"], PROD, ["low: open-orders"]),
        (upkeep.judge_log_groups, [], PROD, []),
        (upkeep.judge_log_groups, ["/a", "/b"], PROD, ["low: /a has no retention", "low: /b has no retention"]),
        (upkeep.judge_left_behind, [Left("now", timestamp())], PROD, []),
        (upkeep.judge_left_behind, [Left("1f2e", TWO_DAYS_AGO)], PROD, ["low: smoke 1f2e"]),
        (wiring.judge_mappings, [READ], PROD, []),
        (wiring.judge_mappings, [replace(READ, state="Updating")], PROD, []),
        (wiring.judge_mappings, [], PROD, ["high: No function reads the orders table's stream"]),
        (wiring.judge_mappings, [replace(READ, state="Disabled")], PROD, ["high: reads its stream"]),
        (wiring.judge_mappings, [READ, Mapping("M", QUEUE, "Disabling")], PROD, ["high: reads its queue"]),
        (wiring.judge_mappings, [replace(READ, last_result="PROBLEM: denied")], PROD, ["high: PROBLEM: denied"]),
        (wiring.judge_queues, [Queue("Q", QUEUE, 1, False), Queue("Dead", QUEUE, 0, True)], PROD, []),
        (wiring.judge_queues, [Queue("Q", QUEUE, 0, False)], PROD, ["high: Nobody reads the queue Q"]),
        (wiring.judge_switches, [Switch("rule", "R", "ENABLED")], PROD, []),
        # A rule of AWS's own form for management events is enabled, too.
        (wiring.judge_switches, [Switch("rule", "R", "ENABLED_WITH_ALL_CLOUDTRAIL_MANAGEMENT_EVENTS")], PROD, []),
        (wiring.judge_switches, [Switch("rule", "R", "DISABLED")], PROD, ["high: The rule R is disabled"]),
        (wiring.judge_switches, [Switch("schedule", "S", "DISABLED")], PROD, ["high: The schedule S is disabled"]),
        (alarming.judge_topics, [Topic("T", 1, 1)], PROD, []),
        (alarming.judge_topics, [Topic("T", 0, 0)], LOCAL, []),
        (alarming.judge_topics, [Topic("T", 0, 0)], PROD, ["high: Nobody is subscribed to T"]),
        (alarming.judge_topics, [Topic("T", 0, 0)], DEV, ["medium: Nobody is subscribed to T"]),
        (alarming.judge_topics, [Topic("T", 0, 1)], PROD, ["high: waits to be confirmed"]),
        (alarming.judge_alarms, [Alarm("A", "OK"), Alarm("B", "INSUFFICIENT_DATA")], PROD, []),
        (alarming.judge_alarms, [Alarm("A", "ALARM", "because")], PROD, ["high: A is in ALARM: because"]),
        (alarming.judge_alarms, [Alarm("A", "OK", "", False)], PROD, ["medium: actions of A are switched off"]),
        (alarming.judge_dead_letters, 0, PROD, []),
        (alarming.judge_dead_letters, 3, PROD, ["high: about 3"]),
        (settings.judge_parameters, {"LogLevel": "INFO", "WorkflowLogLevel": "ERROR"}, PROD, []),
        (settings.judge_parameters, {"LogLevel": "DEBUG", "WorkflowLogLevel": "ALL"}, DEV, []),
        (
            settings.judge_parameters,
            {"LogLevel": "DEBUG", "WorkflowLogLevel": "ALL"},
            PROD,
            ["medium: LogLevel is DEBUG", "low: WorkflowLogLevel is ALL"],
        ),
        (settings.judge_sign_in, ["ALLOW_USER_SRP_AUTH"], PROD, []),
        (settings.judge_sign_in, ["ALLOW_USER_PASSWORD_AUTH"], DEV, []),
        (settings.judge_sign_in, ["ALLOW_USER_PASSWORD_AUTH"], PROD, ["medium: USER_PASSWORD_AUTH"]),
        (settings.judge_providers, REAL, PROD, []),
        (settings.judge_providers, {"F": {"MAILER": "simulated"}}, DEV, []),
        (settings.judge_providers, {**REAL, "G": {"MAILER": "simulated"}}, PROD, ["high: MAILER of prod: simulated"]),
        (settings.judge_healing, Healing(True, {"x": timestamp()}), PROD, []),
        (settings.judge_healing, Healing(False, {}), PROD, ["medium: switched off"]),
        (settings.judge_healing, Healing(True, {"the mail": TWO_DAYS_AGO}), PROD, ["medium: Healing of the mail"]),
        (quotas.judge, [Quota("Q", 100, 2)], PROD, []),
        (quotas.judge, [Quota("Q", 99, 2)], PROD, ["high: Q is 99; 50 orders a second need 100"]),
        (quotas.judge, [Quota("Q", 99, 2)], replace(PROD, expected_rate=10), []),
    ],
)
def test_judgements(
    judge: Callable[[Any, Circumstances], list[Finding]],
    facts: Any,
    circumstances: Circumstances,
    expected: list[str],
) -> None:
    found = judge(facts, circumstances)
    assert len(found) == len(expected)
    for finding, wanted in zip(found, expected, strict=True):
        severity, _, words = wanted.partition(": ")
        assert finding.severity == severity
        assert words in finding.what
        assert finding.do


# ---- what AWS answers --------------------------------------------------------------------------------------------


class Answers:
    """A client whose operations answer as they are told; a paginator's pages are that answer alone."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def call(**asked: Any) -> Any:
            self.asked.append((operation, asked))
            answer = self.answers[operation]
            return answer(**asked) if callable(answer) else answer

        return call

    def get_paginator(self, operation: str) -> Any:
        return Pages(lambda **asked: [getattr(self, operation)(**asked)])


class Pages:
    def __init__(self, paginate: Callable[..., list[Any]]) -> None:
        self.paginate = paginate


def stack(target: Target, *resources: tuple[str, str, str], **parameters: str) -> Deployed:
    tags: dict[str, str] = {}
    kinds = tuple(Resource(*each) for each in resources)
    return Deployed(target, Description("orders-test", "UPDATE_COMPLETE", parameters, tags, kinds))


def test_the_stack_is_described(target: Target) -> None:
    listed = {"LogicalResourceId": "Q", "ResourceType": "AWS::SQS::Queue", "PhysicalResourceId": "url"}
    target._clients["cloudformation"] = Answers(
        describe_stacks={
            "Stacks": [
                {
                    "StackStatus": "CREATE_COMPLETE",
                    "Parameters": [{"ParameterKey": "Environment", "ParameterValue": "dev"}],
                    "Tags": [{"Key": "commit", "Value": "abc"}],
                }
            ]
        },
        # A resource that is being created has no id yet.
        list_stack_resources={
            "StackResourceSummaries": [listed, {"LogicalResourceId": "R", "ResourceType": "AWS::SQS::Queue"}]
        },
    )
    found = describe(target)
    assert (found.name, found.environment, found.tags) == ("orders-test", "dev", {"commit": "abc"})
    assert found.of_kind("AWS::SQS::Queue") == {"Q": "url", "R": ""}


def test_a_stack_of_unknown_environment_counts_as_prod(target: Target) -> None:
    assert stack(target).description.environment == "prod"


def read(check_name: str, deployed: Deployed) -> Any:
    (check,) = (each for each in examination.CHECKS if each.name == check_name)
    return check.read(deployed)


def test_a_rule_on_a_bus_of_its_own_is_asked_for_by_its_name(target: Target) -> None:
    events = Answers(describe_rule={"State": "DISABLED"})
    target._clients["events"] = events
    assert read("rules", stack(target, ("R", "AWS::Events::Rule", "bus|the-rule"))) == [
        Switch("rule", "R", "DISABLED")
    ]
    assert events.asked == [("describe_rule", {"Name": "the-rule", "EventBusName": "orders-test-orders"})]


def test_healing_that_is_off_by_its_parameter_is_not_found_twice(target: Target) -> None:
    target._clients["scheduler"] = Answers(get_schedule={"State": "DISABLED"})
    resources = [(name, "AWS::Scheduler::Schedule", name) for name in ("HealSchedule", "SweepSchedule")]
    off = stack(target, *resources, SelfHealing="false")
    assert [each.name for each in read("schedules", off)] == ["SweepSchedule"]
    on = stack(target, *resources, SelfHealing="true")
    assert [each.name for each in read("schedules", on)] == ["HealSchedule", "SweepSchedule"]


def test_only_confirmed_subscribers_count(target: Target) -> None:
    subscriptions = [{"SubscriptionArn": arn} for arn in ("arn:aws:sns:x", "PendingConfirmation", "Deleted")]
    target._clients["sns"] = Answers(list_subscriptions_by_topic={"Subscriptions": subscriptions})
    assert read("subscribers", stack(target, ("T", "AWS::SNS::Topic", "arn"))) == [Topic("T", 1, 1)]


def test_a_dead_letter_queue_is_read_by_its_alarm(target: Target) -> None:
    target._clients["sqs"] = Answers(
        get_queue_attributes=lambda QueueUrl, **_: {"Attributes": {"QueueArn": f"arn:aws:sqs:r:1:{QueueUrl}"}}  # noqa: N803
    )
    target._clients["cloudwatch"] = Answers(
        describe_alarms={
            "MetricAlarms": [
                {
                    "MetricName": "ApproximateNumberOfMessagesVisible",
                    "Dimensions": [{"Name": "QueueName", "Value": "dead"}],
                },
                # The age of the oldest message rings too late to stand for a reader.
                {"MetricName": "ApproximateAgeOfOldestMessage", "Dimensions": [{"Name": "QueueName", "Value": "q"}]},
            ]
        }
    )
    target._clients["lambda"] = Answers(
        get_event_source_mapping={"EventSourceArn": "arn:aws:sqs:r:1:read", "State": "Enabled"}
    )
    kinds = [(name, "AWS::SQS::Queue", name) for name in ("read", "dead", "q")]
    deployed = stack(
        target, *kinds, ("M", "AWS::Lambda::EventSourceMapping", "uuid"), ("A", "AWS::CloudWatch::Alarm", "a")
    )
    assert {each.name: (each.readers, each.watched) for each in read("queues", deployed)} == {
        "read": (1, False),
        "dead": (0, True),
        "q": (0, False),
    }


def test_the_quota_of_express_workflows_is_found_by_its_name(target: Target) -> None:
    listed = [
        {"QuotaName": "StartExecution throttle token refill rate per second", "Value": 300.0},
        {"QuotaName": "Express StartExecution throttle token refill rate per second", "Value": 6000.0},
    ]
    target._clients["service-quotas"] = Answers(list_service_quotas={"Quotas": listed})
    assert [each.value for each in read("start-execution", stack(target))] == [6000.0]

    # WHEN AWS names them otherwise, nothing is made up
    target._clients["service-quotas"] = Answers(list_service_quotas={"Quotas": listed[:1]})
    with pytest.raises(NotCheckable, match="express"):
        read("start-execution", stack(target))


def test_the_stage_and_the_account_both_limit_the_api(target: Target) -> None:
    target.outputs["ApiId"] = "api"
    target._clients["apigateway"] = Answers(
        get_account={"throttleSettings": {"rateLimit": 10_000.0, "burstLimit": 5000}},
        get_stages={"item": [{"stageName": "v1", "methodSettings": {"*/*": {"throttlingRateLimit": 60.0}}}]},
    )
    found = quotas.judge(read("api-throttle", stack(target)), PROD)
    assert ["v1" in each.what for each in found] == [True]


def test_snapshots_are_the_versions_that_no_alias_names(target: Target) -> None:
    def version(number: str, apply_on: str = "PublishedVersions") -> dict[str, Any]:
        return {"Version": number, "SnapStart": {"ApplyOn": apply_on}}

    target._clients["lambda"] = Answers(
        list_versions_by_function={
            "Versions": [version("$LATEST"), version("1", "None"), version("2"), version("3"), {"Version": "0"}]
        },
        list_aliases={"Aliases": [{"FunctionVersion": "3"}]},
    )
    assert read("snapshots", stack(target, ("F", "AWS::Lambda::Function", "f"))) == [Snapshots("F", ["2"])]


def test_a_log_group_that_aws_made_for_a_function_counts(target: Target) -> None:
    groups = [
        {"logGroupName": "/aws/lambda/f"},
        {"logGroupName": "mine", "retentionInDays": 30},
        {"logGroupName": "somebody-elses"},
    ]
    target._clients["logs"] = Answers(describe_log_groups={"logGroups": groups})
    deployed = stack(target, ("F", "AWS::Lambda::Function", "f"), ("L", "AWS::Logs::LogGroup", "mine"))
    assert read("log-retention", deployed) == ["/aws/lambda/f"]


def test_what_is_held_is_read_from_the_inbox(target: Target) -> None:
    failures = records.failures_table(target)

    def hold(holds: Any) -> None:
        holds.held["*"] = Hold("ada", TWO_DAYS_AGO, "every failure")

    failures.change_holds(hold)
    assert read("healing", stack(target, SelfHealing="true")) == Healing(True, {"every failure": TWO_DAYS_AGO})
    with pytest.raises(NotCheckable, match="without self-healing"):
        read("healing", stack(target))


def test_a_hold_that_can_not_be_read_is_no_pass(target: Target, world: World) -> None:
    world.dynamodb.put_item(TableName="FailuresTable", Item=to_item({"failureId": "healing#holds", "held": "?"}))
    with pytest.raises(NotCheckable, match="can't be read"):
        read("healing", stack(target, SelfHealing="true"))


def test_an_empty_catalogue(target: Target, world: World) -> None:
    before = read("catalogue", stack(target))
    world.dynamodb.put_item(TableName="CatalogueTable", Item={"sku": {"S": "TEA"}})
    assert (before, read("catalogue", stack(target))) == (False, True)


def git(folder: Path, *arguments: str) -> str:
    author = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    done = subprocess.run(["git", *author, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_deployed_code_is_compared_with_the_checkout_by_the_stacks_tag(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a checkout whose deployed commit is older than its documentation, not than its code
    monkeypatch.setattr(upkeep, "ROOT", tmp_path)
    git(tmp_path, "init", "-q")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "code.py").write_text("1")
    for path in ("statemachine", "template.yaml", "README.md"):
        (tmp_path / path).write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    deployed = stack(target)
    with pytest.raises(NotCheckable, match="--tags"):
        read("code", deployed)
    deployed.description.tags["commit"] = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "README.md").write_text("2")
    assert read("code", deployed) is False

    # WHEN the code changes
    (tmp_path / "src" / "code.py").write_text("2")
    assert read("code", deployed) is True

    # WHEN the checkout doesn't know the commit
    deployed.description.tags["commit"] = "0" * 40
    with pytest.raises(NotCheckable, match="doesn't know"):
        read("code", deployed)


def test_a_local_cloud_knows_what_was_deployed(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "fingerprint", lambda _: "new")
    target.local = CloudState("default", 4566, 1, "i", "now", "python3.13", "s", "f")
    target.local.deployed = "old"
    assert read("code", stack(target)) is True
    target.local.deployed = "new"
    assert read("code", stack(target)) is False


# ---- the report --------------------------------------------------------------------------------------------------


def refuse(error: Exception) -> Callable[[Deployed], Any]:
    def fail(_: Deployed) -> Any:
        raise error

    return fail


LOW = Finding(Severity.LOW, "It is untidy.", "Tidy up.")
HIGH = Finding(Severity.HIGH, "It is broken.", "Mend it.")


def check(name: str, *found: Finding, error: Exception | None = None) -> Check[Any]:
    return Check(name, refuse(error) if error else lambda _: None, lambda *_: list(found))


Given = Callable[..., None]


@pytest.fixture
def given(described: None, monkeypatch: pytest.MonkeyPatch) -> Given:
    """Return a function that puts checks in the place of all."""
    return lambda *checks: monkeypatch.setattr(examination.examine, "__defaults__", (checks,))


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> None:
    description = Description("orders-test", "UPDATE_COMPLETE", {"Environment": "dev"}, {}, ())
    monkeypatch.setattr(examination, "describe", lambda _: description)


def test_a_check_that_can_not_be_made_is_no_pass(target: Target, described: None) -> None:
    denied = ClientError({"Error": {"Code": "AccessDenied", "Message": "not you"}}, "ListServiceQuotas")
    report = examination.examine(
        target,
        50,
        [
            check("well"),
            check("untidy", LOW),
            check("broken", HIGH),
            check("denied", error=denied),
            check("away", error=EndpointConnectionError(endpoint_url="https://x")),
            check("odd", error=KeyError("Quotas")),
            check("cannot", error=NotCheckable("it has no tag")),
        ],
    )
    assert report.passed == ["well"]
    assert [name for name, _ in report.findings] == ["broken", "untidy"]
    assert set(report.not_checked) == {"denied", "away", "odd", "cannot"}
    assert "AccessDenied not you" in report.not_checked["denied"]
    assert "Quotas" in report.not_checked["odd"]


def test_every_check_has_a_name_of_its_own() -> None:
    names = [each.name for each in examination.CHECKS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("checks", "code"),
    [
        ((check("well"),), 0),
        ((check("well"), check("cannot", error=NotCheckable("why"))), 0),
        ((check("x", LOW),), 1),
    ],
)
def test_the_exit_code_says_whether_something_was_found(
    run: Run, target: Target, given: Given, checks: tuple[Check[Any]], code: int
) -> None:
    given(*checks)
    exit_code, stdout, _ = run("doctor", "--json")
    assert exit_code == code
    assert json.loads(stdout)["ok"] is (code == 0)


def test_the_report_names_the_gravest_first_and_what_it_could_not_check(
    run: Run, target: Target, given: Given
) -> None:
    given(check("untidy", LOW), check("broken", HIGH), check("cannot", error=NotCheckable("it has no tag")))
    _, stdout, _ = run("doctor")
    assert stdout.index("It is broken.") < stdout.index("It is untidy.") < stdout.index("not checked")
    assert "Mend it." in stdout
    assert "it has no tag" in stdout
    assert "2 findings about the stack orders-test (dev); 0 checks passed, 1 could not be made." in stdout
