"""The log groups of a stack: the log lines of its functions and of its workflow."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from orderctl.exits import Exit, Stop
from orderctl.stack.target import Target
from orderctl.ui import console

WORKFLOW = "OrderWorkflow"
# The function that logs which execution takes which order up.
VALIDATE = "ValidateOrderFunction"
TAKEN_UP = "order taken up"
# How the lines begin that Lambda itself writes about an invocation.
PLATFORM = ("START RequestId:", "END RequestId:", "REPORT RequestId:", "INIT_START ", "XRAY TraceId:")


@dataclass(frozen=True)
class LogLine:
    """A log line: its time (UTC, ISO 8601), the component that wrote it, and its fields."""

    at: str
    component: str
    fields: dict[str, Any]

    @property
    def level(self) -> str:
        """The level; "" if the line has none."""
        return str(self.fields.get("level", ""))

    @property
    def order_id(self) -> str:
        """The order that the line names; "" if it names none."""
        return str(self.fields.get("order_id") or "")

    @property
    def event(self) -> str:
        """The type of the event of an execution's history that the line is; "" if the line is none."""
        return str(self.fields.get("type", "")) if "execution_arn" in self.fields else ""

    @property
    def event_id(self) -> int:
        """The number of that event in the history; 0 without one."""
        number = str(self.fields.get("id", ""))
        return int(number) if self.event and number.isdecimal() else 0

    @property
    def execution(self) -> str:
        """The execution that the line tells of (`execution_of`); "" if the line tells of none."""
        if self.event:
            return execution_of(str(self.fields["execution_arn"]))
        taken_up = self.component == VALIDATE and self.fields.get("message") == TAKEN_UP
        return str(self.fields.get("execution") or "") if taken_up else ""


Read = Callable[[int], Iterator[LogLine]]
"""Returns the lines since a time (milliseconds since 1970), in no particular order."""


def groups_of(target: Target, component: str | None = None) -> dict[str, str]:
    """Return the stack's log groups, by component; with `component`, those whose component's name contains it.

    Raises Stop(USAGE) if there is none.
    """
    # template.yaml names the bus after the stack.
    stack = target.output("EventBusName").removesuffix("-orders")
    pages = target.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=stack)
    known = {
        _component(resource["LogicalResourceId"]): resource["PhysicalResourceId"]
        for page in pages
        for resource in page["StackResourceSummaries"]
        if resource["ResourceType"] == "AWS::Logs::LogGroup"
    }
    found = {each: group for each, group in known.items() if (component or "").lower() in each.lower()}
    if not found:
        raise Stop(
            Exit.USAGE, f"No component is called {component!r}.", f"The components are: {', '.join(sorted(known))}."
        )
    return found


def _component(logical_id: str) -> str:
    bare = logical_id.removesuffix("Logs")
    return bare if bare == WORKFLOW else f"{bare}Function"


def of_all(target: Target, groups: dict[str, str]) -> Read:
    """Return a function that reads every line of these groups."""

    def read(start_ms: int) -> Iterator[LogLine]:
        for component, group in groups.items():
            yield from _lines(component, events(target, group, "", start_ms))

    return read


def of_order(target: Target, groups: dict[str, str], order_id: str, executions: Iterable[str]) -> Read:
    """Return a function that reads the lines about one order.

    These are the functions' lines that name the order's id, and the workflow's lines about the order's executions:
    these `executions`, those that ValidateOrder's lines name, and those that are named after the order. A correlation
    id proves nothing: customers choose it, and two customers may choose the same.
    """
    known = set(executions)

    def read(start_ms: int) -> Iterator[LogLine]:
        for component, group in groups.items():
            if component != WORKFLOW:
                for line in _lines(component, events(target, group, f'"{order_id}"', start_ms)):
                    if line.order_id in {"", order_id}:
                        known.update({line.execution} - {""})
                        yield line
        if WORKFLOW in groups:
            yield from _of_workflow(target, groups[WORKFLOW], order_id, known, start_ms)

    return read


def _of_workflow(target: Target, group: str, order_id: str, known: set[str], start_ms: int) -> Iterator[LogLine]:
    """Yield the workflow's lines about the executions `known`, and about those that are named after the order."""
    named_after = f":{order_id}-"
    for line in _lines(WORKFLOW, events(target, group, f'"{order_id}"', start_ms)):
        if named_after in f":{line.execution}":
            yield line
    for each in known:
        if named_after not in f":{each}":
            found = _lines(WORKFLOW, events(target, group, f'"{each}"', start_ms))
            yield from (line for line in found if line.execution == each)


def execution_of(arn: str) -> str:
    """Return what is an Express execution's own in its ARN: machine, name and number; "" for any other ARN."""
    return arn.partition(":express:")[2]


def events(
    target: Target, group: str, pattern: str, start_ms: int, end_ms: int | None = None
) -> Iterator[dict[str, Any]]:
    """Yield a log group's events that match a filter pattern ("" for all), between two times.

    Times are milliseconds since 1970; without `end_ms` there is no end.
    """
    client = target.client("logs")
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


def _lines(component: str, found: Iterable[dict[str, Any]]) -> Iterator[LogLine]:
    for event in found:
        line = parse(component, event)
        if line:
            yield line


def parse(component: str, event: dict[str, Any]) -> LogLine | None:
    """Return a log event as a line; None for Lambda's own lines about an invocation and for metrics."""
    text = event["message"].rstrip()
    at = iso(datetime.datetime.fromtimestamp(event["timestamp"] / 1000, datetime.UTC))
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        return None if not text or text.startswith(PLATFORM) else LogLine(at, component, {"message": text})
    if "_aws" in fields or str(fields.get("type", "")).startswith("platform."):
        return None
    if "execution_arn" in fields:
        fields = _of_history(fields)
    return LogLine(_own_time(fields) or at, component, fields)


def _of_history(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event of an execution's history as the fields of a log line."""
    kind, details = str(event.get("type")), event.get("details") or {}
    said = ": ".join(str(details[key]) for key in ("name", "error", "cause") if key in details)
    level = "ERROR" if kind.endswith(("Failed", "TimedOut", "Aborted")) else "INFO"
    return {"level": level, "message": f"{kind} {said}".strip(), **event}


def _own_time(fields: dict[str, Any]) -> str:
    try:
        if "execution_arn" in fields:
            return iso(datetime.datetime.fromtimestamp(int(fields["event_timestamp"]) / 1000, datetime.UTC))
        return iso(datetime.datetime.strptime(fields["timestamp"], "%Y-%m-%d %H:%M:%S,%f%z"))
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return ""


def iso(when: datetime.datetime) -> str:
    """Return a time in the form of the tables: `2026-01-31T12:00:00.000Z`."""
    return when.astimezone(datetime.UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def milliseconds(at: str) -> int:
    """Return a time (ISO 8601) as milliseconds since 1970."""
    return int(datetime.datetime.fromisoformat(at).timestamp() * 1000)
