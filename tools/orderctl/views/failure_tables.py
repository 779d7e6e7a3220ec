"""Failures on a terminal and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Column, Table

from orderctl.redrive.many import Run
from orderctl.ui import console, tables
from orders.inbox.healing import Holds, Outlook
from orders.inbox.record import SETTLED, FailureRecord, FailureStatus

COLOURS = {
    FailureStatus.NEW: "red",
    FailureStatus.REDRIVEN: "yellow",
    FailureStatus.RESOLVED: "green",
    FailureStatus.DISCARDED: "dim",
}
SHOWN = 50
ROOMY = 110  # a terminal with so many columns has room for all columns of the list
MAX_MESSAGE = 200
# The list leaves these long fields out; `failures show` has them.
LONG = frozenset({"payload", "stackTrace", "history", "occurrences", "messageIds", "source"})


def summary(record: FailureRecord) -> dict[str, Any]:
    """Return a failure's short fields as JSON."""
    fields: dict[str, Any] = msgspec.to_builtins(record)
    return {name: value for name, value in fields.items() if name not in LONG}


def groups(records: list[FailureRecord]) -> list[dict[str, Any]]:
    """Return the causes with their counts, most failures first; `messages` counts every message of each failure."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for record in records:
        group = found.setdefault(
            (record.component, record.error_name),
            {
                "component": record.component,
                "error": record.error_name,
                "message": record.error_message,
                "failures": 0,
                "messages": 0,
                "oldest": record.first_seen_at,
                "newest": record.last_seen_at,
                "statuses": Counter(),
            },
        )
        group["failures"] += 1
        group["messages"] += record.count
        group["oldest"] = min(group["oldest"], record.first_seen_at)
        group["newest"] = max(group["newest"], record.last_seen_at)
        group["statuses"][record.status.value] += 1
    return sorted(found.values(), key=lambda group: -int(group["failures"]))


def listing(
    records: list[FailureRecord],
    unreadable: list[str],
    outlooks: Mapping[str, Outlook],
    *,
    held: str = "",
    more: bool,
    next_step: str,
    fit: bool = False,
) -> RenderableType:
    """Return the causes, the failures and the next command; with `fit`, as many failures as the terminal shows.

    `unreadable` are ids of damaged failures. `outlooks` says by failure id whether the open ones heal by themselves.
    `held` names the holds, in markup. `more` says that there are more failures than these.
    """
    causes: RenderableType = _causes(records, outlooks)
    if more:
        causes = Group(f"[dim]Causes of the first {len(records):,} read; there are more failures.[/]", causes)
    shown = SHOWN
    if fit:
        shown = max(1, console.out.height - len(console.out.render_lines(causes)) - 5)
    ids = tables.short_ids(record.failure_id for record in records)
    orders = tables.short_ids(record.order_id for record in records if record.order_id)
    roomy = console.out.width >= ROOMY
    rows = tables.table(
        tables.whole("Failure"),
        tables.whole("Status"),
        tables.whole("Last seen"),
        tables.whole("Order"),
        *([tables.whole("Tries"), tables.whole("Count")] if roomy else []),
        Column("Cause", no_wrap=True, overflow="ellipsis", ratio=1),  # the table above has the whole text
    )
    rows.expand = True
    for record in records[:shown]:
        rows.add_row(
            ids[record.failure_id],
            _coloured(record.status),
            tables.ago(record.last_seen_at),
            escape(tables.shorten(orders.get(record.order_id or "", ""), 36)),
            *([str(record.attempts), str(record.count)] if roomy else []),
            escape(f"{_unconfirmed(record)}{record.component}: {record.error_name}"),
        )
    listed = min(shown, len(records))
    below = f"Look at one: {next_step}"
    if more and listed == len(records):
        below = f"The first {listed:,} read; narrow them down, or read more with --limit. {below}"
    elif more:
        below = (
            f"{listed} of the first {len(records):,} read; narrow them down, read more with --limit, "
            f"or see those that were read with --json. {below}"
        )
    elif listed < len(records):
        below = f"{listed} of {len(records):,} failures; narrow them down, or see all with --json. {below}"
    damaged = [f"[red]Can't be read: {', '.join(unreadable)}.[/]", ""] if unreadable else []
    return Group(causes, "", rows, "", *damaged, f"[dim]{escape(below)}[/]{held}")


def held(holds: Holds | None) -> str:
    """Return a line in markup for each hold, each after a line break; None if the holds can't be read."""
    if holds is None:
        return "\n[red]What is held can't be read, so nothing heals by itself.[/]"
    lines = (f"Held: {hold.what}, by {hold.by} since {hold.at}." for hold in holds.held.values())
    return "".join(f"\n{escape(line)}" for line in lines)


def _causes(records: list[FailureRecord], outlooks: Mapping[str, Outlook]) -> Table:
    """Return the causes with a column for each status, so that redriven failures don't look stuck."""
    known = {record.status.value for record in records}
    statuses = [status for status in COLOURS if status in known or status not in SETTLED]
    table = tables.table(*(tables.whole(status) for status in statuses), tables.whole("Last seen"), "Cause")
    for group in groups(records):
        message = tables.shorten(group["message"], MAX_MESSAGE)
        healing = _healing_of_cause(
            outlooks[record.failure_id]
            for record in records
            if (record.component, record.error_name) == (group["component"], group["error"])
            and record.failure_id in outlooks
            and record.status is FailureStatus.NEW
        )
        table.add_row(
            *(str(group["statuses"][status]) for status in statuses),
            tables.ago(group["newest"]),
            f"{escape(group['component'])}: {escape(group['error'])}\n[dim]{escape(message)}[/]{healing}",
        )
    return table


