"""Whether everything that should run does: queues are read, mappings, rules and schedules are enabled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orderctl.doctor.model import Check, Circumstances, Deployed, Finding, NotCheckable, Severity
from orderctl.stack.description import alarms

# The words of event source mappings that read, or are about to.
READING = {"Enabled", "Enabling", "Creating", "Updating"}


@dataclass(frozen=True)
class Mapping:
    """An event source mapping: its source's ARN, its state and the result of its last batch."""

    name: str
    source_arn: str
    state: str
    last_result: str = ""


@dataclass(frozen=True)
class Queue:
    """A queue: its ARN, how many mappings read it, and whether an alarm rings as soon as it holds a message."""

    name: str
    arn: str
    readers: int
    watched: bool


@dataclass(frozen=True)
class Switch:
    """Something that is on or off: a rule or a schedule."""

    kind: str
    name: str
    state: str


def judge_mappings(mappings: list[Mapping], _: Circumstances) -> list[Finding]:
    """Find the mappings that don't read, and those whose last batch was a problem."""
    found = []
    for each in mappings:
        source = each.source_arn.split(":")[2:3]
        kind = "stream" if source == ["dynamodb"] else "queue"
        if each.state not in READING:
            found.append(
                Finding(
                    Severity.HIGH,
                    f"The mapping {each.name} is {each.state}: nothing reads its {kind}.",
                    "Enable it: aws lambda update-event-source-mapping --enabled --uuid …"
                    + (" A stream keeps 24 hours." if kind == "stream" else ""),
                )
            )
        elif each.last_result.upper().startswith("PROBLEM"):
            what = f"The mapping {each.name} can't read its {kind}: {each.last_result}"
            found.append(Finding(Severity.HIGH, what, "Look at the function's permissions and at its log."))
    if not any(":dynamodb:" in each.source_arn for each in mappings):
        what = "No function reads the orders table's stream: orders are accepted and stand still."
        found.append(Finding(Severity.HIGH, what, "Deploy the stack again."))
    return found


def judge_queues(queues: list[Queue], _: Circumstances) -> list[Finding]:
    """Find the queues that nobody reads. A dead-letter queue with an alarm is meant to lie still."""
    return [
        Finding(
            Severity.HIGH,
            f"Nobody reads the queue {each.name}.",
            "Enable or deploy the event source mapping of its function.",
        )
        for each in queues
        if not each.readers and not each.watched
    ]


def judge_switches(switches: list[Switch], _: Circumstances) -> list[Finding]:
    """Find the rules and schedules that are off."""
    lost = {
        "rule": "Events that match are dropped. Enable the rule, then `orderctl replay` the time that it was off.",
        "schedule": "Enable the schedule: set its state in the console, or deploy the stack again.",
    }
    return [
        Finding(Severity.HIGH, f"The {each.kind} {each.name} is {each.state.lower()}.", lost[each.kind])
        for each in switches
        if not each.state.startswith("ENABLED")
    ]


def _mappings(deployed: Deployed) -> list[Mapping]:
    functions = deployed.target.client("lambda")
    found = []
    for logical_id, uuid in deployed.description.of_kind("AWS::Lambda::EventSourceMapping").items():
        mapping = functions.get_event_source_mapping(UUID=uuid)
        arn, state = mapping["EventSourceArn"], mapping["State"]
        found.append(Mapping(logical_id, arn, state, mapping.get("LastProcessingResult", "")))
    return found


def _queues(deployed: Deployed) -> list[Queue]:
    read = [each.source_arn for each in _mappings(deployed) if each.state in READING]
    watched = {
        dimension["Value"]
        for alarm in alarms(deployed.target, deployed.description)
        if alarm.get("MetricName") == "ApproximateNumberOfMessagesVisible"
        for dimension in alarm.get("Dimensions", [])
    }
    sqs = deployed.target.client("sqs")
    found = []
    for logical_id, url in deployed.description.of_kind("AWS::SQS::Queue").items():
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        found.append(Queue(logical_id, arn, read.count(arn), arn.rpartition(":")[2] in watched))
    return found


def _rules(deployed: Deployed) -> list[Switch]:
    events, bus = deployed.target.client("events"), deployed.target.output("EventBusName")
    rules = deployed.description.of_kind("AWS::Events::Rule")
    # CloudFormation's id of a rule on a bus of its own is bus|rule.
    return [
        Switch("rule", name, events.describe_rule(Name=physical.rpartition("|")[2], EventBusName=bus)["State"])
        for name, physical in rules.items()
    ]


def _schedules(deployed: Deployed) -> list[Switch]:
    schedules = deployed.description.of_kind("AWS::Scheduler::Schedule")
    if not schedules:
        raise NotCheckable("the stack has no schedule")
    scheduler = deployed.target.client("scheduler")
    healing_is_off = deployed.description.parameters.get("SelfHealing") == "false"  # a finding of its own
    return [
        Switch("schedule", name, scheduler.get_schedule(Name=physical)["State"])
        for name, physical in schedules.items()
        if not (healing_is_off and name == "HealSchedule")
    ]


CHECKS: list[Check[Any]] = [
    Check("mappings", _mappings, judge_mappings),
    Check("queues", _queues, judge_queues),
    Check("rules", _rules, judge_switches),
    Check("schedules", _schedules, judge_switches),
]
