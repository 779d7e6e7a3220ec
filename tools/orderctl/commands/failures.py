"""The commands on the failure inbox: failures list, show, redrive, discard, hold, release."""

from __future__ import annotations

import getpass
import time
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from orderctl.defaults import DEFAULT_NAME
from orderctl.exits import Exit, Interrupted, Stop
from orderctl.options import Json, Name, Profile, Region, Stack, Watch, examples, filled, seconds
from orderctl.ui import console

if TYPE_CHECKING:
    from rich.console import RenderableType

    from orderctl.redrive.many import ComeBacks, Run
    from orderctl.stack.target import Target
    from orders.inbox.record import FailureRecord, FailureStatus
    from orders.inbox.store import FailuresTable
    from orders.redrive.sending import Outcome

app = typer.Typer(
    name="failures",
    help="List, redrive, hold and discard technical failures.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Status = Annotated[
    str | None,
    typer.Option(help="NEW, REDRIVEN, RESOLVED, DISCARDED or ALL (default: NEW and REDRIVEN)."),
]
Component = Annotated[
    str | None,
    typer.Option(help="The function, queue or state that failed; part of the name is enough.", callback=filled),
]
Error = Annotated[str | None, typer.Option(help="The error's name; part of it is enough.", callback=filled)]
Order = Annotated[str | None, typer.Option("--order", help="The order's id, or its start.", callback=filled)]
OlderThan = Annotated[
    str | None, typer.Option(help="First seen before this time: 45s, 30m, 2h, 7d ago.", callback=filled)
]
NewerThan = Annotated[
    str | None, typer.Option(help="Last seen after this time: 45s, 30m, 2h, 7d ago.", callback=filled)
]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Failure ids, or their starts.")]

