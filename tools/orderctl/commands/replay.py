"""Send archived events to the bus again: what was lost on the way arrives, what arrived before changes nothing."""

from __future__ import annotations

import datetime
import time
from itertools import islice
from typing import Annotated, Any

import typer

from orderctl.cloud.state import DEFAULT_NAME
from orderctl.commands import logs
from orderctl.exits import Exit, Stop
from orderctl.options import Json, Name, Profile, Region, Stack
from orderctl.stack.target import Target
from orderctl.ui import console

POLL_S = 1.0
MOST_COUNTED = 100_000
ENDED = frozenset({"COMPLETED", "CANCELLED", "FAILED"})


def replay(
    *,
    start: Annotated[str, typer.Option("--from", help="Events from this time on (ISO 8601; UTC unless it says).")],
    end: Annotated[str, typer.Option("--to", help="Up to this time.")],
    rule: Annotated[
        list[str] | None, typer.Option("--rule", help="Only to this rule (part of its name); may be repeated.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be replayed to whom.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until the replay has ended.")] = True,
    timeout: Annotated[float, typer.Option(min=1, help="With --wait: give up waiting after so many seconds.")] = 3600,
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Replay archived order events, to every rule or to some.

    Safe at any time: consumers know an event by its id. Mails are remembered longer than the archive keeps events.
    """
    from orderctl.stack import target  # noqa: PLC0415

    since, until = moment(start), moment(end)
    if since >= until:
        raise Stop(Exit.USAGE, "--from must be before --to.", "Both are times, such as 2026-11-20T09:00Z.")
    if since > datetime.datetime.now(datetime.UTC):
        raise Stop(Exit.USAGE, f"Nothing has been archived after {start} yet.", "Choose an earlier --from.")
    there = target.choose(stack, name, profile, region)
    archive = archive_of(there)
    rules = rules_of(there, rule or [])
    names = ", ".join(sorted(rules))
    archived = archived_events(there, since, until)
    held = f"{'more than ' if archived == MOST_COUNTED else ''}{console.count(archived, 'event')}"
    if dry_run:
        if as_json:
            console.emit_json(
                {
                    "archive": archive["ArchiveName"],
                    "from": since,
                    "to": until,
                    "rules": sorted(rules),
                    "archivedEvents": archived,
                }
            )
        else:
            console.out.print(
                f"Would replay from {since} to {until}, to: {names}. The archive {archive['ArchiveName']} holds "
                f"{held} of that time; each rule gets those that fit its pattern, so it may be fewer.",
                markup=False,
            )
        return
    # Every rule is meant by leaving the filter out, so that a rule made in the meantime is reached too.
    replay_name = begin(there, archive["ArchiveArn"], since, until, sorted(rules.values()) if rule else [])
    events = there.client("events")
    state = wait_for(events, replay_name, timeout) if wait else events.describe_replay(ReplayName=replay_name)
    if as_json:
        console.emit_json(
            {
                "replay": replay_name,
                "state": state["State"],
                "rules": sorted(rules),
                "archivedEvents": archived,
                "lastEventAt": state.get("EventLastReplayedTime"),
            }
        )
    else:
        console.out.print(
            f"Replay {replay_name} to {names}: {state['State']}. The archive holds {held} of that time (as many as "
            "publish_events logged); each rule got those that fit its pattern.",
            markup=False,
        )
    if state["State"] in {"FAILED", "CANCELLED"}:
        raise Stop(Exit.NOT_AS_EXPECTED, f"The replay is {state['State']}: {state.get('StateReason', 'no reason')}.")


def archived_events(there: Target, since: datetime.datetime, until: datetime.datetime) -> int:
    """Return how many events were published in that time, MOST_COUNTED at most.

    EventBridge says of no replay how many events it sends. The log of publish_events has a line for each event, and
    is kept as long as the archive.
    """
    (group,) = logs.groups_of(there, "PublishEventsFunction").values()
    start_ms, end_ms = (int(each.timestamp() * 1000) for each in (since, until))
    found = logs.events(there, group, '"event published"', start_ms, end_ms)
    return sum(1 for _ in islice(found, MOST_COUNTED))


def begin(
    there: Target, archive_arn: str, since: datetime.datetime, until: datetime.datetime, rule_arns: list[str]
) -> str:
    """Start a replay to these rules, or to all without any, and return its name."""
    replay_name = f"orderctl-{int(time.time() * 1000)}"
    there.client("events").start_replay(
        ReplayName=replay_name,
        EventSourceArn=archive_arn,
        EventStartTime=since,
        EventEndTime=until,
        Destination={"Arn": there.output("EventBusArn"), **({"FilterArns": rule_arns} if rule_arns else {})},
    )
    return replay_name


def moment(text: str) -> datetime.datetime:
    """Return a time given on the command line; Stop(USAGE) if it isn't one."""
    try:
        parsed = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise Stop(Exit.USAGE, f"{text!r} is no time.", "Write it as 2026-11-20T09:00Z.") from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=datetime.UTC)


def archive_of(there: Target) -> dict[str, Any]:
    """Return the bus's archive; Stop(NO_TARGET) if it has none."""
    found = there.client("events").list_archives(EventSourceArn=there.output("EventBusArn"))["Archives"]
    if not found:
        raise Stop(Exit.NO_TARGET, f"The bus of {there.name} has no archive.", "Nothing can be replayed.")
    archive: dict[str, Any] = there.client("events").describe_archive(ArchiveName=found[0]["ArchiveName"])
    return archive


def rules_of(there: Target, wanted: list[str]) -> dict[str, str]:
    """Return ARNs by name of the bus's rules whose name contains one of the words; all of them without words.

    Stop(USAGE) for a word that fits none. Rules that services manage, such as the archive's own, are left out.
    """
    pages = there.client("events").get_paginator("list_rules").paginate(EventBusName=there.output("EventBusName"))
    known = {rule["Name"]: rule["Arn"] for page in pages for rule in page["Rules"] if "ManagedBy" not in rule}
    for word in wanted:
        if not any(word.lower() in name.lower() for name in known):
            raise Stop(Exit.USAGE, f"No rule is called {word!r}.", f"There are: {', '.join(sorted(known))}.")
    return {
        name: arn for name, arn in known.items() if not wanted or any(word.lower() in name.lower() for word in wanted)
    }


def wait_for(events: Any, replay_name: str, timeout_s: float) -> dict[str, Any]:
    """Wait until a replay has ended and return its state; Stop(NOT_AS_EXPECTED) if that takes too long."""
    deadline = time.monotonic() + timeout_s
    with console.step(f"Replaying ({replay_name})") as note:
        while True:
            state: dict[str, Any] = events.describe_replay(ReplayName=replay_name)
            if state["State"] in ENDED:
                return state
            if time.monotonic() > deadline:
                raise Stop(
                    Exit.NOT_AS_EXPECTED,
                    f"The replay {replay_name} is still {state['State']} after {timeout_s:.0f} s.",
                    "It goes on by itself.",
                )
            note(f"{state['State']}, last event of {state.get('EventLastReplayedTime', 'none yet')}")
            time.sleep(POLL_S)
