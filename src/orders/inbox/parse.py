"""Parse each form of message on the failures queue into a `Failure`.

Every technical failure ends as a message on the failures queue: a dead letter of a rule's target or of the schedule,
a poison message with its error, a message that SQS moved from another queue, an on-failure record of an asynchronous
function, a pointer into the orders table's stream, an unreadable stream record, or a stuck order. Nothing in this
module calls AWS.
"""

import base64
import hashlib
import re
from typing import Any

import msgspec

from orders.inbox.messages import (
    EndedExecution,
    ExecutionEvent,
    FunctionRecord,
    LambdaError,
    PoisonMessage,
    Shape,
    StreamRecord,
    StuckCause,
    StuckOrder,
    UnreadableStreamRecord,
)
from orders.inbox.record import Action, Failure, Kind, Redrive, failure_id_of

MAX_MESSAGE = 4_000
MAX_STACK_LINES = 40
MAX_STACK_LINE = 300
# An order is stuck once, however many of its executions get stuck.
STUCK = "stuck"
EXECUTION_EVENT = "Step Functions Execution Status Change"
POINTER_NOTE = (
    "The stream keeps its records for 24 hours and no longer has these. The orders table holds the orders' present "
    "statuses; the sweep finds the orders that stand still."
)
# The workflow reports the start of a long cause, which may end amid the stack trace or the message.
_CUT_OFF = re.compile(r'"errorMessage": ?"(?:[^"\\]|\\u[0-9a-fA-F]{4}|\\["\\/bfnrt])*')
# botocore's text for an error code that its model of the service doesn't know, such as S3's SlowDown.
_UNMODELLED = re.compile(r"An error occurred \(([A-Za-z][A-Za-z0-9.]*)\) when calling the ")
_GENERATED_NAME = re.compile(r".+-([A-Za-z][A-Za-z0-9]*)-[A-Za-z0-9]{12,13}\Z")


def read_message(message: dict[str, Any]) -> Failure:
    """The failure in an SQS record of a Lambda event. Never raises: other messages are of unknown kind."""
    body: str = message.get("body") or ""
    message_id = str(message.get("messageId", ""))
    attributes = {
        name: str(value.get("stringValue", "")) for name, value in (message.get("messageAttributes") or {}).items()
    }
    came_from = (message.get("attributes") or {}).get("DeadLetterQueueSourceArn", "")
    try:
        # A message that SQS moved from another queue can have any form.
        if came_from and came_from != message.get("eventSourceARN"):
            return _moved_message(body, came_from, message_id)
        failure = _read_body(body, message_id)
        if failure is None and "TARGET_ARN" in attributes:
            failure = _rule_target(body, attributes)
    except (ValueError, RecursionError) as error:
        return _unknown(body, attributes, message_id, f"{type(error).__name__}: {error}")
    return failure or _unknown(body, attributes, message_id, "no kind of failure message looks like this")


def _read_body(body: str, message_id: str) -> Failure | None:
    try:
        shape = msgspec.json.decode(body, type=Shape)
    except (ValueError, RecursionError):
        return None
    failure: Failure | None = None
    if shape.source == "aws.states" and shape.detail_type == EXECUTION_EVENT:
        failure = _execution(msgspec.json.decode(body, type=ExecutionEvent).detail)
    elif shape.stream_batch:
        failure = _stream_batch(msgspec.json.decode(body, type=StreamRecord), body)
    elif shape.request_context and shape.request_payload:
        failure = _function(msgspec.json.decode(body, type=FunctionRecord))
    elif shape.kind == "UnreadableStreamRecord":
        failure = _unreadable_record(msgspec.json.decode(body, type=UnreadableStreamRecord), message_id)
    elif shape.kind == "PoisonMessage":
        failure = _poison_message(msgspec.json.decode(body, type=PoisonMessage))
    elif shape.kind == "StuckOrder":
        failure = _stuck_order(msgspec.json.decode(body, type=StuckOrder), body, message_id)
    return failure


