"""The rules that the order workflow keeps, beside those of `rules.py`; checked with the template it runs in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from orders.domain.order import TERMINAL, TRANSITIONS, Status
from tests.template.cloudformation import Template, as_list, logical_id
from tests.template.rules import rule
from tests.template.workflow_budget import arrivals_s, budget_s, unguarded_loop

WORKFLOW = "OrderExpressWorkflow"
EXPRESS_S = 300  # Step Functions developer guide, "Quotas": the longest time of an Express execution
REPORT = "ReportStuck"
REPORT_S = 30
SUBSTITUTION = re.compile(r"\$\{(\w+)\}")
# What a state's resource stands for, and which permission it takes on which kind of argument.
INTEGRATIONS = {
    "arn:aws:states:::lambda:invoke": "lambda:InvokeFunction",
    "arn:aws:states:::sqs:sendMessage": "sqs:SendMessage",
    "arn:aws:states:::dynamodb:getItem": "dynamodb:GetItem",
    "arn:aws:states:::dynamodb:updateItem": "dynamodb:UpdateItem",
    "arn:aws:states:::aws-sdk:dynamodb:transactWriteItems": "dynamodb:UpdateItem",
}


def states(template: Template, *kinds: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and definition of each state of these types, or of all."""
    for name, state in template.workflow["States"].items():
        if not kinds or state["Type"] in kinds:
            yield name, state


def _following(state: dict[str, Any]) -> Iterator[str]:
    if "Next" in state:
        yield state["Next"]
    if "Default" in state:
        yield state["Default"]
    for branch in [*state.get("Choices", []), *state.get("Catch", [])]:
        yield branch["Next"]


def _used_by(template: Template, state: dict[str, Any]) -> set[str]:
    """The template's resources that a state's arguments name through the definition's substitutions."""
    substitutions = template.properties(WORKFLOW).get("DefinitionSubstitutions", {})
    names = SUBSTITUTION.findall(json.dumps(state.get("Arguments", {})))
    return {found for name in names if (found := logical_id(substitutions.get(name)))}


def _last(state: dict[str, Any], part: str) -> dict[str, Any]:
    """The last of a state's retriers or catchers, if it takes every error."""
    entries = state.get(part, [])
    return entries[-1] if entries and entries[-1]["ErrorEquals"] == ["States.ALL"] else {}


def _leads_to_failure(template: Template, name: str, passed: frozenset[str] = frozenset()) -> bool:
    """Whether an execution that gets here fails, unless a choice finds that there is nothing to fail for."""
    state = template.workflow["States"].get(name, {})
    if name in passed or state.get("Type") not in {"Fail", "Choice", "Task"}:
        return False
    following = {"Fail": [], "Choice": [state.get("Default")], "Task": [state.get("Next"), *_catch_alls(state)]}
    ways = [str(each) for each in following[state["Type"]]]
    return all(_leads_to_failure(template, each, passed | {name}) for each in ways)


def _catch_alls(state: dict[str, Any]) -> list[str]:
    return [entry["Next"] for entry in state.get("Catch", []) if "States.ALL" in entry["ErrorEquals"]]


@rule
def tasks_time_out(template: Template) -> Iterator[str]:
    """Else a state waits for a year."""
    for name, state in states(template, "Task"):
        if "TimeoutSeconds" not in state:
            yield f"{name}: no timeout"
    if "TimeoutSeconds" not in template.workflow:
        yield f"{WORKFLOW}: no timeout"


@rule
def tasks_retry(template: Template) -> Iterator[str]:
    """Any error that isn't named otherwise, with growing and scattered pauses."""
    for name, state in states(template, "Task"):
        retrier = _last(state, "Retry")
        if retrier.get("MaxAttempts", 0) < 1:
            yield f"{name}: does not retry"
        elif retrier.get("BackoffRate", 2) <= 1 or retrier.get("JitterStrategy") != "FULL":
            yield f"{name}: retries without backoff or jitter"


