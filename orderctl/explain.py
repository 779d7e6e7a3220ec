"""One page about one order: where it is now, and why.

Nothing in here changes anything. Queues are counted and not read: receiving a message hides it and counts
towards its maxReceiveCount, so looking would make things worse.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from orderctl import console, show
from orderctl.cloud import DEFAULT_NAME
from orderctl.exits import Exit, Stop
from orderctl.options import Json, Name, Profile, Region, Stack
from orderctl.target import Target

TERMINAL = frozenset({"FULFILLED", "FAILED", "CANCELLED"})
# How many executions to look through for the one of an order that hasn't noted its own yet.
MOST_EXECUTIONS = 200
START_WINDOW_S = 600
SHORTEST_PROMISE_S = 3600
MOST_SWEEPS = 50
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
    order_id: Annotated[str, typer.Argument(help="The order's id.")],
    *,
    logs: Annotated[bool, typer.Option(help="Look for log lines too; slower.")] = True,
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Say where an order is and why: timeline, workflow, failures, queues and log lines on one page."""
    from orderctl import target  # noqa: PLC0415

    page = examine(target.choose(stack, name, profile, region), order_id, with_logs=logs)
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
    if not console.out.is_terminal:
        console.out.width = 240
    console.out.print(show.order({**page.order, "timeline": []}))
    happened = Table("At", "Source", "What happened", box=None, pad_edge=False)
    for line in page.lines:
        happened.add_row(line.at, escape(line.source), escape(line.what))
    console.out.print(happened)
    for queue, counts in page.queues.items():
        console.out.print(
            f"Queue {queue}: {counts['waiting']} waiting, {counts['inFlight']} in flight, {counts['delayed']} delayed"
            " (of all orders)"
        )
    console.out.print()
    console.out.print(page.sentence, style="bold", markup=False)


def examine(there: Target, order_id: str, *, with_logs: bool = True) -> Explanation:
    """Gather everything about an order. Stop(REFUSED) if there is no such order."""
    from orderctl import records  # noqa: PLC0415

    order = records.find_order(there, order_id)
    if order is None:
        raise Stop(Exit.REFUSED, f"There is no order {order_id}.", "List them with: orderctl orders")
    failures = records.failures_of(there, order_id)
    known = (read_execution(there, arn) for arn in execution_arns(there, order, failures))
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
        *(log_lines(there, order) if with_logs else ()),
    ]
    lines.sort(key=lambda line: line.at)
    return Explanation(order, lines, queues, failures, sentence(there, order, executions, failures, queues))


def _joined(what: str, detail: str | None) -> str:
    return f"{what}: {detail}" if detail else what


# ---- Executions ------------------------------------------------------------------------------------------------


def execution_arns(there: Target, order: dict[str, Any], failures: list[dict[str, Any]]) -> list[str]:
    """Return the order's executions, as far as they are noted anywhere, oldest first.

    The order notes the one that reserved its stock; failures note the ones that failed; redrives and sweeps name
    theirs after the order. Only for an order without any of these the newest executions are looked through.
    """
    prefix = there.output("StateMachineArn").replace(":stateMachine:", ":execution:")
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
    noted += [f"{prefix}:{order['orderId']}-sweep-{number}" for number in _sweeps(order)]
    return (
        list(dict.fromkeys(noted)) if "executionArn" in order else [*dict.fromkeys(noted), *_look_for(there, order)]
    )


