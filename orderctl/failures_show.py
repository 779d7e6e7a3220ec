"""How failures look on a terminal and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
from rich.markup import escape
from rich.table import Column, Table

from orderctl import console

if TYPE_CHECKING:
    from orderctl.failures_redrive import Run
    from orders.failures import FailureRecord

COLOURS = {"NEW": "red", "REDRIVEN": "yellow", "RESOLVED": "green", "DISCARDED": "dim"}
SHOWN = 50
WIDE = 240
# What a list leaves out: it is long, and `failures show` has it.
LONG = frozenset({"payload", "stackTrace", "history", "occurrences", "messageIds", "source"})


def summary(record: FailureRecord) -> dict[str, Any]:
    """Return a failure's short fields as JSON."""
    fields: dict[str, Any] = msgspec.to_builtins(record)
    return {name: value for name, value in fields.items() if name not in LONG}


def groups(records: list[FailureRecord]) -> list[dict[str, Any]]:
    """Return the causes with their counts, most failures first; `messages` counts repetitions too."""
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


def show_list(records: list[FailureRecord]) -> None:
    """Print the causes, then the failures."""
    causes = Table("Failures", "Where", "Error", "Oldest", "Newest", "Message", box=None, pad_edge=False)
    for group in groups(records):
        causes.add_row(
            str(group["failures"]),
            escape(group["component"]),
            escape(group["error"]),
            group["oldest"],
            group["newest"],
            escape(group["message"][:80]),
        )
    _print(causes)
    console.out.print()
    rows = Table(
        "Failure",
        "Status",
        "Last seen",
        "Where",
        "Error",
        "Tries",
        "Count",
        Column("Order", no_wrap=True, min_width=36),
        box=None,
        pad_edge=False,
    )
    for record in records[:SHOWN]:
        rows.add_row(
            record.failure_id,
            status_of(record),
            record.last_seen_at,
            escape(record.component),
            escape(record.error_name),
            str(record.attempts),
            str(record.count),
            escape(record.order_id or ""),
        )
    _print(rows)
    if len(records) > SHOWN:
        console.say(f"… and {len(records) - SHOWN} more; narrow them down, or see all with --json.")


def _print(table: Table) -> None:
    """Print a table; without a terminal, as wide as it needs, so that no id is cut."""
    if not console.out.is_terminal:
        console.out.width = WIDE
    console.out.print(table)


def status_of(record: FailureRecord) -> str:
    """Return the status as rich markup, saying if a redrive was begun and never confirmed."""
    unconfirmed = " (not confirmed)" if record.status == "REDRIVEN" and record.sent_at is None else ""
    return f"[{COLOURS[record.status]}]{record.status}[/]{unconfirmed}"


def show(record: FailureRecord, plan: str) -> None:
    """Print everything about one failure."""
    grid = Table.grid(padding=(0, 2))
    grid.add_row("Failure", record.failure_id)
    grid.add_row("Status", status_of(record))
    grid.add_row("Where", escape(f"{record.component} ({record.kind})"))
    grid.add_row("Resource", escape(record.resource_arn or "unknown"))
    grid.add_row("Error", escape(record.error_name))
    grid.add_row("Message", escape(record.error_message))
    grid.add_row("Attempts", str(record.attempts))
    grid.add_row("Seen", f"{record.count} times, first {record.first_seen_at}, last {record.last_seen_at}")
    grid.add_row("Order", escape(record.order_id or "not known"))
    grid.add_row("Correlation id", escape(record.correlation_id or "not known"))
    for name, value in record.source.items():
        grid.add_row(escape(name), escape(value))
    grid.add_row("A redrive would", escape(plan))
    if record.note:
        grid.add_row("Note", escape(record.note))
    for index, entry in enumerate(record.history):
        line = f"{entry.at}  {entry.what} by {entry.by}" + (f": {entry.detail}" if entry.detail else "")
        grid.add_row("" if index else "History", escape(line))
    _print(grid)
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
    """Print what a redrive would do."""
    for record, plan in plans:
        blocked = "" if record.status in {"NEW", "REDRIVEN"} else f" - but it is {record.status} already"
        console.out.print(f"{record.failure_id}  would {plan}{blocked}", markup=False)
    console.out.print(f"{len(plans)} failures; nothing was sent.")


def run_as_json(run: Run) -> dict[str, Any]:
    """Return a redrive's outcome as JSON."""
    return {
        "redriven": run.count("redriven"),
        "resolved": run.count("resolved"),
        "refused": run.count("refused"),
        "failed": run.count("failed"),
        "cameBack": run.came_back,
        "stopped": run.stopped or None,
        "outcomes": [vars(outcome) for outcome in run.outcomes],
    }


def show_run(run: Run, wanted: int) -> None:
    """Print a redrive's outcome."""
    for outcome in run.outcomes if wanted <= SHOWN else [each for each in run.outcomes if each.result != "redriven"]:
        text = f"{outcome.failure_id}  {outcome.result}: {outcome.detail}"
        if outcome.result in {"failed", "refused"}:
            console.complain(text)
        else:
            console.out.print(text, markup=False)
    counts = ", ".join(f"{run.count(result)} {result}" for result in ("redriven", "resolved", "refused", "failed"))
    console.out.print(f"{wanted} failures: {counts}.")
    if run.stopped:
        console.complain(
            f"Stopped: {run.stopped}.", f"{wanted - len(run.outcomes)} were not touched. Mend the cause first."
        )