@rule
def tasks_catch_everything(template: Template) -> Iterator[str]:
    """States.ALL takes States.Timeout too; what nobody expected ends in the failure inbox."""
    for name, state in states(template, "Task"):
        catcher = _last(state, "Catch")
        if not catcher:
            yield f"{name}: does not catch everything"
        elif not _leads_to_failure(template, catcher["Next"]):
            yield f"{name}: an unexpected error goes to {catcher['Next']}, which does not fail the execution"


@rule
def business_errors_are_not_retried(template: Template) -> Iterator[str]:
    """What is caught by name is an answer; asking again only makes the customer wait."""
    for name, state in states(template, "Task"):
        caught = {
            error for entry in state.get("Catch", []) for error in entry["ErrorEquals"] if error != "States.ALL"
        }
        answers = {
            error
            for entry in state.get("Retry", [])
            if not entry.get("MaxAttempts", 3)
            for error in entry["ErrorEquals"]
        }
        if caught - answers:
            yield f"{name}: retries {', '.join(sorted(caught - answers))}"


@rule
def states_lead_somewhere(template: Template) -> Iterator[str]:
    """Every transition has a target and every state a way to it; Choice has a default."""
    known = template.workflow["States"]
    reached, waiting = set(), [template.workflow["StartAt"]]
    while waiting:
        name = waiting.pop()
        if name in reached or name not in known:
            continue
        reached.add(name)
        waiting.extend(_following(known[name]))
    for name, state in states(template):
        yield from (
            f"{name}: goes to {following}, which isn't there"
            for following in _following(state)
            if following not in known
        )
        if name not in reached:
            yield f"{name}: no state leads here"
        if state["Type"] == "Choice" and "Default" not in state:
            yield f"{name}: no default"


@rule
def substitutions_are_filled(template: Template) -> Iterator[str]:
    """In both directions: no hole in the definition, no value that nobody uses."""
    used = set(SUBSTITUTION.findall(json.dumps(template.workflow)))
    filled = template.properties(WORKFLOW).get("DefinitionSubstitutions", {}).keys()
    yield from (f"{WORKFLOW}: nothing is put in for ${{{name}}}" for name in sorted(used - filled))
    yield from (f"{WORKFLOW}: nothing uses the substitution {name}" for name in sorted(filled - used))


@rule
def the_workflow_may_do_what_it_does_and_no_more(template: Template) -> Iterator[str]:
    """Its role allows each state's call on each resource that it names, and no other call."""
    role = template.role_of(WORKFLOW)
    needed: set[tuple[str, str]] = set()
    for name, state in states(template, "Task"):
        action = INTEGRATIONS.get(state["Resource"])
        if action is None:
            yield f"{name}: which permission {state['Resource']} takes isn't known here"
            continue
        used = _used_by(template, state)
        if not used:
            yield f"{name}: names no resource of the template"
        needed |= {(action, resource) for resource in used}
        for resource in sorted(used):
            if not template.allows(role, action, resource):
                yield f"{name}: the workflow may not {action} on {resource}"
    for statement in template.statements(role):
        for action in statement["Action"]:
            for allowed in filter(None, map(logical_id, statement["Resource"])):
                if (action, allowed) not in needed:
                    yield f"{role}: {action} on {allowed} is not needed by any state"


@rule
def states_outwait_their_functions(template: Template) -> Iterator[str]:
    """A state that gives up first would start a second run while the first is still at work."""
    for name, state in states(template, "Task"):
        for function in _used_by(template, state):
            if template.type_of(function) == "Lambda::Function":
                timeout_s = template.properties(function).get("Timeout", 3)
                if state.get("TimeoutSeconds", 0) < timeout_s:
                    yield f"{name}: waits {state.get('TimeoutSeconds')} s, {function} may take {timeout_s} s"