def _sweeps(order: dict[str, Any]) -> range:
    """The numbers that sweeps have in their executions' names: how many promises were broken while it was open."""
    open_until = _moment(order["updatedAt"]) if order["status"] in TERMINAL else datetime.datetime.now(datetime.UTC)
    open_s = (open_until - _moment(order["placedAt"])).total_seconds()
    return range(1, 1 + min(MOST_SWEEPS, int(open_s // SHORTEST_PROMISE_S)))


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
        time, kind = _written(event["timestamp"]), event["type"]
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


def log_lines(there: Target, order: dict[str, Any]) -> Iterator[Line]:
    """Yield what the functions logged about the order, found by its correlation id."""
    logs = there.client("logs")
    start = int((_moment(order["placedAt"]).timestamp() - 60) * 1000)
    for group in _log_groups(there):
        pages = logs.get_paginator("filter_log_events").paginate(
            logGroupName=group,
            filterPattern=f'"{order["correlationId"]}"',
            startTime=start,
            PaginationConfig={"MaxItems": 200},
        )
        for page in pages:
            for event in page["events"]:
                line = _log_line(event["message"], str(order["correlationId"]))
                if line:
                    yield line


def _log_groups(there: Target) -> list[str]:
    # The bus is named after the stack (template.yaml).
    stack = there.output("EventBusName").removesuffix("-orders")
    pages = there.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=stack)
    return [
        resource["PhysicalResourceId"]
        for page in pages
        for resource in page["StackResourceSummaries"]
        if resource["ResourceType"] == "AWS::Logs::LogGroup" and not resource["LogicalResourceId"].startswith("Order")
    ]


def _log_line(message: str, correlation_id: str) -> Line | None:
    try:
        entry = json.loads(message)
    except ValueError:
        return None
    if (
        not isinstance(entry, dict)
        or entry.get("correlation_id") != correlation_id
        or entry.get("level") not in LEVELS
    ):
        return None
    when = datetime.datetime.strptime(entry["timestamp"], "%Y-%m-%d %H:%M:%S,%f%z")
    function = entry.get("function_name", "?")
    text = f"{entry['level']} {entry['message']}"
    if "exception_name" in entry:
        text += f": {entry['exception_name']}: {str(entry.get('exception', '')).strip().splitlines()[-1][:200]}"
    return Line(_written(when), f"log of {component(function)}", text)


def component(function_name: str) -> str:
    """Return a function's name as the template has it."""
    from orders.failure_messages import component_of  # noqa: PLC0415

    return component_of(function_name)


# ---- The sentence ----------------------------------------------------------------------------------------------


def sentence(
    there: Target,
    order: dict[str, Any],
    executions: list[Execution],
    failures: list[dict[str, Any]],
    queues: dict[str, dict[str, int]],
) -> str:
    """Return in one plain sentence where the order is and what it waits for."""
    open_failures = [failure for failure in failures if failure["status"] in {"NEW", "REDRIVEN"}]
    if order["status"] in TERMINAL:
        return _ended(order) + _but(open_failures) + "."
    stuck = [failure for failure in open_failures if failure["status"] == "NEW" and _keeps_order(failure)]
    running = [execution for execution in executions if execution.status == "RUNNING"]
    if running:
        return _running(there, running[-1], queues) + _but(open_failures) + "."
    if stuck:
        failure = stuck[-1]
        return (
            f"Stuck since {failure['lastSeenAt']} in the failure inbox, status {order['status']}: "
            f"{failure['component']} failed with {failure['errorName']}: {failure['errorMessage'].rstrip('.')}; "
            f"once that is mended: orderctl failures redrive {failure['failureId']}."
        )
    redriven = [failure for failure in open_failures if failure["status"] == "REDRIVEN" and _keeps_order(failure)]
    if redriven:
        return f"On its way again since {redriven[-1].get('claimedAt')}, and not yet back in a workflow."
    if not executions:
        return f"Placed {_ago(order['placedAt'])} ago; its event has not started a workflow yet" + SWEPT
    return f"Nobody is at work on it: its last workflow has ended, the order is {order['status']}" + SWEPT


def _keeps_order(failure: dict[str, Any]) -> bool:
    """Whether the order waits for what failed; it doesn't wait for a mail or a receipt."""
    return (
        failure["kind"] in {"execution", "stream"}
        or ":states:" in failure["redrive"].get("to", "")
        or failure["component"] == "FulfilmentQueue"
    )


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


def _but(failures: list[dict[str, Any]]) -> str:
    if not failures:
        return ""
    failure = failures[-1]
    what = f"{failure['component']} failed with {failure['errorName']} ({failure['errorMessage'].rstrip('.')})"
    if failure["status"] == "REDRIVEN":
        return f"; {what} and was redriven at {failure.get('claimedAt')}"
    more = f", and {len(failures) - 1} more" if len(failures) > 1 else ""
    return f"; but {what}{more}: orderctl failures redrive {failure['failureId']}"


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
    since = _ago(at.entered_at) if at.entered_at else "a moment"
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


def _ago(at: str) -> str:
    age = _age_s(at)
    return f"{age:.0f} s" if age < 120 else f"{age / 60:.0f} min" if age < 7200 else f"{age / 3600:.1f} h"


def _written(when: datetime.datetime) -> str:
    return when.astimezone(datetime.UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