def _rule_target(body: str, attributes: dict[str, str]) -> Failure:
    """The dead letter of a rule's target, or of a schedule's (EventBridge user guide, "dead-letter queues")."""
    target = attributes["TARGET_ARN"]
    rule = attributes.get("RULE_ARN", "")
    document = _document(body)
    event_id = document.get("id") if isinstance(document, dict) else None
    return _failure(
        Kind.RULE_TARGET,
        (rule, target, _event_key(body)),
        body,
        occurrence=str(event_id or _digest(body)),
        component=component_of(target),
        resource_arn=target,
        error_name=attributes.get("ERROR_CODE") or "Unknown",
        error_message=attributes.get("ERROR_MESSAGE", ""),
        attempts=_number(attributes.get("RETRY_ATTEMPTS")) + 1,
        redrive=Redrive(Action.DELIVER, target, rule) if rule else Redrive(Action.INVOKE, target),
        source={
            "rule": rule or attributes.get("SCHEDULE_ARN", ""),
            "condition": attributes.get("EXHAUSTED_RETRY_CONDITION", ""),
        },
    )


def _moved_message(body: str, queue_arn: str, message_id: str) -> Failure:
    """A message that SQS moved from its queue: its consumer was killed each time, so the cause is not known."""
    return _failure(
        Kind.QUEUE,
        (queue_arn, _event_key(body)),
        body,
        occurrence=message_id,
        component=component_of(queue_arn),
        resource_arn=queue_arn,
        error_name="TooManyReceives",
        error_message="its consumer received it too often and was ended each time before it could report an error",
        redrive=Redrive(Action.SEND, queue_arn),
        source={"messageId": message_id},
    )


def _poison_message(report: PoisonMessage) -> Failure:
    """A message that its consumer gave up (runtime/queues.py), with the cause."""
    error_name, _, error_message = report.error.partition(": ")
    return _failure(
        Kind.QUEUE,
        (report.queue_arn, _event_key(report.body)),
        report.body,
        occurrence=report.message_id,
        component=component_of(report.queue_arn),
        resource_arn=report.queue_arn,
        error_name=error_name,
        error_message=error_message,
        stack_trace=report.stack_trace,
        attempts=report.receives,
        redrive=Redrive(Action.SEND, report.queue_arn),
        source={"messageId": report.message_id},
    )


def _function(record: FunctionRecord) -> Failure:
    """The invocation record of an asynchronous function (Lambda developer guide, "Invocation records")."""
    context = record.request_context
    try:
        error = msgspec.json.decode(record.response_payload, type=LambdaError)
    except ValueError:
        error = LambdaError(error_message=bytes(record.response_payload).decode(errors="replace"))
    payload = bytes(record.request_payload).decode()
    function_arn = context.function_arn.removesuffix(":$LATEST")
    return _failure(
        Kind.FUNCTION,
        (function_arn, _event_key(payload)),
        payload,
        occurrence=context.request_id or _digest(payload),
        component=component_of(function_arn),
        resource_arn=function_arn,
        # An event that grew too old before its first attempt has a condition and no error.
        error_name=error.error_type or context.condition or "Unknown",
        error_message=error.error_message,
        stack_trace=error.stack_trace,
        attempts=context.approximate_invoke_count,
        redrive=Redrive(Action.INVOKE, function_arn),
        source={"requestId": context.request_id, "condition": context.condition},
    )


def _stream_batch(record: StreamRecord, body: str) -> Failure:
    """The on-failure record of the stream's mapping. It points to the records: see `stream_record`."""
    batch, context = record.batch, record.request_context
    return _failure(
        Kind.STREAM,
        (batch.stream_arn, batch.shard_id, batch.start_sequence_number, batch.end_sequence_number),
        body,
        occurrence=context.request_id,
        component=component_of(batch.stream_arn),
        resource_arn=batch.stream_arn,
        error_name=context.condition or "Unknown",
        error_message=f"{component_of(context.function_arn)} failed on {batch.batch_size} records; see its log",
        attempts=context.approximate_invoke_count,
        redrive=Redrive(Action.NONE),
        source={
            "requestId": context.request_id,
            "shardId": batch.shard_id,
            "startSequenceNumber": batch.start_sequence_number,
            "endSequenceNumber": batch.end_sequence_number,
            "batchSize": str(batch.batch_size),
        },
    )