@rule
def nothing_takes_longer_than_an_express_workflow(template: Template) -> Iterator[str]:
    """Step Functions ends an execution after 300 s and refuses callbacks; the report of a stuck order takes time."""
    if template.properties(WORKFLOW).get("StateMachineType") != "EXPRESS":
        yield f"{WORKFLOW}: is not an Express workflow"
    for name, state in states(template, "Task"):
        if state["Resource"].endswith((".waitForTaskToken", ".sync", ".sync:2")):
            yield f"{name}: an Express workflow refuses {state['Resource']}"
    if loop := unguarded_loop(template.workflow):
        yield f"{', '.join(loop)}: nothing ends this loop"
        return
    limit_s = template.workflow.get("TimeoutSeconds", EXPRESS_S + 1)
    if limit_s > EXPRESS_S:
        yield f"{WORKFLOW}: its time-out is longer than {EXPRESS_S} s"
    try:
        report_s = budget_s(template.workflow["States"][REPORT])
        arrives_s = arrivals_s(template.workflow).get(REPORT, 0)
    except (KeyError, ValueError) as unknown:
        yield f"{WORKFLOW}: its longest time can't be computed: {unknown}"
        return
    if report_s > REPORT_S:
        yield f"{REPORT}: may take {report_s:.0f} s, longer than {REPORT_S} s"
    if arrives_s + report_s > limit_s:
        yield f"{WORKFLOW}: {REPORT} may end after {arrives_s + report_s:.0f} s, the execution ends after {limit_s} s"


@rule
def failed_executions_report_themselves(template: Template) -> Iterator[str]:
    """An Express execution has no status events: only what it sends to the failures queue tells of its failure."""
    senders = {
        name
        for name, state in states(template, "Task")
        if "FailuresQueue" in _used_by(template, state) and "kind: StuckOrder" in _message_of(state)
    }
    for name, state in states(template):
        for following in _following(state):
            fails = template.workflow["States"].get(following, {}).get("Type") == "Fail"
            if fails and name not in senders:
                yield f"{name}: fails the execution without a message to the failures queue"


def _message_of(state: dict[str, Any]) -> str:
    body = state.get("Arguments", {}).get("MessageBody", {})
    return "\n".join(f"{name}: {value}" for name, value in body.items())


# ---- What the states write


# The variable's values when an execution enters a state that writes on the condition that the status is this one.
STATUSES = {
    "ReserveInventory": [Status.PLACED],
    "ReleaseInventory": [Status.RESERVED, Status.FAILING],
    "OrderFailed": [Status.PLACED],
}


def status_writes(name: str, state: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(from, to, update expression) for each change of an order's status in a state's arguments."""
    arguments = state.get("Arguments", {})
    if "TransactItems" in arguments:
        text = arguments["TransactItems"]
        values = dict(re.findall(r"'(:\w+)': \{'S': '?(\$?[\w.]+)'?\}", text))
        conditions = re.findall(r"'ConditionExpression': '([^']*)'", text)
        updates = re.findall(r"'UpdateExpression': '([^']*)'", text)
    else:
        values = {
            name: value["S"] for name, value in arguments.get("ExpressionAttributeValues", {}).items() if "S" in value
        }
        conditions = as_list(arguments.get("ConditionExpression", []))
        updates = as_list(arguments.get("UpdateExpression", []))
    for condition, update in zip(conditions, updates, strict=True):
        reached = re.search(r"#status = (:\w+)", update)
        for placeholder in re.findall(r":\w+", condition) if reached else []:
            for before in STATUSES[name] if "$status" in values[placeholder] else [values[placeholder]]:
                yield before, values[reached[1] if reached else ""], update


@rule
def transitions_are_legal(template: Template) -> Iterator[str]:
    """The workflow changes a status only as the domain's table allows, and always on a condition."""
    for name, state in states(template, "Task"):
        for before, after, _ in status_writes(name, state):
            if Status(after) not in TRANSITIONS[Status(before)]:
                yield f"{name}: {before} can't become {after}"
        touched = json.dumps(state.get("Arguments", {}))
        if "#status = :" in touched and not any(status_writes(name, state)):
            yield f"{name}: changes a status without a condition on it"


@rule
def status_writes_are_complete(template: Template) -> Iterator[str]:
    """Version, time and timeline change with the status, and an order that ends leaves the index of open orders."""
    for name, state in states(template, "Task"):
        for _, after, update in status_writes(name, state):
            for part in ("version = version + :one", "updatedAt = :now", "timeline = list_append(timeline, :entry)"):
                if part not in update:
                    yield f"{name}: does not set {part.partition(' ')[0]}"
            if ("REMOVE openShard" in update) != (Status(after) in TERMINAL):
                yield f"{name}: openShard does not fit {after}"
