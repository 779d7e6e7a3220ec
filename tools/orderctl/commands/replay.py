"""The command `orderctl replay`."""

from __future__ import annotations

import datetime
from typing import Annotated

import typer

from orderctl.defaults import DEFAULT_NAME
from orderctl.exits import Exit, Stop
from orderctl.options import Json, Name, Profile, Region, Stack, examples
from orderctl.ui import console

app = typer.Typer()


@app.command(
    epilog=examples(
        "orderctl replay --from 2026-11-20T09:00Z --to 2026-11-20T10:00Z --dry-run",
        "orderctl replay --from 2026-11-20T09:00Z --to 2026-11-20T10:00Z --rule OrderFulfilledRule",
    )
)
def replay(
    *,
    start: Annotated[
        str, typer.Option("--from", help="Events from this time on (ISO 8601; UTC without a time zone).")
    ],
    end: Annotated[str, typer.Option("--to", help="Up to this time.")],
    rule: Annotated[
        list[str] | None, typer.Option("--rule", help="Only to this rule (part of its name); may be repeated.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say which events would be replayed to which rules.")
    ] = False,
    wait: Annotated[bool, typer.Option(help="Wait until the replay has ended.")] = True,
    timeout: Annotated[float, typer.Option(min=1, help="With --wait: how many seconds at most.")] = 3600,
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Send archived order events to the bus again, for all rules or for some.

    This is safe at any time: a consumer recognises a duplicate by the event's id, and remembers a mail longer than
    the archive keeps its event.
    """
    from orderctl.stack import archive
    from orderctl.stack.target import choose

    since, until = moment(start), moment(end)
    if since >= until:
        raise Stop(Exit.USAGE, "--from must be before --to.", "Both are times, such as 2026-11-20T09:00Z.")
    if since > datetime.datetime.now(datetime.UTC):
        raise Stop(Exit.USAGE, f"--from is in the future: {start}.", "Choose an earlier --from.")
    target = choose(stack, name, profile, region)
    source = archive.archive_of(target)
    rules = archive.rules_of(target, rule or [])
    names = ", ".join(sorted(rules))
    archived = archive.archived_events(target, since, until)
    held = f"{'more than ' if archived == archive.MOST_COUNTED else ''}{console.count(archived, 'event')}"
    if dry_run:
        if as_json:
            console.emit_json(
                {
                    "archive": source["ArchiveName"],
                    "from": since,
                    "to": until,
                    "rules": sorted(rules),
                    "archivedEvents": archived,
                }
            )
        else:
            console.out.print(
                f"Would replay from {since} to {until}, to: {names}. The archive {source['ArchiveName']} holds "
                f"{held} of that time; each rule gets those that match its pattern, so it may be fewer.",
                markup=False,
            )
        return
    # Without --rule the filter is left out, so that a rule created meanwhile gets the events, too.
    replay_name = archive.begin_replay(
        target, source["ArchiveArn"], since, until, sorted(rules.values()) if rule else []
    )
    state = (
        archive.wait_for_replay(target, replay_name, timeout) if wait else archive.replay_state(target, replay_name)
    )
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
            f"Replay {replay_name} to {names}: {state['State']}. The archive holds {held} of that time (counted in "
            "the log of publish_events); each rule got those that match its pattern.",
            markup=False,
        )
    if state["State"] in {"FAILED", "CANCELLED"}:
        raise Stop(Exit.NOT_AS_EXPECTED, f"The replay is {state['State']}: {state.get('StateReason', 'no reason')}.")


def moment(text: str) -> datetime.datetime:
    """Return the typed time; a time without a time zone is UTC. Stop(USAGE) if the text is no time."""
    try:
        parsed = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise Stop(Exit.USAGE, f"{text!r} is no time.", "Write it as 2026-11-20T09:00Z.") from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=datetime.UTC)