def _unreadable_record(parked: UnreadableStreamRecord, message_id: str) -> Failure:
    """A stream record that publish_events can't read."""
    error_name, _, error_message = parked.error.partition(": ")
    return stream_record(bytes(parked.record).decode(), error_name, error_message, occurrence=message_id)


def stream_record(
    payload: str, error_name: str, error_message: str, *, occurrence: str, attempts: int = 1
) -> Failure:
    """One record of the orders table's stream (JSON) that could not be published."""
    document = _document(payload)
    change = document.get("dynamodb") if isinstance(document, dict) else None
    stream_arn = str(document.get("eventSourceARN", "")) if isinstance(document, dict) else ""
    sequence = str(change.get("SequenceNumber", "")) if isinstance(change, dict) else ""
    return _failure(
        Kind.STREAM,
        (stream_arn, sequence or _digest(payload)),
        payload,
        occurrence=occurrence,
        component=component_of(stream_arn),
        resource_arn=stream_arn,
        error_name=error_name,
        error_message=error_message,
        attempts=attempts,
        redrive=Redrive(Action.PUBLISH),
        source={"sequenceNumber": sequence},
    )


def _stuck_order(report: StuckOrder, body: str, message_id: str) -> Failure:
    """An order that stands still. A redrive starts its workflow, from the order's present status."""
    cause = _lambda_error(report.cause)
    return _failure(
        Kind.EXECUTION,
        (STUCK, report.order_id or message_id),
        body,
        # A message that was sent twice tells of one occurrence.
        occurrence=report.execution or message_id,
        component=report.state,
        resource_arn=report.execution,
        error_name=report.error,
        error_message=cause.error_message or report.cause,
        stack_trace=cause.stack_trace,
        redrive=Redrive(Action.RESUME),
        source={"executionArn": report.execution} if report.execution else {},
    )


def _execution(execution: EndedExecution) -> Failure:
    """An execution of release 1.0.0's workflow. The event lacks a large `input`."""
    state, error_name, error_message, stack_trace = _cause(execution)
    order_id = identify(execution.input or "").get("order_id")
    return _failure(
        Kind.EXECUTION,
        (STUCK, order_id) if order_id else (execution.state_machine_arn, execution.execution_arn),
        execution.input or "",
        occurrence=execution.execution_arn,
        component=state or component_of(execution.state_machine_arn),
        resource_arn=execution.state_machine_arn,
        error_name=error_name,
        error_message=error_message,
        stack_trace=stack_trace,
        redrive=Redrive(Action.RESUME),
        source={"executionArn": execution.execution_arn, "executionStatus": execution.status},
    )


def _cause(execution: EndedExecution) -> tuple[str, str, str, list[str]]:
    """State, error name, message and stack trace of the end of an execution of release 1.0.0."""
    default = {"TIMED_OUT": "States.Timeout", "ABORTED": "Aborted"}.get(execution.status, "Unknown")
    error_name = execution.error or default
    cause: Any = execution.cause or f"the execution is {execution.status}"
    state = ""
    try:
        stuck = msgspec.json.decode(cause, type=StuckCause)
        state, cause = stuck.state, stuck.cause
    except ValueError:
        pass  # not from OrderStuck: the execution timed out or was stopped
    error = _lambda_error(cause)
    return state, error_name, error.error_message or str(cause), error.stack_trace


def _lambda_error(cause: Any) -> LambdaError:
    """The error that a function's answer tells of; an empty one for another cause."""
    cut = _CUT_OFF.search(cause) if isinstance(cause, str) else None
    for text in (cause, f'{{{cut[0]}"}}' if cut else ""):
        try:
            return msgspec.json.decode(text, type=LambdaError)
        except (ValueError, TypeError):
            continue
    return LambdaError()


