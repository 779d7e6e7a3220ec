"""One page about one order: where it is now, and why.

Nothing in here changes anything. Queues are counted and not read: receiving a message hides it and counts
towards its maxReceiveCount, so looking would make things worse.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Annotated, Any

import typer
from rich.markup import escape

from orderctl.cloud.state import DEFAULT_NAME
from orderctl.commands import logs
from orderctl.options import Json, Name, OrderId, Profile, Region, Stack
from orderctl.stack.target import Target
from orderctl.ui import console, tables

# How many executions to look through for the one of an order that hasn't noted its own yet.
MOST_EXECUTIONS = 200
START_WINDOW_S = 600
SWEEP = "SweepOrdersFunction"
QUEUES = {
    "FulfilmentQueueUrl": "fulfilment",
    "NotificationsQueueUrl": "notifications",
    "FailuresQueueUrl": "failures",
}
LEVELS = frozenset({"INFO", "WARNING", "ERROR", "CRITICAL"})
FAILED_TASKS = {
    "TaskFailed": "taskFailedEventDetails",
    "TaskTimedOut": "taskTimedOutEventDetails",
    "TaskStartFailed": "taskStartFailedEventDetails",
    "TaskSubmitFailed": "taskSubmitFailedEventDetails",
}
ENDS = {
    "ExecutionSucceeded": "",
    "ExecutionFailed": "executionFailedEventDetails",
    "ExecutionTimedOut": "executionTimedOutEventDetails",
    "ExecutionAborted": "executionAbortedEventDetails",
}


@dataclass
class Line:
    """Something that happened, when (UTC, ISO 8601), and who says so."""

    at: str
    source: str
    what: str


@dataclass
class Attempts:
    """What an execution is at: the state, its tries that failed, and when the last one failed ("" while trying)."""

    state: str = ""
    entered_at: str = ""
    errors: list[tuple[str, str]] = field(default_factory=list)
    waiting_since: str = ""


@dataclass
class Execution:
    """A workflow execution of the order."""

    arn: str
    status: str
    lines: list[Line]
    attempts: Attempts

    @property
    def name(self) -> str:
        """The execution's own name."""
        return self.arn.rpartition(":")[2]


@dataclass
class Explanation:
    """The page: what happened in time order, what the queues hold, and one sentence."""

    order: dict[str, Any]
    lines: list[Line]
    queues: dict[str, dict[str, int]]
    failures: list[dict[str, Any]]
    sentence: str


