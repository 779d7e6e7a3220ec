"""EventBridge: deliveries that fail, and entries that are refused.

Pending retries live in the server's memory: a stop loses them. The first delay is `Settings.retry_base_s`.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import wraps
from typing import Any

from ministack.core.responses import error_response_json, json_response
from ministack.services import eventbridge, lambda_svc, sns, sqs, stepfunctions

from localcloud.corrections import permissions, queues
from localcloud.patching import Correction, internal, replace
from localcloud.settings import Settings

DEFAULT_RETRIES = 185  # EventBridge user guide, "Retrying event delivery"
DEFAULT_MAX_AGE_S = 24 * 3600
MAX_DELAY_S = 30.0
MAX_REQUEST_BYTES = 1024 * 1024  # EventBridge quotas, "PutEvents entry size"
REQUIRED_FIELDS = ("Source", "DetailType", "Detail")

logger = logging.getLogger("localcloud.eventbridge")

JsonObject = dict[str, Any]
InvokeTarget = Callable[..., None]


@dataclass(frozen=True)
class DeliveryError:
    """The error of a delivery; `code` is one of the codes in the EventBridge user guide."""

    code: str
    message: str
    retriable: bool = False


_failure: ContextVar[DeliveryError | None] = ContextVar("localcloud_delivery_failure", default=None)
_rule_arn: ContextVar[str] = ContextVar("localcloud_rule_arn", default="")
_role_arn: ContextVar[str | None] = ContextVar("localcloud_target_role_arn", default=None)


@contextmanager
def set_for(variable: ContextVar[Any], value: Any) -> Iterator[None]:
    """Set a context variable for a block."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def is_schedule(rule_arn: str) -> bool:
    """Whether a delivery is EventBridge Scheduler's; its permissions are those of the target's role."""
    return rule_arn.startswith("arn:aws:scheduler:")


def may_send(queue_arn: str, rule_arn: str, role_arn: str | None) -> bool:
    """Whether a queue may be sent to on behalf of a rule or schedule."""
    if is_schedule(rule_arn):
        return permissions.role_may(role_arn, "sqs:SendMessage", queue_arn)
    return permissions.events_may_send(queue_arn, rule_arn)


def may_invoke(function_arn: str, rule_arn: str, role_arn: str | None) -> bool:
    """Whether a function may be invoked on behalf of a rule or schedule."""
    if is_schedule(rule_arn):
        return permissions.role_may(role_arn, "lambda:InvokeFunction", function_arn)
    return permissions.events_may_invoke(function_arn, rule_arn)


def dead_letter(
    target: JsonObject,
    rule_arn: str,
    event: JsonObject,
    error: DeliveryError,
    *,
    attempts: int = 0,
    condition: str = "MaximumRetryAttempts",
) -> None:
    """Put an undelivered event on the target's dead-letter queue; logs an event that the queue does not take."""
    queue_arn = (target.get("DeadLetterConfig") or {}).get("Arn")
    if not queue_arn:
        logger.warning("Event %s was dropped: %s", event["id"], error.message)
        return
    attributes = {
        "RULE_ARN": queues.string_attribute(rule_arn),
        "TARGET_ARN": queues.string_attribute(target["Arn"]),
        "ERROR_CODE": queues.string_attribute(error.code),
        "ERROR_MESSAGE": queues.string_attribute(error.message),
        "EXHAUSTED_RETRY_CONDITION": queues.string_attribute(condition),
        "RETRY_ATTEMPTS": queues.string_attribute(str(attempts)),
    }
    try:
        if not may_send(queue_arn, rule_arn, target.get("RoleArn")):
            logger.error("Event %s was dropped: %s has no policy that lets the rule send.", event["id"], queue_arn)
            return
        queues.send(queue_arn, json.dumps(event), attributes)
    except (queues.QueueNotFoundError, TypeError):
        logger.exception("Event %s was dropped: the dead-letter queue %s is gone.", event["id"], queue_arn)


