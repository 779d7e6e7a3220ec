"""The command `orderctl logs`, and reading log groups whole: what functions and workflow logged, in time order."""

from __future__ import annotations

import datetime
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from orderctl.cloud.state import DEFAULT_NAME, Cloud
from orderctl.exits import Exit, Interrupted, Stop
from orderctl.options import Name, Profile, Region, Stack, filled, seconds
from orderctl.ui import console

if TYPE_CHECKING:
    from orderctl.stack.target import Target

POLL_S = 2.0
ENDING_S = 10.0  # a local cloud that doesn't answer may take so long to end
LATE_MS = 30_000  # a followed line may arrive this much later than its time says
WORKFLOW = "OrderWorkflow"
COLOURS = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}
# What Lambda writes about an invocation.
PLATFORM = ("START RequestId:", "END RequestId:", "REPORT RequestId:", "INIT_START ", "XRAY TraceId:")
# Fields that a person doesn't read; --json has them.
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


@dataclass(frozen=True)
class Line:
    """A log line: when it was written (UTC, ISO 8601), by which component, and its fields."""

    at: str
    component: str
    fields: dict[str, Any]

    @property
    def level(self) -> str:
        """The level, "" for a line that has none."""
        return str(self.fields.get("level", ""))

    @property
    def order_id(self) -> str:
        """The order that the line names, "" if it names none."""
        return str(self.fields.get("order_id") or "")


def logs(
    *,
    order: Annotated[
        str | None,
        typer.Option("--order", help="Only lines about this order: its id, or the start of it.", callback=filled),
    ] = None,
    component: Annotated[
        str | None,
        typer.Option(help=f"Only of this function, or {WORKFLOW}; part of the name is enough.", callback=filled),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help="How far back: 45s, 30m, 2h, 7d (default: 1h; with --order: since the order was placed)."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines, until Ctrl-C.")] = False,
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Write each line as a JSON object on a line; what was logged besides is in `fields`."
        ),
    ] = False,
) -> None:
    """Show what the functions and the workflow logged, in time order; the log's server filters.

    What Lambda logs about its invocations and the metrics are left out.
    """
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    from orderctl.stack import prefixes, records, target  # noqa: PLC0415

    back_s = seconds(since) if since else 3600
    there = target.choose(stack, name, profile, region)
    groups = groups_of(there, component)
    start_ms = int((time.time() - back_s) * 1000)
    if order:
        with records.tables_named(there):
            found = records.require_order(there, prefixes.order_id(there, order))
        if since is None:
            start_ms = milliseconds(found["placedAt"]) - 60_000
        read = of_order(there, groups, found)
    else:
        read = of_all(there, groups)
    show = _show_json if as_json else _show
    try:
        for line in _followed(read, start_ms) if follow else sorted(read(start_ms), key=lambda line: line.at):
            show(line)
    except Interrupted:
        if not follow:
            raise
    except BotoCoreError:
        if there.local:
            _stop_if_gone(there.local.name)
        raise


def _stop_if_gone(name: str) -> None:
    """Raise Stop as every command does that finds no running local cloud, if it has ended or ends in a moment."""
    from orderctl.stack import target  # noqa: PLC0415

    deadline = time.monotonic() + ENDING_S
    while time.monotonic() < deadline:
        target.local_target(Cloud(name))  # one that ends saves first: it is there, and doesn't answer any more
        time.sleep(0.2)


# ---- Reading -----------------------------------------------------------------------------------------------------

# Returns the lines since a time (milliseconds since 1970), in no particular order.
Read = Callable[[int], Iterator[Line]]


def groups_of(there: Target, component: str | None = None) -> dict[str, str]:
    """Return the stack's log groups by component; Stop(USAGE) if none has this word in its name."""
    # The bus is named after the stack (template.yaml).
    stack = there.output("EventBusName").removesuffix("-orders")
    pages = there.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=stack)
    known = {
        _component(resource["LogicalResourceId"]): resource["PhysicalResourceId"]
        for page in pages
        for resource in page["StackResourceSummaries"]
        if resource["ResourceType"] == "AWS::Logs::LogGroup"
    }
    found = {each: group for each, group in known.items() if (component or "").lower() in each.lower()}
    if not found:
        raise Stop(Exit.USAGE, f"No component is called {component!r}.", f"There are: {', '.join(sorted(known))}.")
    return found


def _component(logical_id: str) -> str:
    bare = logical_id.removesuffix("Logs")
    return bare if bare == WORKFLOW else f"{bare}Function"


def of_all(there: Target, groups: dict[str, str]) -> Read:
    """Return how to read everything."""

    def read(start_ms: int) -> Iterator[Line]:
        for component, group in groups.items():
            yield from _lines(component, events(there, group, "", start_ms))

    return read


