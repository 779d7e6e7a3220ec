"""The commands on the failure inbox: failures list, show, redrive, discard."""

from __future__ import annotations

import getpass
import time
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from orderctl.cloud.state import DEFAULT_NAME
from orderctl.exits import Exit, Interrupted, Stop
from orderctl.options import Json, Name, Profile, Region, Stack, Watch, examples, filled, seconds
from orderctl.ui import console

if TYPE_CHECKING:
    from rich.console import RenderableType

    from orderctl.redrive import ComeBacks, Outcome, Run
    from orderctl.stack.target import Target
    from orders.inbox.record import FailureRecord
    from orders.inbox.store import FailuresTable

app = typer.Typer(
    help="See what failed for technical reasons, and send it on its way again.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Status = Annotated[
    str | None,
    typer.Option(help="NEW, REDRIVEN, RESOLVED, DISCARDED or ALL (default: NEW and REDRIVEN)."),
]
Component = Annotated[
    str | None,
    typer.Option(help="Where it failed: a function, queue, state …; part of the name is enough.", callback=filled),
]
Error = Annotated[str | None, typer.Option(help="The error's name; part of it is enough.", callback=filled)]
Order = Annotated[str | None, typer.Option("--order", help="The order's id, or its start.", callback=filled)]
OlderThan = Annotated[
    str | None, typer.Option(help="First seen longer ago than this: 45s, 30m, 2h, 7d.", callback=filled)
]
NewerThan = Annotated[str | None, typer.Option(help="Last seen within this time: 45s, 30m, 2h, 7d.", callback=filled)]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Failure ids, or their starts.")]

OPEN = ("NEW", "REDRIVEN")
MAX_REASON = 500
UNDOING_S = 30  # how long a discard waits for the end of the orders that it gives up
POLL_S = 0.5