def _unknown(body: str, attributes: dict[str, str], message_id: str, why: str) -> Failure:
    return _failure(
        Kind.UNKNOWN,
        (body,),
        body,
        occurrence=message_id,
        component="unknown",
        resource_arn="",
        error_name="Unclassified",
        error_message=why,
        redrive=Redrive(Action.NONE),
        source={"messageId": message_id, **{f"attribute {name}": value[:256] for name, value in attributes.items()}},
    )


def _failure(
    kind: Kind,
    identity: tuple[str, ...],
    payload: str,
    *,
    occurrence: str,
    component: str,
    resource_arn: str,
    error_name: str,
    error_message: str,
    redrive: Redrive,
    stack_trace: list[str] | None = None,
    attempts: int = 1,
    source: dict[str, str] | None = None,
) -> Failure:
    """A failure. Its id comes from `identity`, so that the same failure is the same record.

    Texts are cut to fit into an item; the payload is not. A `ClientError` gets the name that AWS gave the error.
    """
    if error_name == "ClientError" and (unmodelled := _UNMODELLED.match(error_message)):
        error_name = unmodelled[1]
    encoding = "text"
    try:
        payload.encode()
    except UnicodeEncodeError:  # half a surrogate pair: valid in JSON, not in UTF-8
        encoding = "base64"
        payload = base64.b64encode(payload.encode(errors="surrogatepass")).decode()
    return Failure(
        failure_id=failure_id_of(kind, identity),
        kind=kind,
        component=_clean(component, 128) or "unknown",
        resource_arn=_clean(resource_arn, 2048),
        error_name=_clean(error_name, 256) or "Unknown",
        error_message=_clean(error_message, MAX_MESSAGE),
        occurrence=_clean(occurrence, 256),
        redrive=redrive,
        attempts=attempts,
        stack_trace=[_clean(line, MAX_STACK_LINE) for line in (stack_trace or [])[-MAX_STACK_LINES:]],
        payload=payload,
        payload_encoding=encoding,
        source={name: _clean(value, 2048) for name, value in (source or {}).items() if value},
        **(identify(payload) if encoding == "text" else {}),
    )


def identify(payload: str) -> dict[str, str]:
    """The `order_id`, `customer_id` and `correlation_id` that a payload names."""
    document = _document(payload)
    places = [document, _part(document, "detail"), _part(document, "dynamodb")]
    places += [_part(place, name) for place in places[:2] for name in ("data", "metadata")]
    places += [_part(places[2], name) for name in ("NewImage", "Keys")]
    found: dict[str, str] = {}
    for field, name in (("order_id", "orderId"), ("customer_id", "customerId"), ("correlation_id", "correlationId")):
        for place in places:
            value = _part(place, name)
            value = _part(value, "S") if isinstance(value, dict) else value
            # Keys of an index must be text, neither empty nor long.
            if isinstance(value, str) and 0 < len(value) <= 128 and value.isprintable():
                found[field] = value
                break
    return found


def _document(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (ValueError, RecursionError):
        return None


def _part(document: Any, name: str) -> Any:
    return document.get(name) if isinstance(document, dict) else None


def _event_key(payload: str) -> str:
    """The identity of a payload: the event's id, which every duplicate has, or else the text."""
    document = _document(payload)
    event_id = _part(_part(_part(document, "detail"), "metadata"), "eventId")
    return event_id if isinstance(event_id, str) else _digest(payload)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass"), usedforsecurity=False).hexdigest()


def component_of(arn: str) -> str:
    """The logical id of a resource whose name CloudFormation generated; else the resource's own name."""
    name = arn
    if arn.startswith("arn:"):
        # A queue's ARN ends in its name; other ARNs have a type before the name: "function:name", "table/name/…".
        parts = re.split("[:/]", arn.split(":", 5)[-1])
        name = parts[1] if len(parts) > 1 else parts[0]
    generated = _GENERATED_NAME.match(name)
    return generated[1] if generated else name


def _clean(text: str, most: int) -> str:
    text = text.encode(errors="replace").decode()
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0