def of_order(there: Target, groups: dict[str, str], order: dict[str, Any]) -> Read:
    """Return how to read what is about an order.

    That is what names its id, and what the workflow logged of its executions. A correlation id proves nothing:
    customers choose it, and two may choose the same.
    """
    from orderctl.commands import explain  # noqa: PLC0415
    from orderctl.stack import records  # noqa: PLC0415

    order_id = str(order["orderId"])
    arns = set()
    if WORKFLOW in groups:
        arns = set(explain.execution_arns(there, order, records.failures_of(there, order_id)))

    def read(start_ms: int) -> Iterator[Line]:
        for component, group in groups.items():
            if component != WORKFLOW:
                found = _lines(component, events(there, group, f'"{order_id}"', start_ms))
                yield from (line for line in found if line.order_id in {"", order_id})
                continue
            for arn in arns:
                found = _lines(component, events(there, group, f'"{arn.rpartition(":")[2]}"', start_ms))
                yield from (line for line in found if line.fields.get("execution_arn") == arn)

    return read


def _followed(read: Read, start_ms: int) -> Iterator[Line]:
    """Yield lines as they come; each reading overlaps the one before, because lines may arrive late."""
    seen: Counter[str] = Counter()
    while True:
        now: Counter[str] = Counter()
        for line in sorted(read(start_ms), key=lambda line: line.at):
            key = json.dumps([line.at, line.component, line.fields], default=str)
            now[key] += 1
            if now[key] > seen[key]:
                yield line
        seen = now
        start_ms = max(start_ms, int(time.time() * 1000) - LATE_MS)
        time.sleep(POLL_S)


def events(
    there: Target, group: str, pattern: str, start_ms: int, end_ms: int | None = None
) -> Iterator[dict[str, Any]]:
    """Yield every event of a log group that fits the filter pattern, from one time to another, or to the end."""
    client = there.client("logs")
    asked: dict[str, Any] = {"logGroupName": group, "startTime": start_ms}
    asked |= {"filterPattern": pattern} if pattern else {}
    asked |= {"endTime": end_ms} if end_ms is not None else {}
    while True:
        try:
            page = client.filter_log_events(**asked)
        except client.exceptions.ResourceNotFoundException:
            console.say(f"There is no log group {group}.")
            return
        yield from page["events"]
        if "nextToken" not in page:
            return
        asked["nextToken"] = page["nextToken"]


def _lines(component: str, found: Iterable[dict[str, Any]]) -> Iterator[Line]:
    for event in found:
        line = parse(component, event)
        if line:
            yield line


def parse(component: str, event: dict[str, Any]) -> Line | None:
    """Return a log event as a line; None for what Lambda writes about invocations, and for metrics."""
    text = event["message"].rstrip()
    at = iso(datetime.datetime.fromtimestamp(event["timestamp"] / 1000, datetime.UTC))
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        return None if not text or text.startswith(PLATFORM) else Line(at, component, {"message": text})
    if "_aws" in fields or str(fields.get("type", "")).startswith("platform."):
        return None
    if "execution_arn" in fields:
        details = fields.get("details") or {}
        said = ": ".join(str(details[key]) for key in ("error", "cause") if key in details)
        fields = {"level": "ERROR", "message": f"{fields.get('type')} {said}".strip(), **fields}
    return Line(_own_time(fields) or at, component, fields)


def _own_time(fields: dict[str, Any]) -> str:
    try:
        return iso(datetime.datetime.strptime(fields["timestamp"], "%Y-%m-%d %H:%M:%S,%f%z"))
    except (KeyError, TypeError, ValueError):
        return ""


def iso(when: datetime.datetime) -> str:
    """Return a time as the tables have it: `2026-01-31T12:00:00.000Z`."""
    return when.astimezone(datetime.UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def milliseconds(at: str) -> int:
    """Return a time (ISO 8601) in milliseconds since 1970."""
    return int(datetime.datetime.fromisoformat(at).timestamp() * 1000)


# ---- Showing -----------------------------------------------------------------------------------------------------


def _show(line: Line) -> None:
    colour = COLOURS.get(line.level)
    level = f"[{colour}]{escape(line.level)}[/]" if colour else escape(line.level)
    fields = "  ".join(f"{name}={_short(value)}" for name, value in line.fields.items() if name not in NOT_SHOWN)
    # Only a line's beginning begins a line: nobody forges another one with a line break.
    message = escape(str(line.fields.get("message", "")).replace("\n", "\n    "))
    console.out.print(f"{line.at}  {escape(line.component)}  {level}  {message}  [dim]{escape(fields)}[/]")
    if trace := line.fields.get("exception"):
        console.out.print("".join(f"    {each}\n" for each in str(trace).splitlines()), end="", markup=False)


def _short(value: Any) -> str:
    return (
        value.replace("\n", "\\n") if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    )


def _show_json(line: Line) -> None:
    others = {name: value for name, value in line.fields.items() if name not in {"level", "message"}}
    said = {"level": line.level, "message": line.fields.get("message", "")}
    # Apart, because a function may log a field called `component` as well.
    console.emit_json_line({"at": line.at, "component": line.component, **said, "fields": others})
