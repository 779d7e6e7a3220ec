"""Whether somebody hears of trouble, and whether there is any now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orderctl.doctor.model import Check, Circumstances, Deployed, Finding, Severity
from orderctl.stack.description import alarms


@dataclass(frozen=True)
class Topic:
    """A topic that alarms are sent to: how many subscribers have confirmed, how many haven't yet."""

    name: str
    confirmed: int
    pending: int


@dataclass(frozen=True)
class Alarm:
    """A metric alarm: its state, CloudWatch's reason, and whether its actions are switched on."""

    name: str
    state: str
    reason: str = ""
    actions_enabled: bool = True


def judge_topics(topics: list[Topic], circumstances: Circumstances) -> list[Finding]:
    """Find the topics that nobody hears. The local cloud mails nobody."""
    if circumstances.is_local:
        return []
    severity = Severity.HIGH if circumstances.is_prod else Severity.MEDIUM
    found = []
    for each in topics:
        if each.confirmed:
            continue
        if each.pending:
            what = f"The subscription to {each.name} waits to be confirmed: its alarms reach nobody."
            found.append(Finding(severity, what, "Follow the link in AWS's mail, or subscribe somebody else."))
        else:
            what = f"Nobody is subscribed to {each.name}: its alarms reach nobody."
            do = "Deploy with AlarmEmail set, or subscribe your paging service to the topic."
            found.append(Finding(severity, what, do))
    return found


def judge_alarms(alarms: list[Alarm], _: Circumstances) -> list[Finding]:
    """Find the alarms that ring, and those that can't."""
    found = []
    for each in alarms:
        if each.state == "ALARM":
            what = f"{each.name} is in ALARM: {each.reason}"
            found.append(Finding(Severity.HIGH, what, "Look it up in docs/operations.md, under Alarms."))
        if not each.actions_enabled:
            what = f"The actions of {each.name} are switched off: it would reach nobody."
            do = "Switch them on: aws cloudwatch enable-alarm-actions --alarm-names …"
            found.append(Finding(Severity.MEDIUM, what, do))
    return found


def judge_dead_letters(waiting: int, _: Circumstances) -> list[Finding]:
    """Find failures that could not be captured."""
    if not waiting:
        return []
    what = f"FailuresDeadLetterQueue has messages, about {waiting}: failures that could not be captured."
    return [Finding(Severity.HIGH, what, "See docs/operations.md, Capturing fails. A message is kept for 14 days.")]


def _topics(deployed: Deployed) -> list[Topic]:
    sns = deployed.target.client("sns")
    found = []
    for logical_id, arn in deployed.description.of_kind("AWS::SNS::Topic").items():
        pages = sns.get_paginator("list_subscriptions_by_topic").paginate(TopicArn=arn)
        arns = [each["SubscriptionArn"] for page in pages for each in page["Subscriptions"]]
        confirmed = sum(each.startswith("arn:") for each in arns)  # else PendingConfirmation or Deleted
        found.append(Topic(logical_id, confirmed, arns.count("PendingConfirmation")))
    return found


def _alarms(deployed: Deployed) -> list[Alarm]:
    names = {
        physical: logical for logical, physical in deployed.description.of_kind("AWS::CloudWatch::Alarm").items()
    }
    return [
        Alarm(
            names[each["AlarmName"]],
            each["StateValue"],
            each.get("StateReason", ""),
            each.get("ActionsEnabled", True),
        )
        for each in alarms(deployed.target, deployed.description)
    ]


def _dead_letters(deployed: Deployed) -> int:
    answer = deployed.target.client("sqs").get_queue_attributes(
        QueueUrl=deployed.target.output("FailuresDeadLetterQueueUrl"), AttributeNames=["ApproximateNumberOfMessages"]
    )
    return int(answer["Attributes"]["ApproximateNumberOfMessages"])


CHECKS: list[Check[Any]] = [
    Check("subscribers", _topics, judge_topics),
    Check("alarms", _alarms, judge_alarms),
    Check("dead-letters", _dead_letters, judge_dead_letters),
]
