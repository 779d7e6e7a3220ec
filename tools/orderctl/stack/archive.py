"""The event archive of a stack's bus: create it on a local cloud, and replay events from it."""

from __future__ import annotations

import datetime
import time
from contextlib import suppress
from itertools import islice
from typing import Any

from orderctl.exits import Exit, Stop
from orderctl.stack import logs
from orderctl.stack.target import Target
from orderctl.ui import console

POLL_S = 1.0
MOST_COUNTED = 100_000
ENDED = frozenset({"COMPLETED", "CANCELLED", "FAILED"})


def create_archive(target: Target) -> None:
    """Create the archive on a local cloud's bus; the emulator knows archives by API, not in a template."""
    events = target.client("events")
    bus = events.describe_event_bus(Name=target.outputs["EventBusName"])
    with suppress(events.exceptions.ResourceAlreadyExistsException):
        events.create_archive(
            ArchiveName=f"{target.outputs['EventBusName'][-40:]}-archive",
            EventSourceArn=bus["Arn"],
            Description="Every order event, for replay",
            EventPattern='{"source": ["orders"]}',
            RetentionDays=30,
        )


def archive_of(target: Target) -> dict[str, Any]:
    """Return the bus's archive as DescribeArchive does; Stop(NO_TARGET) if the bus has none."""
    events = target.client("events")
    found = events.list_archives(EventSourceArn=target.output("EventBusArn"))["Archives"]
    if not found:
        raise Stop(Exit.NO_TARGET, f"The bus of {target.name} has no archive.", "Nothing can be replayed.")
    archive: dict[str, Any] = events.describe_archive(ArchiveName=found[0]["ArchiveName"])
    return archive


def rules_of(target: Target, words: list[str]) -> dict[str, str]:
    """Return the ARNs, by name, of the bus's rules whose name contains one of the words; without words, all rules.

    Rules that AWS services manage, such as the archive's own, are left out. Raises Stop(USAGE) for a word that no
    rule's name contains.
    """
    pages = target.client("events").get_paginator("list_rules").paginate(EventBusName=target.output("EventBusName"))
    known = {rule["Name"]: rule["Arn"] for page in pages for rule in page["Rules"] if "ManagedBy" not in rule}
    for word in words:
        if not any(word.lower() in name.lower() for name in known):
            raise Stop(Exit.USAGE, f"No rule is called {word!r}.", f"The rules are: {', '.join(sorted(known))}.")
    return {
        name: arn for name, arn in known.items() if not words or any(word.lower() in name.lower() for word in words)
    }


def archived_events(target: Target, since: datetime.datetime, until: datetime.datetime) -> int:
    """Return how many events were published between two times; MOST_COUNTED at most.

    EventBridge does not say how many events a replay sends. The log of publish_events has one line for each event
    and is kept as long as the archive.
    """
    (group,) = logs.groups_of(target, "PublishEventsFunction").values()
    start_ms, end_ms = (int(each.timestamp() * 1000) for each in (since, until))
    found = logs.events(target, group, '"event published"', start_ms, end_ms)
    return sum(1 for _ in islice(found, MOST_COUNTED))


def begin_replay(
    target: Target, archive_arn: str, since: datetime.datetime, until: datetime.datetime, rule_arns: list[str]
) -> str:
    """Start a replay to these rules, to every rule if the list is empty, and return the replay's name."""
    replay_name = f"orderctl-{int(time.time() * 1000)}"
    target.client("events").start_replay(
        ReplayName=replay_name,
        EventSourceArn=archive_arn,
        EventStartTime=since,
        EventEndTime=until,
        Destination={"Arn": target.output("EventBusArn"), **({"FilterArns": rule_arns} if rule_arns else {})},
    )
    return replay_name


def replay_state(target: Target, replay_name: str) -> dict[str, Any]:
    """Return a replay as DescribeReplay does."""
    state: dict[str, Any] = target.client("events").describe_replay(ReplayName=replay_name)
    return state


def wait_for_replay(target: Target, replay_name: str, timeout_s: float) -> dict[str, Any]:
    """Wait for a replay's end and return its state; Stop(NOT_AS_EXPECTED) if it lasts longer than `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    with console.step(f"Replaying ({replay_name})") as note:
        while True:
            state = replay_state(target, replay_name)
            if state["State"] in ENDED:
                return state
            if time.monotonic() > deadline:
                raise Stop(
                    Exit.NOT_AS_EXPECTED,
                    f"The replay {replay_name} is still {state['State']} after {timeout_s:.0f} s.",
                    "The replay continues without orderctl.",
                )
            note(f"{state['State']}, last event of {state.get('EventLastReplayedTime', 'none yet')}")
            time.sleep(POLL_S)