@app.command(
    "list",
    epilog=examples(
        "orderctl failures list",
        "orderctl failures list --component IssueReceipt --newer-than 2h",
        "orderctl failures list --status ALL --order 6f1c2d3e --json",
        "orderctl failures list --watch",
    ),
)
def list_failures(
    *,
    status: Status = None,
    component: Component = None,
    error: Error = None,
    order: Order = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many to read at most.")] = 1000,
    watch: Watch = False,
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """List failures, grouped by cause, last seen first."""
    from orderctl import redrive as failures_redrive  # noqa: PLC0415
    from orderctl.stack import prefixes, records, target  # noqa: PLC0415
    from orderctl.ui import failures as failures_show  # noqa: PLC0415

    if watch and as_json:
        raise Stop(Exit.USAGE, "--watch and --json exclude each other.", "Choose one.")
    there = target.choose(stack, name, profile, region)
    statuses = _statuses(status)
    with records.tables_named(there):
        table = failures_redrive.open_table(there)
        whole_order = prefixes.order_id(there, order) if order else None

        def look() -> tuple[list[FailureRecord], bool]:
            chosen = _matching(
                table,
                statuses=statuses,
                component=component,
                error=error,
                order=whole_order,
                older_than=older_than,
                newer_than=newer_than,
            )
            found = list(islice(chosen, limit + 1))
            return found[:limit], len(found) > limit

        def page() -> RenderableType:
            found, more = look()
            if not found:
                narrowed = any((status, component, error, order, older_than, newer_than))
                return "No failures match." if narrowed else "Nothing is stuck."
            next_step = there.command("failures show ID")
            return failures_show.listing(found, more=more, next_step=next_step, fit=watch)

        if watch:
            console.watch(page)
        elif as_json:
            found, more = look()
            console.emit_json(
                {
                    "groups": failures_show.groups(found),
                    "failures": [failures_show.summary(record) for record in found],
                    "more": more,
                }
            )
        else:
            console.out.print(page())


@app.command("show", epilog=examples("orderctl failures show 3f0c9a1b", "orderctl failures show 3f0c9a1b --json"))
def show_failure(
    failure_id: Annotated[str, typer.Argument(metavar="ID", help="The failure's id, or its start.")],
    *,
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Show one failure: where, what, the whole payload, how to redrive it, and what was done about it."""
    import msgspec  # noqa: PLC0415

    from orderctl import redrive as failures_redrive  # noqa: PLC0415
    from orderctl.stack import prefixes, records, target  # noqa: PLC0415
    from orderctl.ui import failures as failures_show  # noqa: PLC0415

    there = target.choose(stack, name, profile, region)
    with records.tables_named(there):
        table = failures_redrive.open_table(there)
        (whole,) = prefixes.failure_ids(table, [failure_id])
        (record,) = _existing(there, table, [whole])
    record.payload = table.payload_of(record)
    if as_json:
        console.emit_json({**msgspec.to_builtins(record), "redriveSays": failures_redrive.describe(record)})
    else:
        failures_show.show_failure(record, failures_redrive.describe(record))


@app.command(
    "redrive",
    epilog=examples(
        "orderctl failures redrive 3f0c9a1b 9ab2c3d4",
        "orderctl failures redrive --error PaymentProviderError --dry-run",
        "orderctl failures redrive --component IssueReceipt --rate 50 --stack orders-prod",
    ),
)
def redrive(
    failure_ids: Ids = None,
    *,
    component: Component = None,
    error: Error = None,
    order: Order = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    everything: Annotated[bool, typer.Option("--all", help="Every NEW failure.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent where.")] = False,
    rate: Annotated[float, typer.Option(min=0.1, max=1000, help="At most so many a second.")] = 10,
    again: Annotated[
        bool, typer.Option("--again", help="Also what was redriven before and hasn't come back.")
    ] = False,
    wait: Annotated[
        float, typer.Option(min=0, max=600, help="Watch for so many seconds whether what was sent fails again.")
    ] = 6,
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Send failures' payloads to where they were going; those given, or the NEW ones that match.

    Stops when more than a fifth of them can't be sent or fail again. Redriving twice, or what has meanwhile
    succeeded, has no second effect. Exit 0: all were sent and none has failed again so far; 4: something was refused;
    if an id is unknown, nothing is sent; 5: something could not be sent or has failed again, or the redrive stopped.
    """
    from orderctl import redrive as failures_redrive  # noqa: PLC0415
    from orderctl.stack import prefixes, records, target  # noqa: PLC0415
    from orderctl.ui import failures as failures_show  # noqa: PLC0415

    if bool(failure_ids) == any((component, error, order, older_than, newer_than, everything)):
        raise Stop(
            Exit.USAGE,
            "Name either failures by id or a choice of them, such as --error or --component.",
            "Every NEW failure is meant by --all.",
        )
    there = target.choose(stack, name, profile, region)
    with records.tables_named(there):
        table = failures_redrive.open_table(there)
        whole_order = prefixes.order_id(there, order) if order else None
        if failure_ids:
            ids = prefixes.failure_ids(table, failure_ids)
            _existing(there, table, ids)
        else:
            ids = [
                record.failure_id
                for record in _matching(
                    table,
                    statuses=OPEN,
                    component=component,
                    error=error,
                    order=whole_order,
                    older_than=older_than,
                    newer_than=newer_than,
                )
                if record.status == "NEW" or again or record.sent_at is None
            ]
    if dry_run:
        _say_what_would_be_sent(_existing(there, table, ids), as_json)
        return
    come_backs = failures_redrive.ComeBacks(table)
    run, watched_s, interrupted = failures_redrive.Run(), 0.0, False
    try:
        with console.working(f"Redriving {console.count(len(ids), 'failure')}, at most {rate:g} a second") as note:
            failures_redrive.redrive_many(
                there,
                ids,
                operator(there),
                rate=rate,
                again=again,
                progress=lambda run: note(
                    f"{len(run.outcomes)} of {len(ids)}: {run.count('failed')} failed, {run.came_back} came back"
                ),
                run=run,
            )
        watched_s = _watch_for_failures(run, come_backs, wait)
    except Interrupted:
        interrupted = True  # what was sent is told all the same: nobody else knows it
    if as_json:
        console.emit_json(failures_show.run_as_json(run))
    else:
        failures_show.show_run(run, len(ids), watched_s, there.command("failures list"))
    if interrupted:
        raise Interrupted
    _end(run)


def _watch_for_failures(run: Run, come_backs: ComeBacks, wait_s: float) -> float:
    """Count what fails again, for at most so long; returns how long that took, 0 if there was nothing to watch."""
    sent = {outcome.failure_id for outcome in run.outcomes if outcome.result == "redriven"}
    if not sent or not wait_s:
        return 0.0
    began = time.monotonic()
    with console.working(f"Watching for {wait_s:g} s what fails again"):
        while run.came_back < len(sent) and time.monotonic() - began < wait_s:
            time.sleep(min(POLL_S, wait_s))
            run.came_back = max(run.came_back, come_backs.count(sent))
    return time.monotonic() - began


def _end(run: Run) -> None:
    if run.stopped or run.count("failed") or run.came_back:
        raise SystemExit(int(Exit.NOT_AS_EXPECTED))
    if run.count("refused"):
        raise SystemExit(int(Exit.REFUSED))


def _say_what_would_be_sent(records: list[FailureRecord], as_json: bool) -> None:
    from orderctl import redrive as failures_redrive  # noqa: PLC0415
    from orderctl.ui import failures as failures_show  # noqa: PLC0415

    plans = [(record, failures_redrive.describe(record)) for record in records]
    if as_json:
        console.emit_json(
            [{"failureId": record.failure_id, "status": record.status, "would": plan} for record, plan in plans]
        )
    else:
        failures_show.show_plans(plans)


@app.command(
    "discard",
    epilog=examples('orderctl failures discard 3f0c9a1b --reason "test data"'),
)
def discard(
    failure_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Failure ids, or their starts.")],
    *,
    reason: Annotated[str, typer.Option(help="Why nothing shall be done about it; kept in the history.")],
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Give failures up. The order that waits for one is undone: refunded, its stock back on sale, never shipped.

    Waits up to half a minute and says where the order has ended. An order whose parcel has left is FULFILLED instead.
    """
    from orderctl import redrive as failures_redrive  # noqa: PLC0415
    from orderctl.stack import prefixes, records, target  # noqa: PLC0415

    if not reason.strip():
        raise Stop(Exit.USAGE, "The reason is empty.", 'Say why: --reason "…"')
    if len(reason) > MAX_REASON:
        raise Stop(Exit.USAGE, f"The reason has {len(reason)} characters.", f"At most {MAX_REASON} are kept.")
    there = target.choose(stack, name, profile, region)
    by = operator(there)
    with records.tables_named(there):
        table = failures_redrive.open_table(there)
        ids = prefixes.failure_ids(table, failure_ids)
        outcomes: list[Outcome] = []
        interrupted = False
        try:
            for each in ids:
                outcomes.append(failures_redrive.discard_one(there, table, each, by, reason))  # noqa: PERF401 - keeps them
            given_up = sum(outcome.given_up for outcome in outcomes)
            if given_up:
                with console.step(f"Undoing {console.count(given_up, 'order')}"):
                    failures_redrive.await_undoing(there, outcomes, UNDOING_S)
        except Interrupted:
            interrupted = True  # what was discarded is told all the same
    if as_json:
        console.emit_json([outcome.as_json() for outcome in outcomes])
    for outcome in outcomes:
        if outcome.result != "discarded":
            console.complain(f"{outcome.failure_id}: {outcome.detail}.")
        elif not as_json:
            console.out.print(f"{outcome.failure_id} discarded: {outcome.detail}", markup=False)
    if interrupted:
        if left := ids[len(outcomes) :]:
            console.complain(
                f"Not discarded, or not to the end: {', '.join(left)}.",
                "Discard them again: what was begun goes on from there.",
            )
        raise Interrupted
    results = {outcome.result for outcome in outcomes}
    if results != {"discarded"}:
        raise SystemExit(int(Exit.NOT_AS_EXPECTED if "failed" in results else Exit.REFUSED))


def operator(there: Target) -> str:
    """Return who is at work, for the history: the caller's identity on AWS, the user of this machine locally."""
    if there.local is None:
        return str(there.client("sts").get_caller_identity()["Arn"])
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user need not have a name
        return "somebody"


def _existing(there: Target, table: FailuresTable, failure_ids: list[str]) -> list[FailureRecord]:
    """Return the failures of these ids; Stop(REFUSED) that names every unknown one."""
    found = {each: table.get(each) if each else None for each in failure_ids}
    unknown = [repr(each) for each, record in found.items() if record is None]
    if unknown:
        there_is_no = "There is no failure" if len(unknown) == 1 else "There are no failures"
        raise Stop(
            Exit.REFUSED,
            f"{there_is_no} {', '.join(unknown)}.",
            f"List them with: {there.command('failures list --status ALL')}",
        )
    return [record for record in found.values() if record]


def _statuses(word: str | None) -> tuple[str, ...]:
    from orders.inbox.record import FailureStatus  # noqa: PLC0415

    every = tuple(status.value for status in FailureStatus)
    if word is None:
        return OPEN
    if word.upper() == "ALL":
        return every
    if word.upper() not in every:
        raise Stop(Exit.USAGE, f"{word!r} is no status of a failure.", f"Known: {', '.join(every)}, ALL.")
    return (word.upper(),)


def _matching(
    table: FailuresTable,
    *,
    statuses: tuple[str, ...],
    component: str | None,
    error: str | None,
    order: str | None,
    older_than: str | None,
    newer_than: str | None,
) -> Iterator[FailureRecord]:
    """Yield the failures that match, last seen first within each status."""
    from orders.domain.clock import timestamp_before  # noqa: PLC0415
    from orders.inbox.record import FailureStatus  # noqa: PLC0415

    since = timestamp_before(seconds(newer_than)) if newer_than else "0"
    until = timestamp_before(seconds(older_than)) if older_than else "9"
    candidates: Iterator[FailureRecord] = (
        iter(table.of_order(order))
        if order
        else (record for status in statuses for record in table.with_status(FailureStatus(status), since=since))
    )
    for record in candidates:
        if (
            record.status in statuses
            and record.last_seen_at >= since
            and record.first_seen_at <= until
            and (component or "").lower() in record.component.lower()
            and (error or "").lower() in record.error_name.lower()
        ):
            yield record