MAX_REASON = 500
UNDOING_S = 30  # a discard waits so long for the end of the orders that it gives up
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
    """List failures, grouped by cause, last seen first; for each cause, whether its failures heal by themselves."""
    from orderctl.redrive import healing
    from orderctl.stack import prefixes, records
    from orderctl.stack.target import choose
    from orderctl.views import failure_tables

    if watch and as_json:
        raise Stop(Exit.USAGE, "--watch and --json exclude each other.", "Choose one.")
    target = choose(stack, name, profile, region)
    statuses = _statuses(status)
    with records.tables_named(target):
        table = records.failures_table(target)
        whole_order = prefixes.order_id(target, order) if order else None

        def look() -> tuple[list[FailureRecord], list[str], bool]:
            unreadable: list[str] = []
            chosen = _matching(
                table,
                statuses=statuses,
                component=component,
                error=error,
                order=whole_order,
                older_than=older_than,
                newer_than=newer_than,
                unreadable=unreadable,
            )
            found = list(islice(chosen, limit + 1))
            return found[:limit], unreadable, len(found) > limit

        def page() -> RenderableType:
            found, unreadable, more = look()
            held = failure_tables.held(healing.holds_or_none(table))
            if not found and not unreadable:
                narrowed = any((status, component, error, order, older_than, newer_than))
                return f"{'No failures match.' if narrowed else 'Nothing is stuck.'}{held}"
            next_step = target.command("failures show ID")
            return failure_tables.listing(
                found,
                unreadable,
                healing.outlooks(target, table, found),
                held=held,
                more=more,
                next_step=next_step,
                fit=watch,
            )

        if watch:
            console.watch(page)
        elif as_json:
            found, unreadable, more = look()
            outlooks = healing.outlooks(target, table, found)
            console.emit_json(
                {
                    "groups": failure_tables.groups(found),
                    "failures": [
                        {
                            **failure_tables.summary(record),
                            "healing": healing.as_json(outlooks.get(record.failure_id)),
                        }
                        for record in found
                    ],
                    **({"unreadable": unreadable} if unreadable else {}),
                    "holds": healing.holds_as_json(healing.holds_or_none(table)),
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
    """Show one failure: component, error, whole payload, what a redrive would do, healing, and its history."""
    import msgspec

    from orderctl.redrive import healing
    from orderctl.stack import prefixes, records
    from orderctl.stack.target import choose
    from orderctl.views import failure_tables
    from orders.redrive import sending

    target = choose(stack, name, profile, region)
    with records.tables_named(target):
        table = records.failures_table(target)
        (whole,) = prefixes.failure_ids(table, [failure_id])
        (record,) = _existing(target, table, [whole])
        outlook = healing.outlooks(target, table, [record]).get(whole)
    record.payload = table.payload_of(record)
    if as_json:
        plan = {"redriveSays": sending.describe(record), "healing": healing.as_json(outlook)}
        console.emit_json({**msgspec.to_builtins(record), **plan})
    else:
        failure_tables.show_failure(record, sending.describe(record), outlook)


@app.command(
    "redrive",
    epilog=examples(
        "orderctl failures redrive 3f0c9a1b 9ab2c3d4",
        "orderctl failures redrive --error PaymentProviderError --dry-run",
        "orderctl failures redrive --component IssueReceipt --rate 50 --stack orders-prod",
    ),
)
def redrive_failures(
    failure_ids: Ids = None,
    *,
    component: Component = None,
    error: Error = None,
    order: Order = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    everything: Annotated[bool, typer.Option("--all", help="Every NEW failure.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what a redrive would do.")] = False,
    rate: Annotated[float, typer.Option(min=0.1, max=1000, help="At most so many a second.")] = 10,
    again: Annotated[
        bool, typer.Option("--again", help="Also failures that were redriven before and have not failed again.")
    ] = False,
    wait: Annotated[
        float,
        typer.Option(min=0, max=600, help="For how many seconds to watch whether redriven failures fail again."),
    ] = 6,
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Send failures' payloads to their destinations: the failures with these ids, or the NEW ones that match.

    Stops when more than a fifth of the payloads can't be sent or fail again. A second redrive of the same failure has
    no second effect. If an id is unknown, nothing is sent. Exit 0: all were sent and none has failed again so far; 4:
    a failure was refused; 5: a payload could not be sent or has failed again, or the redrive stopped.
    """
    from orderctl.redrive import many
    from orderctl.stack import prefixes, records
    from orderctl.stack.target import choose
    from orderctl.views import failure_tables
    from orders.inbox.record import FailureStatus

    if bool(failure_ids) == any((component, error, order, older_than, newer_than, everything)):
        raise Stop(
            Exit.USAGE,
            "Name failures by id, or choose them by an option such as --error or --component.",
            "For every NEW failure, use --all.",
        )
    target = choose(stack, name, profile, region)
    with records.tables_named(target):
        table = records.failures_table(target)
        whole_order = prefixes.order_id(target, order) if order else None
        if failure_ids:
            ids = prefixes.failure_ids(table, failure_ids)
            _existing(target, table, ids)
        else:
            ids = [
                record.failure_id
                for record in _matching(
                    table,
                    statuses=_statuses(None),
                    component=component,
                    error=error,
                    order=whole_order,
                    older_than=older_than,
                    newer_than=newer_than,
                    unreadable=[],
                )
                if record.status is FailureStatus.NEW or again or record.sent_at is None
            ]
    if dry_run:
        _show_plans(_existing(target, table, ids), as_json)
        return
    come_backs = many.ComeBacks(table)
    run, watched_s, interrupted = many.Run(), 0.0, False
    try:
        with console.working(f"Redriving {console.count(len(ids), 'failure')}, at most {rate:g} a second") as note:
            many.redrive_many(
                target,
                ids,
                operator(target),
                rate=rate,
                again=again,
                progress=lambda run: note(
                    f"{len(run.outcomes)} of {len(ids)}: {run.count('failed')} failed, {run.came_back} came back"
                ),
                run=run,
            )
        watched_s = _watch_for_failures(run, come_backs, wait)
    except Interrupted:
        interrupted = True  # show the outcomes all the same: they are stored nowhere else
    if as_json:
        console.emit_json(run.as_json())
    else:
        failure_tables.show_run(run, len(ids), watched_s, target.command("failures list"))
    if interrupted:
        raise Interrupted
    _end(run)


def _watch_for_failures(run: Run, come_backs: ComeBacks, wait_s: float) -> float:
    """Count the redriven failures that fail again, for at most `wait_s`; returns how many seconds were spent."""
    sent = {outcome.failure_id for outcome in run.outcomes if outcome.result == "redriven"}
    if not sent or not wait_s:
        return 0.0
    began = time.monotonic()
    with console.working(f"Watching for {wait_s:g} s whether they fail again"):
        while run.came_back < len(sent) and time.monotonic() - began < wait_s:
            time.sleep(min(POLL_S, wait_s))
            run.came_back = max(run.came_back, come_backs.count(sent))
    return time.monotonic() - began


def _end(run: Run) -> None:
    if run.stopped or run.count("failed") or run.came_back:
        raise SystemExit(int(Exit.NOT_AS_EXPECTED))
    if run.count("refused"):
        raise SystemExit(int(Exit.REFUSED))


def _show_plans(records: list[FailureRecord], as_json: bool) -> None:
    from orderctl.views import failure_tables
    from orders.redrive import sending

    plans = [(record, sending.describe(record)) for record in records]
    if as_json:
        console.emit_json(
            [{"failureId": record.failure_id, "status": record.status, "would": plan} for record, plan in plans]
        )
    else:
        failure_tables.show_plans(plans)


@app.command(
    "discard",
    epilog=examples('orderctl failures discard 3f0c9a1b --reason "test data"'),
)
def discard_failures(
    failure_ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Failure ids, or their starts.")],
    *,
    reason: Annotated[str, typer.Option(help="Why the failure needs no redrive; kept in its history.")],
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Discard failures. The order that waits for one is undone: refunded, its stock released, never shipped.

    Waits up to half a minute for the order's end and shows it. An order whose parcel has left becomes FULFILLED.
    """
    from orderctl.redrive import discarding
    from orderctl.stack import prefixes, records
    from orderctl.stack.target import choose

    if not reason.strip():
        raise Stop(Exit.USAGE, "The reason is empty.", 'Say why: --reason "…"')
    if len(reason) > MAX_REASON:
        raise Stop(Exit.USAGE, f"The reason has {len(reason)} characters.", f"At most {MAX_REASON} are kept.")
    target = choose(stack, name, profile, region)
    by = operator(target)
    with records.tables_named(target):
        table = records.failures_table(target)
        ids = prefixes.failure_ids(table, failure_ids)
        outcomes: list[Outcome] = []
        interrupted = False
        try:
            for each in ids:
                outcomes.append(discarding.discard_one(target, table, each, by, reason))  # noqa: PERF401 - keeps them after an interruption
            given_up = sum(outcome.given_up for outcome in outcomes)
            if given_up:
                with console.step(f"Undoing {console.count(given_up, 'order')}"):
                    discarding.await_undoing(target, outcomes, UNDOING_S)
        except Interrupted:
            interrupted = True  # show the outcomes all the same
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
                f"Not discarded, or not completely: {', '.join(left)}.",
                "Discard them again: a second discard continues the first.",
            )
        raise Interrupted
    results = {outcome.result for outcome in outcomes}
    if results != {"discarded"}:
        raise SystemExit(int(Exit.NOT_AS_EXPECTED if "failed" in results else Exit.REFUSED))


HeldCause = Annotated[
    str | None,
    typer.Option("--cause", help="The cause, as `failures list` shows it; part of it is enough.", callback=filled),
]


@app.command(
    "hold",
    epilog=examples(
        "orderctl failures hold --cause PaymentProviderError",
        "orderctl failures hold 3f0c9a1b",
        "orderctl failures hold --all",
    ),
)
def hold_failures(
    failure_ids: Ids = None,
    *,
    cause: HeldCause = None,
    everything: Annotated[bool, typer.Option("--all", help="Every cause, also one that comes up later.")] = False,
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Keep failures from healing by themselves until they are released: single ones, a cause, or all.

    Everybody sees the hold in `failures list`. Orders that are being undone are never held. A redrive by hand
    is still possible.
    """
    from orderctl.redrive import healing
    from orderctl.stack import prefixes, records
    from orderctl.stack.target import choose
    from orders.inbox.healing import EVERYTHING

    _require_one_choice(failure_ids, cause, everything)
    target = choose(stack, name, profile, region)
    with records.tables_named(target):
        table = records.failures_table(target)
        if failure_ids:
            found = _existing(target, table, prefixes.failure_ids(table, failure_ids))
            wanted = {record.failure_id: f"failure {record.failure_id}" for record in found}
            _require_healing(target, table, found)
        elif cause:
            wanted = _causes_named(table, cause)
        else:
            wanted = {EVERYTHING: healing.EVERYTHING_SAID}
        holds = healing.hold(table, wanted, operator(target))
    if as_json:
        console.emit_json(healing.holds_as_json(holds))
        return
    for key in wanted:
        held = holds.held[key]
        console.out.print(f"{held.by} holds {held.what} since {held.at}.", markup=False)


@app.command(
    "release",
    epilog=examples("orderctl failures release --cause PaymentProviderError", "orderctl failures release --all"),
)
def release_failures(
    failure_ids: Ids = None,
    *,
    cause: HeldCause = None,
    everything: Annotated[bool, typer.Option("--all", help="All that is held.")] = False,
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Let held failures heal by themselves again. Exit 4: one of them isn't held, so none was released."""
    from orderctl.redrive import healing
    from orderctl.stack import prefixes, records
    from orderctl.stack.target import choose

    _require_one_choice(failure_ids, cause, everything)
    target = choose(stack, name, profile, region)
    with records.tables_named(target):
        table = records.failures_table(target)
        before = healing.read_holds(table)
        if failure_ids:
            keys = prefixes.failure_ids(table, failure_ids)
        elif cause:
            named = [key for key, hold in before.held.items() if cause.lower() in hold.what.lower()]
            keys = named or [cause]
        else:
            keys = list(before.held)
            if not keys:
                raise Stop(Exit.REFUSED, "Nothing is held.", "`failures list` names what is held.")
        after = healing.release(table, keys)
    if as_json:
        console.emit_json(healing.holds_as_json(after))
        return
    for key in keys:
        console.out.print(f"Released: {before.held[key].what if key in before.held else key}.", markup=False)


def _require_one_choice(failure_ids: list[str] | None, cause: str | None, everything: bool) -> None:
    if [bool(failure_ids), cause is not None, everything].count(True) != 1:
        raise Stop(
            Exit.USAGE, "Name failures by id, or a cause with --cause, or choose --all.", "Choose one of these."
        )


def _require_healing(target: Target, table: FailuresTable, found: list[FailureRecord]) -> None:
    """Stop(REFUSED) for a failure that doesn't heal by itself, so that nobody relies on a hold without effect."""
    from orderctl.redrive import healing

    outlooks = healing.outlooks(target, table, found)
    for record in found:
        outlook = outlooks.get(record.failure_id)
        why = outlook.human if outlook else f"it is {record.status} already"
        if why:
            raise Stop(Exit.REFUSED, f"The failure {record.failure_id} does not heal by itself: {why}.", "")


def _causes_named(table: FailuresTable, text: str) -> dict[str, str]:
    """Return the keys of the transient causes that have this text and open failures; Stop(REFUSED) if none has."""
    from orders.inbox.healing import cause_of, is_transient

    known = {
        cause_of(record)
        for status in _statuses(None)
        for record in table.with_status(status, unreadable=[])
        if is_transient(record)
    }
    wanted = {cause.key: str(cause) for cause in sorted(known) if text.lower() in str(cause).lower()}
    if not wanted:
        named = ", ".join(f"{cause}" for cause in sorted(known)) or "none"
        raise Stop(
            Exit.REFUSED,
            f"No cause that heals by itself and has open failures is named {text!r}.",
            f"There are: {named}.",
        )
    return wanted


def operator(target: Target) -> str:
    """Return the operator's name for the history: the caller's ARN on AWS, the user of this machine locally."""
    if target.local is None:
        return str(target.client("sts").get_caller_identity()["Arn"])
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return "somebody"


def _existing(target: Target, table: FailuresTable, failure_ids: list[str]) -> list[FailureRecord]:
    """Return the failures with these ids; Stop(REFUSED) that names every unknown or damaged one."""
    found = {each: _read(table, each) if each else None for each in failure_ids}
    unknown = [repr(each) for each, record in found.items() if record is None]
    if unknown:
        there_is_no = "There is no failure" if len(unknown) == 1 else "There are no failures"
        raise Stop(
            Exit.REFUSED,
            f"{there_is_no} {', '.join(unknown)}.",
            f"List them with: {target.command('failures list --status ALL')}",
        )
    return [record for record in found.values() if record]


def _read(table: FailuresTable, failure_id: str) -> FailureRecord | None:
    try:
        return table.get(failure_id)
    except ValueError as error:
        raise Stop(
            Exit.REFUSED, f"The failure {failure_id} can't be read: {error}", "Mend or delete its item in the table."
        ) from error


def _statuses(word: str | None) -> list[FailureStatus]:
    """Return the statuses that the option --status chooses; Stop(USAGE) if there is no such status."""
    from orders.inbox.record import SETTLED, FailureStatus

    every = list(FailureStatus)
    if word is None:
        return [status for status in every if status not in SETTLED]
    if word.upper() == "ALL":
        return every
    if word.upper() not in every:
        raise Stop(Exit.USAGE, f"{word!r} is no status of a failure.", f"Statuses: {', '.join(every)}, ALL.")
    return [FailureStatus(word.upper())]


def _matching(
    table: FailuresTable,
    *,
    statuses: list[FailureStatus],
    component: str | None,
    error: str | None,
    order: str | None,
    older_than: str | None,
    newer_than: str | None,
    unreadable: list[str],
) -> Iterator[FailureRecord]:
    """Yield the failures that match, last seen first within each status; ids of damaged ones go to `unreadable`."""
    from orders.domain.clock import timestamp_before

    since = timestamp_before(seconds(newer_than)) if newer_than else "0"
    until = timestamp_before(seconds(older_than)) if older_than else "9"
    candidates: Iterator[FailureRecord] = (
        iter(table.of_order(order, unreadable=unreadable))
        if order
        else (
            record for status in statuses for record in table.with_status(status, since=since, unreadable=unreadable)
        )
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