def _healing_of_cause(outlooks: Iterable[Outlook]) -> str:
    """Return a line in markup for each way in which a cause's NEW failures heal or don't; "" if there are none."""
    said = Counter(healing_sentence(each, tried=False) for each in outlooks)
    return "".join(f"\n[dim]{count}: {escape(sentence)}[/]" for sentence, count in said.most_common())


def healing_sentence(outlook: Outlook, *, tried: bool = True) -> str:
    """Return whether a failure heals by itself, in words; with how often it was `tried`."""
    times = f", tried {console.count(outlook.tried, 'time')}" if tried else ""
    if outlook.human:
        return f"needs a human{times}: {outlook.human}"
    if outlook.hold:
        return f"held by {outlook.hold.by} since {outlook.hold.at}{times}"
    due = f"not before {outlook.not_before}" if outlook.not_before else "within a minute or two"
    return f"heals by itself{times}, next {due}"


def _coloured(status: FailureStatus) -> str:
    return f"[{COLOURS.get(status, 'cyan')}]{escape(status)}[/]"


def _unconfirmed(record: FailureRecord) -> str:
    """Return a remark if a redrive claimed the failure and never confirmed; else ""."""
    return "(not confirmed) " if record.status is FailureStatus.REDRIVEN and record.sent_at is None else ""


def show_failure(record: FailureRecord, plan: str, outlook: Outlook | None) -> None:
    """Print everything about one failure; `plan` is what a redrive would do, `outlook` is None for a settled one."""
    grid = tables.details()
    grid.add_row("Failure", record.failure_id)
    grid.add_row("Status", f"{_coloured(record.status)} {_unconfirmed(record)}")
    grid.add_row("Where", escape(f"{record.component} ({record.kind})"))
    grid.add_row("Resource", escape(record.resource_arn or "unknown"))
    grid.add_row("Error", escape(record.error_name))
    grid.add_row("Message", escape(record.error_message))
    grid.add_row("Attempts", str(record.attempts))
    grid.add_row("Seen", console.count(record.count, "time"))
    grid.add_row("First seen", f"{record.first_seen_at}, {tables.ago(record.first_seen_at)}")
    grid.add_row("Last seen", f"{record.last_seen_at}, {tables.ago(record.last_seen_at)}")
    grid.add_row("Order", escape(record.order_id or "not known"))
    grid.add_row("Correlation id", escape(record.correlation_id or "not known"))
    for name, value in record.source.items():
        grid.add_row(escape(name), escape(value))
    grid.add_row("A redrive would", escape(plan))
    if outlook:
        grid.add_row("Healing", escape(healing_sentence(outlook)))
    if record.note:
        grid.add_row("Note", escape(record.note))
    for index, entry in enumerate(record.history):
        line = f"{entry.at}  {entry.what} by {entry.by}" + (f": {entry.detail}" if entry.detail else "")
        grid.add_row("" if index else "History", escape(line))
    console.out.print(grid)
    if record.stack_trace:
        console.out.print("\nStack trace")
        console.out.print("".join(f"{line.rstrip()}\n" for line in record.stack_trace), markup=False)
    console.out.print(f"Payload ({record.payload_encoding})")
    console.out.print(_pretty(record.payload or ""), markup=False)


def _pretty(payload: str) -> str:
    try:
        return json.dumps(json.loads(payload), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return payload


def show_plans(plans: list[tuple[FailureRecord, str]]) -> None:
    """Print what a redrive would do, by failure."""
    for record, plan in plans:
        blocked = f" - but it is {record.status} already" if record.status in SETTLED else ""
        console.out.print(f"{record.failure_id}  would {plan}{blocked}", markup=False)
    console.out.print(f"{console.count(len(plans), 'failure')}; nothing was sent.")


def show_run(run: Run, wanted: int, watched_s: float, list_command: str) -> None:
    """Print a redrive of `wanted` failures; for `watched_s` seconds it was watched whether they fail again."""
    for outcome in run.outcomes if wanted <= SHOWN else [each for each in run.outcomes if each.result != "redriven"]:
        text = f"{outcome.failure_id}  {outcome.result}: {outcome.detail}"
        if outcome.result in {"failed", "refused"}:
            console.complain(text)
        else:
            console.out.print(text, markup=False)
    counts = ", ".join(f"{run.count(result)} {result}" for result in ("redriven", "resolved", "refused", "failed"))
    console.out.print(f"{console.count(wanted, 'failure')}: {counts}.")
    if run.came_back:
        console.complain(
            f"{run.came_back} of {run.count('redriven')} redriven have failed again: the cause is still there.",
            f"See it with: {list_command}",
        )
    elif run.count("redriven"):
        console.out.print(
            (f"None has failed again in {watched_s:.0f} s. " if watched_s else "")
            + "The result shows later: an order's end resolves its failures; a payload that fails again (a queue "
            f"gives up after a minute, a function after up to four) makes its failure NEW. Look with: {list_command}",
            markup=False,
        )
    untouched = f"{console.count(wanted - len(run.outcomes), 'failure')} not touched."
    if run.stopped:
        console.complain(f"Stopped: {run.stopped}.", f"{untouched} Mend the cause first.")
    elif len(run.outcomes) < wanted:
        console.complain(untouched)