class Deliveries:
    """Delivers events to targets, with retries and dead-letter queues."""

    def __init__(self, invoke_target: InvokeTarget, retry_base_s: float) -> None:
        self._invoke_target = invoke_target
        self._retry_base_s = retry_base_s

    def deliver(self, target: JsonObject, event: JsonObject, rule: JsonObject, view: Any = None) -> None:
        """Deliver one event to one target; retries happen in the background."""
        if not in_replay(event, rule):
            return
        if view is None:
            view = internal(eventbridge, "_pattern_event_view")(event)
        error = self._attempt(target, event, rule, view)
        if error is None:
            return
        if not error.retriable:
            dead_letter(target, rule.get("Arn", ""), view.event_with_detail(), error)
            return
        arguments = (target, event, rule, view, error)
        threading.Thread(target=copy_context().run, args=(self._retry, *arguments), daemon=True).start()

    def _attempt(self, target: JsonObject, event: JsonObject, rule: JsonObject, view: Any) -> DeliveryError | None:
        rule_arn, role_arn = rule.get("Arn", ""), target.get("RoleArn")
        with set_for(_failure, None), set_for(_rule_arn, rule_arn), set_for(_role_arn, role_arn):
            self._invoke_target(target, event, rule, view)
            return _failure.get()

    def _retry(
        self, target: JsonObject, event: JsonObject, rule: JsonObject, view: Any, error: DeliveryError
    ) -> None:
        policy = target.get("RetryPolicy") or {}
        limit = int(policy.get("MaximumRetryAttempts", DEFAULT_RETRIES))
        expiry = time.monotonic() + int(policy.get("MaximumEventAgeInSeconds", DEFAULT_MAX_AGE_S))
        attempts = 0
        condition = "MaximumRetryAttempts"
        while error.retriable and attempts < limit:
            delay = min(self._retry_base_s * 2**attempts, MAX_DELAY_S)
            if time.monotonic() + delay > expiry:
                condition = "MaximumEventAgeInSeconds"
                break
            time.sleep(delay)
            attempts += 1
            outcome = self._attempt(target, event, rule, view)
            if outcome is None:
                return
            error = outcome
        dead_letter(
            target,
            rule.get("Arn", ""),
            view.event_with_detail(),
            error,
            attempts=attempts,
            condition=condition,
        )


def in_replay(event: JsonObject, rule: JsonObject) -> bool:
    """Whether a rule may see an event: a replay may be limited to some rules by its FilterArns."""
    name = event.get("ReplayName")
    replay = internal(eventbridge, "_replays").get(name) if name else None
    rules = (replay or {}).get("Destination", {}).get("FilterArns")
    return not rules or rule.get("Arn") in rules


def fail(code: str, message: str, *, retriable: bool = False) -> None:
    """Set the error of the delivery in flight."""
    _failure.set(DeliveryError(code, message, retriable))


def reporting(dispatch: Callable[..., None]) -> Callable[..., None]:
    """Wrap a delivery so that an error within it fails the delivery; MiniStack only logs such an error."""

    @wraps(dispatch)
    def run(*arguments: Any) -> None:
        try:
            dispatch(*arguments)
        except internal(sqs, "_Err") as refusal:
            fail("ERROR_FROM_TARGET", refusal.message)
        except Exception as error:
            logger.exception("A delivery failed.")
            fail("INTERNAL_ERROR", str(error), retriable=True)

    return run


def dispatch_to_lambda(arn: str, payload: str) -> None:
    """Invoke a Lambda target asynchronously."""
    func, config, name = internal(lambda_svc, "_get_func_record_for_ref")(arn)
    if func is None:
        fail("NO_RESOURCE", f"Function not found: {name}")
        return
    if not may_invoke(arn, _rule_arn.get(), _role_arn.get()):
        fail("NO_PERMISSIONS", f"No policy of {arn} lets the rule invoke it.")
        return
    try:
        event = json.loads(payload)
    except ValueError:
        fail("INVALID_JSON", "The input of the target is no JSON.")
        return
    record = internal(lambda_svc, "_execution_record_for_config")(func, {**config, "FunctionArn": arn})
    lambda_svc.invoke_async_with_retry(record, event)


def dispatch_to_sqs(spec: Any, payload: str, sqs_parameters: JsonObject | None = None) -> None:
    """Send to a queue whose policy lets EventBridge in."""
    arn = str(spec)
    if internal(sqs, "_queue_by_arn")(arn) is None:
        fail("NO_RESOURCE", "The specified queue does not exist for this wsdl version.")
    elif not may_send(arn, _rule_arn.get(), _role_arn.get()):
        fail("NO_PERMISSIONS", f"Access to the resource {arn} is denied.")
    else:
        group = (sqs_parameters or {}).get("MessageGroupId")
        queues.send(arn, payload, **({"MessageGroupId": group} if group else {}))


def dispatch_to_stepfunctions(arn: str, payload: str) -> None:
    """Start an execution."""
    if internal(stepfunctions, "_resolve_state_machine_arn")(arn) is None:
        fail("NO_RESOURCE", f"State Machine Does Not Exist: '{arn}'")
        return
    if not permissions.role_may(_role_arn.get(), "states:StartExecution", arn):
        fail("NO_PERMISSIONS", f"The role of the target does not allow to start {arn}.")
        return
    status, _, body = internal(stepfunctions, "_start_execution")({"stateMachineArn": arn, "input": payload})
    if status >= 400:
        fail("ERROR_FROM_TARGET", body.decode(), retriable=status >= 500)


def dispatch_to_sns(arn: str, payload: str) -> None:
    """Publish to a topic."""
    try:
        published = sns.publish_internal(arn, payload)
    except internal(sns, "SnsPublishError") as error:
        fail("INVALID_PARAMETER", str(error))
        return
    if published is None:
        fail("NO_RESOURCE", "Topic does not exist")