def explain(
    order_id: OrderId,
    *,
    with_logs: Annotated[bool, typer.Option("--logs/--no-logs", help="Look for log lines too; slower.")] = True,
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Say where an order is and why: timeline, workflow, failures, queues and log lines on one page."""
    from orderctl.stack import prefixes, records, target  # noqa: PLC0415

    there = target.choose(stack, name, profile, region)
    with records.tables_named(there):
        page = examine(there, prefixes.order_id(there, order_id), with_logs=with_logs)
    if as_json:
        console.emit_json(
            {
                "order": page.order,
                "events": [vars(line) for line in page.lines],
                "queues": page.queues,
                "failures": page.failures,
                "sentence": page.sentence,
            }
        )
        return
    console.out.print(tables.order({**page.order, "timeline": []}))
    console.out.print()
    happened = tables.table(tables.whole("At (UTC)"), "Source", "What happened")
    day = ""
    for line in page.lines:
        date, _, clock = line.at.removesuffix("Z").partition("T")
        if date != day:
            day = date
            happened.add_row(date, "", "")
        happened.add_row(clock, escape(line.source), escape(line.what))
    console.out.print(happened)
    console.out.print()
    for queue, counts in page.queues.items():
        console.out.print(
            f"Queue {queue}: {counts['waiting']} waiting, {counts['inFlight']} in flight, {counts['delayed']} delayed"
            " (of all orders)"
        )
    console.out.print()
    console.out.print(page.sentence, style="bold", markup=False)


def examine(there: Target, order_id: str, *, with_logs: bool = True) -> Explanation:
    """Gather everything about an order. Stop(REFUSED) if there is no such order."""
    from orderctl.stack import records  # noqa: PLC0415

    order = records.require_order(there, order_id)
    failures = records.failures_of(there, order_id)
    logged = list(log_lines(there, order, None if with_logs else SWEEP))
    known = (
        read_execution(there, arn)
        for arn in dict.fromkeys(chain(execution_arns(there, order, failures), started_by(there, order, logged)))
    )
    executions = sorted((each for each in known if each), key=lambda each: each.lines[0].at if each.lines else "")
    queues = queue_counts(there)
    lines = [
        *(Line(entry["at"], "order", _joined(entry["what"], entry.get("detail"))) for entry in order["timeline"]),
        *(line for execution in executions for line in execution.lines),
        *(
            Line(
                entry["at"], "failure inbox", _joined(f"{failure['component']}: {entry['what']}", entry.get("detail"))
            )
            for failure in failures
            for entry in failure.get("history", [])
        ),
        *(as_line(line) for line in logged if with_logs and line.level in LEVELS),
    ]
    lines.sort(key=lambda line: line.at)
    return Explanation(order, lines, queues, failures, sentence(there, order, executions, failures, queues))


def _joined(what: str, detail: str | None) -> str:
    return f"{what}: {detail}" if detail else what


# ---- Executions ------------------------------------------------------------------------------------------------


def execution_arns(there: Target, order: dict[str, Any], failures: list[dict[str, Any]]) -> list[str]:
    """Return the order's executions, as far as they are noted anywhere, oldest first.

    The order notes the one that reserved its stock; failures note the ones that failed; redrives name theirs after
    the order. Only for an order without a noted one the newest executions are looked through. What the sweep
    started is in its log: see `started_by`.
    """
    prefix = _execution_prefix(there)
    noted = [str(order["executionArn"])] if "executionArn" in order else []
    for failure in failures:
        source = failure.get("source", {})
        if "executionArn" in source:
            noted.append(source["executionArn"])
        noted += [
            f"{prefix}:{order['orderId']}-{path}-{failure['failureId']}-{number}"
            for path in ("resume", "undo", "again")
            for number in range(int(failure.get("redrives", 0)) + 1)
        ]
    return (
        list(dict.fromkeys(noted)) if "executionArn" in order else [*dict.fromkeys(noted), *_look_for(there, order)]
    )


def started_by(there: Target, order: dict[str, Any], logged: list[logs.Line]) -> list[str]:
    """Return the executions that log lines about the order say were started: the sweep names each one it starts."""
    names = (str(line.fields.get("execution", "")) for line in logged)
    prefix = _execution_prefix(there)
    return [f"{prefix}:{name}" for name in dict.fromkeys(names) if name.startswith(f"{order['orderId']}-")]


def _execution_prefix(there: Target) -> str:
    return there.output("StateMachineArn").replace(":stateMachine:", ":execution:")


def _look_for(there: Target, order: dict[str, Any]) -> Iterator[str]:
    states = there.client("stepfunctions")
    placed = _moment(order["placedAt"])
    pages = states.get_paginator("list_executions").paginate(
        stateMachineArn=there.output("StateMachineArn"),
        PaginationConfig={"MaxItems": MOST_EXECUTIONS * 5, "PageSize": 100},
    )
    looked_at = 0
    for page in pages:
        for execution in page["executions"]:
            started = execution["startDate"]
            if started < placed - datetime.timedelta(seconds=5) or looked_at == MOST_EXECUTIONS:
                return
            if started > placed + datetime.timedelta(seconds=START_WINDOW_S):
                continue
            looked_at += 1
            if execution["name"].startswith(f"{order['orderId']}-"):
                yield execution["executionArn"]
                continue
            given = states.describe_execution(executionArn=execution["executionArn"]).get("input", "")
            if str(order["orderId"]) in given:
                yield execution["executionArn"]


def read_execution(there: Target, arn: str) -> Execution | None:
    """Read an execution and its history; None if there is none of that name (or it is older than 90 days)."""
    states = there.client("stepfunctions")
    try:
        status = states.describe_execution(executionArn=arn)["status"]
        events = [
            event
            for page in states.get_paginator("get_execution_history").paginate(executionArn=arn)
            for event in page["events"]
        ]
    except states.exceptions.ExecutionDoesNotExist:
        return None
    lines: list[Line] = []
    at = Attempts()
    source = f"workflow {arn.rpartition(':')[2][-12:]}"
    for event in events:
        time, kind = logs.iso(event["timestamp"]), event["type"]
        text = ""
        if kind == "ExecutionStarted":
            text = "started" + _path_of(event["executionStartedEventDetails"].get("input", ""))
        elif kind.endswith("StateEntered"):
            at = Attempts(event["stateEnteredEventDetails"]["name"], time)
            text = f"{at.state}"
        elif kind in FAILED_TASKS:
            details = event.get(FAILED_TASKS[kind], {})
            at.errors.append((details.get("error", kind), message_of(details.get("cause", ""))))
            at.waiting_since = time
            text = f"{at.state}: attempt {len(at.errors)} failed: {': '.join(filter(None, at.errors[-1]))}"
        elif kind == "TaskScheduled":
            at.waiting_since = ""
        elif kind == "TaskSubmitted":
            text = f"{at.state}: message {_message_id(event)} sent"
        elif kind in ENDS:
            details = event.get(ENDS[kind], {})
            end = kind.removeprefix("Execution").lower()
            text = _joined(end, ": ".join(filter(None, (details.get("error"), message_of(details.get("cause", ""))))))
        if text:
            lines.append(Line(time, source, text))
    return Execution(arn, status, lines, at)


def _path_of(given: str) -> str:
    try:
        path = json.loads(given).get("path", "forward")
    except (ValueError, AttributeError):
        return ""
    return "" if path == "forward" else f" to {path}"


def _message_id(event: dict[str, Any]) -> str:
    try:
        return str(json.loads(event["taskSubmittedEventDetails"]["output"])["MessageId"])
    except (KeyError, ValueError, TypeError):
        return "?"


def message_of(cause: str) -> str:
    """Return the message in an error's cause, which is a Lambda error, a stuck state's report, or plain text."""
    try:
        parsed = json.loads(cause)
    except (ValueError, RecursionError):
        return cause[:300]
    if isinstance(parsed, dict):
        if "state" in parsed and "cause" in parsed:
            return f"{parsed['state']}: {message_of(str(parsed['cause']))}"
        return str(parsed.get("errorMessage", cause))[:300]
    return cause[:300]


def next_try(there: Target, execution: Execution) -> str:
    """Return when the execution tries again, such as "due within 4 s"; "" if that isn't known.

    With full jitter the workflow itself draws the moment; the longest wait is what its definition says.
    """
    import yaml  # noqa: PLC0415 - a definition may be YAML, and JSON is YAML

    at = execution.attempts
    machine = there.client("stepfunctions").describe_state_machine_for_execution(executionArn=execution.arn)
    definition = yaml.safe_load(machine["definition"])
    error = at.errors[-1][0]
    for retrier in definition["States"].get(at.state, {}).get("Retry", []):
        if error in retrier["ErrorEquals"] or "States.ALL" in retrier["ErrorEquals"]:
            delay = retrier.get("IntervalSeconds", 1) * retrier.get("BackoffRate", 2) ** (len(at.errors) - 1)
            left = min(delay, retrier.get("MaxDelaySeconds", delay)) - _age_s(at.waiting_since)
            return f"due within {max(1, round(left))} s" if left > 0 else "due now"
    return ""


# ---- Queues and logs -------------------------------------------------------------------------------------------


def queue_counts(there: Target) -> dict[str, dict[str, int]]:
    """Return how many messages each queue holds, of all orders."""
    names = {
        "waiting": "ApproximateNumberOfMessages",
        "inFlight": "ApproximateNumberOfMessagesNotVisible",
        "delayed": "ApproximateNumberOfMessagesDelayed",
    }
    counts = {}
    for output, queue in QUEUES.items():
        sqs = there.client("sqs")
        try:
            found = sqs.get_queue_attributes(QueueUrl=there.output(output), AttributeNames=list(names.values()))
        except sqs.exceptions.QueueDoesNotExist:
            continue
        counts[queue] = {name: int(found["Attributes"].get(attribute, 0)) for name, attribute in names.items()}
    return counts


def log_lines(there: Target, order: dict[str, Any], only: str | None = None) -> Iterator[logs.Line]:
    """Yield what the functions logged about the order, or only one of them; see `logs.of_order`."""
    groups = {name: group for name, group in logs.groups_of(there, only).items() if name != logs.WORKFLOW}
    return logs.of_order(there, groups, order)(logs.milliseconds(order["placedAt"]) - 60_000)


def as_line(line: logs.Line) -> Line:
    """Return a log line as the page shows it."""
    text = f"{line.level} {line.fields['message']}"
    if "exception_name" in line.fields:
        last = str(line.fields.get("exception", "")).strip().rpartition("\n")[2]
        text += f": {line.fields['exception_name']}: {tables.shorten(last, 200)}"
    return Line(line.at, f"log of {line.component.removesuffix('Function')}", text)


# ---- The sentence ----------------------------------------------------------------------------------------------


def sentence(
    there: Target,
    order: dict[str, Any],
    executions: list[Execution],
    failures: list[dict[str, Any]],
    queues: dict[str, dict[str, int]],
) -> str:
    """Return in one plain sentence where the order is and what it waits for."""
    from orders.domain.order import TERMINAL  # noqa: PLC0415

    open_failures = [failure for failure in failures if failure["status"] in {"NEW", "REDRIVEN"}]
    if order["status"] in TERMINAL:
        return _ended(order) + _but(there, open_failures)
    given_up = "Given up by an operator, and to be undone. " if "givenUp" in order else ""
    return given_up + _open(there, order, executions, open_failures, queues)


def _open(
    there: Target,
    order: dict[str, Any],
    executions: list[Execution],
    open_failures: list[dict[str, Any]],
    queues: dict[str, dict[str, int]],
) -> str:
    kept_by = [failure for failure in open_failures if _keeps_order(there, failure)]
    stuck = [failure for failure in kept_by if failure["status"] == "NEW"]
    running = [execution for execution in executions if execution.status == "RUNNING"]
    if running:
        return _running(there, running[-1], queues) + _but(there, open_failures)
    if stuck:
        failure = stuck[-1]
        return (
            f"Stuck since {failure['lastSeenAt']} in the failure inbox, status {order['status']}: "
            f"{failure['component']} failed with {failure['errorName']}: {failure['errorMessage'].rstrip('.')}; "
            f"once that is mended: {there.command('failures redrive ' + failure['failureId'])}"
        )
    redriven = [failure for failure in kept_by if failure["status"] == "REDRIVEN"]
    if redriven:
        return f"On its way again since {redriven[-1].get('claimedAt')}, and not yet back in a workflow."
    if not executions:
        return f"Placed {tables.age(order['placedAt'])} ago; its event has not started a workflow yet" + SWEPT
    return f"Nobody is at work on it: its last workflow has ended, the order is {order['status']}" + SWEPT


def _keeps_order(there: Target, failure: dict[str, Any]) -> bool:
    """Whether the order waits for what failed; it doesn't wait for a mail or a receipt."""
    import msgspec  # noqa: PLC0415

    from orders.inbox.record import FailureRecord  # noqa: PLC0415
    from orders.workflow import order_waits_for  # noqa: PLC0415

    return order_waits_for(msgspec.convert(failure, FailureRecord), there.output("FulfilmentQueueArn"))


SWEPT = ". Once it is overdue, about 2 hours after it was placed, the sweep starts it again."


def _ended(order: dict[str, Any]) -> str:
    at = order["updatedAt"]
    match order["status"]:
        case "FULFILLED":
            return f"Fulfilled at {at}: paid and shipped"
        case "CANCELLED":
            return f"Cancelled at {at} by the customer"
    reason = order.get("reason", {})
    return f"Failed at {at}, with everything undone: {reason.get('code')}: {reason.get('message')}"


def _but(there: Target, failures: list[dict[str, Any]]) -> str:
    """Return how the sentence ends: with a full stop, or with a command, which none may follow."""
    if not failures:
        return "."
    failure = failures[-1]
    what = f"{failure['component']} failed with {failure['errorName']} ({failure['errorMessage'].rstrip('.')})"
    if failure["status"] == "REDRIVEN":
        return f"; {what} and was redriven at {failure.get('claimedAt')}."
    more = f", and {len(failures) - 1} more" if len(failures) > 1 else ""
    return f"; but {what}{more}: {there.command('failures redrive ' + failure['failureId'])}"


def _running(there: Target, execution: Execution, queues: dict[str, dict[str, int]]) -> str:
    at = execution.attempts
    if at.errors and at.waiting_since:
        error, message = at.errors[-1]
        due = next_try(there, execution)
        times = {1: "once", 2: "twice"}.get(len(at.errors), f"{len(at.errors)} times")
        return (
            f"Waiting for {at.state}'s {_ordinal(len(at.errors) + 1)} attempt{', ' + due if due else ''}: "
            f"it failed {times}, the last time with {error}: {message.rstrip('.')}"
        )
    since = tables.age(at.entered_at) if at.entered_at else "a moment"
    if at.state == "FulfillOrder":
        queue = queues.get("fulfilment", {"waiting": 0, "inFlight": 0})
        return (
            f"Waiting for the warehouse for {since}: its message went to the fulfilment queue, which has "
            f"{queue['waiting']} messages waiting and {queue['inFlight']} in flight"
        )
    tries = f", {_ordinal(len(at.errors) + 1)} attempt" if at.errors else ""
    return f"In {at.state or 'the workflow'} for {since}{tries}"


def _ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _moment(at: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(at)


def _age_s(at: str) -> float:
    return (datetime.datetime.now(datetime.UTC) - _moment(at)).total_seconds()
