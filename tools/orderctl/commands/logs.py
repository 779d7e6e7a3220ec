"""The command `orderctl logs`."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from orderctl.cloud.state import Cloud
from orderctl.defaults import DEFAULT_NAME
from orderctl.exits import Interrupted
from orderctl.options import Name, Profile, Region, Stack, examples, filled, seconds
from orderctl.ui import console

if TYPE_CHECKING:
    from orderctl.stack.logs import LogLine, Read

app = typer.Typer()

POLL_S = 2.0
ENDING_S = 10.0  # a local cloud that does not answer may take so long to end
LATE_MS = 30_000  # a followed line may arrive this much later than its own time
COLOURS = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}
# Only --json shows these fields.
NOT_SHOWN = frozenset(
    {
        "level",
        "message",
        "timestamp",
        "location",
        "service",
        "function_name",
        "function_request_id",
        "xray_trace_id",
        "cold_start",
        "exception",
        "exception_name",
        "stack_trace",
    }
)
# Of the workflow's lines: their message has what a reader needs of these.
OF_HISTORY = frozenset({"id", "type", "details", "previous_event_id", "event_timestamp", "redrive_count"})


@app.command(
    epilog=examples(
        "orderctl logs --order 6f1c2d3e",
        "orderctl logs --component ProcessPayment --since 15m",
        "orderctl logs --follow --stack orders-dev",
        "orderctl logs --since 7d --json | jq 'select(.level == \"ERROR\")'",
    )
)
def logs(
    *,
    order: Annotated[
        str | None,
        typer.Option("--order", help="Only lines about this order: its id, or the start of it.", callback=filled),
    ] = None,
    component: Annotated[
        str | None,
        typer.Option(help="Only this function, or OrderWorkflow; part of the name is enough.", callback=filled),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help="How far back: 45s, 30m, 2h, 7d (default: 1h; with --order: since the order was placed)."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue with new lines, until Ctrl-C.")] = False,
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Write each line as a JSON object on a line; `fields` has the other fields."),
    ] = False,
) -> None:
    """Show the log lines of the functions and the workflow, in time order. CloudWatch Logs does the filtering.

    Metrics, and Lambda's own lines about each invocation, are left out.
    """
    from botocore.exceptions import BotoCoreError

    from orderctl.explanation import logs_begin_ms
    from orderctl.stack import executions, prefixes, records
    from orderctl.stack.logs import VALIDATE, WORKFLOW, groups_of, of_all, of_order
    from orderctl.stack.target import choose

    back_s = seconds(since) if since else 3600
    target = choose(stack, name, profile, region)
    chosen = groups_of(target, component)
    start_ms = int((time.time() - back_s) * 1000)
    if order:
        with records.tables_named(target):
            found = prefixes.order(target, order)
            failures, _ = records.failures_of(target, found.order_id)
        if since is None:
            start_ms = logs_begin_ms(found)
        # The workflow's lines do not name the order; those of ValidateOrder name its executions.
        groups = chosen | groups_of(target, VALIDATE) if WORKFLOW in chosen else chosen
        read = of_order(target, groups, found.order_id, executions.ids_in(failures))
    else:
        read = of_all(target, chosen)
    show = _show_json if as_json else _show
    try:
        for line in _followed(read, start_ms) if follow else sorted(read(start_ms), key=in_time):
            if line.component in chosen:
                show(line)
    except Interrupted:
        if not follow:
            raise
    except BotoCoreError:
        if target.local:
            _stop_if_gone(target.local.name)
        raise


def _stop_if_gone(name: str) -> None:
    """Raise Stop(NO_TARGET) if the local cloud has ended, or ends within ENDING_S seconds."""
    from orderctl.stack.target import local_target

    deadline = time.monotonic() + ENDING_S
    while time.monotonic() < deadline:
        local_target(Cloud(name))  # a cloud that is ending saves its data first, and does not answer meanwhile
        time.sleep(0.2)


def _followed(read: Read, start_ms: int) -> Iterator[LogLine]:
    """Yield lines as they arrive. Each reading overlaps the one before, because a line may arrive late."""
    seen: Counter[str] = Counter()
    while True:
        now: Counter[str] = Counter()
        for line in sorted(read(start_ms), key=in_time):
            key = json.dumps([line.at, line.component, line.fields], default=str)
            now[key] += 1
            if now[key] > seen[key]:
                yield line
        seen = now
        start_ms = max(start_ms, int(time.time() * 1000) - LATE_MS)
        time.sleep(POLL_S)


def in_time(line: LogLine) -> tuple[str, int]:
    """Return the key by which lines are sorted: a workflow has several events in a millisecond."""
    return line.at, line.event_id


def _show(line: LogLine) -> None:
    colour = COLOURS.get(line.level)
    level = f"[{colour}]{escape(line.level)}[/]" if colour else escape(line.level)
    hidden = NOT_SHOWN | OF_HISTORY if line.event else NOT_SHOWN
    fields = "  ".join(f"{name}={_short(value)}" for name, value in line.fields.items() if name not in hidden)
    # A continuation is indented, so that a line break in a message can't forge another line.
    message = escape(str(line.fields.get("message", "")).replace("\n", "\n    "))
    console.out.print(f"{line.at}  {escape(line.component)}  {level}  {message}  [dim]{escape(fields)}[/]")
    if trace := line.fields.get("exception"):
        console.out.print("".join(f"    {each}\n" for each in str(trace).splitlines()), end="", markup=False)


def _short(value: Any) -> str:
    return (
        value.replace("\n", "\\n") if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    )


def _show_json(line: LogLine) -> None:
    others = {name: value for name, value in line.fields.items() if name not in {"level", "message"}}
    said = {"level": line.level, "message": line.fields.get("message", "")}
    # In an object of their own, because a function may log a field called `component`, too.
    console.emit_json_line({"at": line.at, "component": line.component, **said, "fields": others})