def checked_bus(dispatch: Callable[..., None]) -> Callable[..., None]:
    """Wrap the delivery to another bus so that a missing bus is a failure."""

    def dispatch_to_event_bus(spec: Any, *arguments: Any) -> None:
        name = spec.resource.partition("/")[2]
        if name not in internal(eventbridge, "_event_buses"):
            fail("NO_RESOURCE", f"Event bus {name} does not exist.")
            return
        if not permissions.role_may(_role_arn.get(), "events:PutEvents", str(spec)):
            fail("NO_PERMISSIONS", f"The role of the target does not allow to put events on {name}.")
            return
        dispatch(spec, *arguments)

    return dispatch_to_event_bus


def install_deliveries(settings: Settings) -> None:
    """Retry failed deliveries, then put them on the target's dead-letter queue."""
    dispatchers: dict[str, Callable[..., None]] = {
        "_dispatch_to_lambda": dispatch_to_lambda,
        "_dispatch_to_sqs": dispatch_to_sqs,
        "_dispatch_to_stepfunctions": dispatch_to_stepfunctions,
        "_dispatch_to_sns": dispatch_to_sns,
        "_dispatch_to_event_bus": checked_bus(internal(eventbridge, "_dispatch_to_event_bus")),
    }
    for name, dispatch in dispatchers.items():
        replace(eventbridge, name, reporting(dispatch))
    deliveries = Deliveries(internal(eventbridge, "_invoke_target"), settings.retry_base_s)
    replace(eventbridge, "_invoke_target", deliveries.deliver)


def entry_error(entry: JsonObject) -> JsonObject | None:
    """Return the result of an entry that PutEvents does not accept, or None."""
    for name in REQUIRED_FIELDS:
        if not entry.get(name):
            message = f"Parameter {name} is not valid. Reason: {name} is a required argument."
            return {"ErrorCode": "InvalidArgument", "ErrorMessage": message}
    try:
        detail = json.loads(entry["Detail"])
    except ValueError:
        detail = None
    if not isinstance(detail, dict):
        return {"ErrorCode": "MalformedDetail", "ErrorMessage": "Detail is malformed."}
    return None


def entry_bytes(entry: JsonObject) -> int:
    """Return the size of an entry in bytes, counted as in the EventBridge user guide."""
    size = 14 if "Time" in entry else 0
    texts = [entry.get(name) or "" for name in REQUIRED_FIELDS] + list(entry.get("Resources") or [])
    return size + sum(len(text.encode()) for text in texts)


def install_validation(_: Settings) -> None:
    """Refuse single entries of PutEvents as AWS does."""
    put_events = internal(eventbridge, "_put_events")

    def validated_put_events(data: JsonObject, allow_aws_source: bool = False) -> Any:
        entries = data.get("Entries") or []
        if sum(map(entry_bytes, entries)) > MAX_REQUEST_BYTES:
            message = "Total size of the entries in the request is over the limit."
            return error_response_json("ValidationException", message, 400)
        errors = [entry_error(entry) for entry in entries]
        accepted = [entry for entry, error in zip(entries, errors, strict=True) if error is None]
        status, headers, body = put_events({**data, "Entries": accepted}, allow_aws_source)
        if status != 200 or len(accepted) == len(entries):
            return status, headers, body
        results = iter(json.loads(body)["Entries"])
        merged = [error or next(results) for error in errors]
        failed = sum("ErrorCode" in result for result in merged)
        return json_response({"FailedEntryCount": failed, "Entries": merged})

    replace(eventbridge, "_put_events", validated_put_events)


CORRECTIONS = (
    Correction(
        name="eventbridge-deliveries",
        service="EventBridge",
        aws=(
            "A Lambda target is invoked asynchronously. A delivery fails at once if its target or permission is "
            "missing, and otherwise after the retries of its RetryPolicy. The event then goes to the target's "
            "dead-letter queue with RULE_ARN, TARGET_ARN, ERROR_CODE, ERROR_MESSAGE, EXHAUSTED_RETRY_CONDITION and "
            "RETRY_ATTEMPTS. A queue or function needs a policy that lets the rule in. A replay reaches the rules "
            "of its FilterArns only."
        ),
        ministack=(
            "A Lambda target is invoked once. RetryPolicy, DeadLetterConfig and policies are ignored; the event of "
            "a missing target is dropped. A replay reaches every rule."
        ),
        here="Asynchronous Lambda targets, RetryPolicy, dead-letter queues, permissions of targets, FilterArns.",
        install=install_deliveries,
    ),
    Correction(
        name="eventbridge-validation",
        service="EventBridge",
        aws=(
            "PutEvents answers each entry without source, detail type or a JSON object as detail with an error "
            "code of its own, and refuses more than 1 MiB."
        ),
        ministack="PutEvents accepts every entry.",
        here="PutEvents refuses the entries that AWS refuses, one by one.",
        install=install_validation,
    ),
)
