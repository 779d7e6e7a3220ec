"""Each kind of message becomes the same kind of record."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orders.inbox.healing import is_transient
from orders.inbox.parse import MAX_MESSAGE, component_of, identify, read_message
from orders.inbox.record import Action, Failure, Kind, Redrive
from orders.runtime.aws import client

FAILURES_QUEUE = "arn:aws:sqs:eu-west-1:123456789012:orders-dev-FailuresQueue-4ZQ1X2Y3Z4A5"
NOTIFICATIONS_QUEUE = "arn:aws:sqs:eu-west-1:123456789012:orders-dev-NotificationsQueue-4ZQ1X2Y3Z4A5"
FUNCTION = "arn:aws:lambda:eu-west-1:123456789012:function:orders-dev-IssueReceiptFunction-AbCdEfGhIjKl"
MACHINE = "arn:aws:states:eu-west-1:123456789012:stateMachine:orders-dev-order-workflow"
EXECUTION = "arn:aws:states:eu-west-1:123456789012:execution:orders-dev-order-workflow:e1"
STREAM = (
    "arn:aws:dynamodb:eu-west-1:123456789012:table/orders-dev-OrdersTable-1ABCDEFGHIJK/stream/2026-11-21T00:00:00"
)
RULE = "arn:aws:events:eu-west-1:123456789012:rule/orders-dev-orders/orders-dev-OrderFulfilledRule-AbCdEfGhIjKl"

BUS_EVENT = {
    "id": "event-1",
    "source": "orders",
    "detail-type": "OrderFulfilled",
    "detail": {
        "metadata": {"eventId": "order-1#4", "correlationId": "correlation-1"},
        "data": {"orderId": "order-1", "customerId": "customer-1", "total": 12345678901234567890},
    },
}
INVOCATION = {
    "version": "1.0",
    "requestContext": {
        "requestId": "request-1",
        "functionArn": f"{FUNCTION}:$LATEST",
        "condition": "RetriesExhausted",
        "approximateInvokeCount": 3,
    },
    "requestPayload": BUS_EVENT,
    "responsePayload": {
        "errorType": "PaymentProviderError",
        "errorMessage": "answered 503",
        "stackTrace": ["  File x, line 1\n"],
    },
}


def message(
    body: Any, *, attributes: dict[str, str] | None = None, came_from: str = "", **fields: str
) -> dict[str, Any]:
    return {
        "messageId": fields.get("message_id", "message-1"),
        "eventSourceARN": FAILURES_QUEUE,
        "body": body if isinstance(body, str) else json.dumps(body),
        "attributes": {"DeadLetterQueueSourceArn": came_from} if came_from else {},
        "messageAttributes": {
            name: {"dataType": "String", "stringValue": value} for name, value in (attributes or {}).items()
        },
    }


def read(body: Any, **fields: Any) -> Failure:
    return read_message(message(body, **fields))


def found(failure: Failure) -> tuple[str | None, str | None, str | None]:
    return failure.order_id, failure.customer_id, failure.correlation_id


DEAD_LETTER = {
    "RULE_ARN": RULE,
    "TARGET_ARN": NOTIFICATIONS_QUEUE,
    "ERROR_CODE": "NO_PERMISSIONS",
    "ERROR_MESSAGE": "access is denied",
    "RETRY_ATTEMPTS": "2",
}


def test_a_rules_dead_letter() -> None:
    failure = read(BUS_EVENT, attributes=DEAD_LETTER)

    assert (failure.kind, failure.component) == (Kind.RULE_TARGET, "NotificationsQueue")
    assert (failure.error_name, failure.error_message, failure.attempts) == ("NO_PERMISSIONS", "access is denied", 3)
    assert (failure.redrive.action, failure.redrive.to) == (Action.DELIVER, NOTIFICATIONS_QUEUE)
    assert json.loads(failure.payload or "") == BUS_EVENT
    assert found(failure) == ("order-1", "customer-1", "correlation-1")


def test_a_rules_dead_letter_with_a_body_that_is_no_json() -> None:
    failure = read("?", attributes=DEAD_LETTER)

    assert (failure.kind, failure.payload, failure.order_id) == (Kind.RULE_TARGET, "?", None)


def test_a_schedules_dead_letter_is_invoked_again() -> None:
    failure = read(
        "{}", attributes={"TARGET_ARN": FUNCTION, "SCHEDULE_ARN": "arn:schedule", "ERROR_CODE": "Throttled"}
    )

    assert (failure.redrive.action, failure.redrive.to) == (Action.INVOKE, FUNCTION)


def test_a_message_moved_out_of_a_queue() -> None:
    failure = read("not json", came_from=NOTIFICATIONS_QUEUE)

    assert (failure.kind, failure.component, failure.payload) == (Kind.QUEUE, "NotificationsQueue", "not json")
    assert (failure.redrive.action, failure.redrive.to) == (Action.SEND, NOTIFICATIONS_QUEUE)


def test_what_a_queue_held_is_not_believed_about_itself() -> None:
    # GIVEN a message that looks like another kind of failure
    failure = read(INVOCATION, came_from=NOTIFICATIONS_QUEUE)

    assert failure.kind is Kind.QUEUE


def test_a_consumers_own_report_has_the_cause_and_is_the_same_failure() -> None:
    # GIVEN a message that its consumer gave up, and that SQS moves too
    body = json.dumps(BUS_EVENT)
    report = {
        "kind": "PoisonMessage",
        "queueArn": NOTIFICATIONS_QUEUE,
        "messageId": "original",
        "receives": 5,
        "error": "MailRefused: no such mailbox: ada",
        "stackTrace": ["  File x\n"],
        "body": body,
    }

    reported, moved = read(report), read(body, came_from=NOTIFICATIONS_QUEUE, message_id="original")

    assert (reported.error_name, reported.error_message) == ("MailRefused", "no such mailbox: ada")
    assert (reported.attempts, reported.payload) == (5, body)
    assert (reported.failure_id, reported.occurrence) == (moved.failure_id, moved.occurrence)


def test_an_asynchronous_functions_record() -> None:
    failure = read(INVOCATION)

    assert (failure.kind, failure.component, failure.attempts) == (Kind.FUNCTION, "IssueReceiptFunction", 3)
    assert (failure.error_name, failure.error_message) == ("PaymentProviderError", "answered 503")
    assert failure.stack_trace == ["  File x, line 1\n"]
    assert (failure.redrive.action, failure.redrive.to) == (Action.INVOKE, FUNCTION)
    assert found(failure) == ("order-1", "customer-1", "correlation-1")


def test_a_payload_is_kept_as_it_was_written() -> None:
    # GIVEN a payload that parsing and writing again would change
    payload = '{ "amount": 1.10, "big": 123456789012345678901234567890, "dash": "\\u2013" }'
    body = json.dumps(INVOCATION).replace(json.dumps(BUS_EVENT), payload)

    assert read(body).payload == payload


@pytest.mark.parametrize("response", [None, "timed out", [], {"errorType": None}])
def test_an_asynchronous_failure_without_an_error_is_named_by_its_condition(response: Any) -> None:
    failure = read({**INVOCATION, "responsePayload": response})

    assert (failure.kind, failure.error_name) == (Kind.FUNCTION, "RetriesExhausted")


def test_an_event_that_fails_again_after_a_redrive_is_the_same_failure() -> None:
    first = read(INVOCATION)
    context = {**INVOCATION["requestContext"], "requestId": "request-2"}  # type: ignore[dict-item]
    second = read({**INVOCATION, "requestContext": context, "requestPayload": {**BUS_EVENT, "id": "event-2"}})

    assert first.failure_id == second.failure_id
    assert first.occurrence != second.occurrence


def execution_event(**detail: Any) -> dict[str, Any]:
    return {
        "source": "aws.states",
        "detail-type": "Step Functions Execution Status Change",
        "detail": {
            "executionArn": EXECUTION,
            "stateMachineArn": MACHINE,
            "status": "FAILED",
            "input": json.dumps(BUS_EVENT["detail"]),
            **detail,
        },
    }


def test_a_failed_execution() -> None:
    inner = json.dumps({"errorType": "PaymentProviderError", "errorMessage": "answered 503", "stackTrace": ["x"]})
    cause = json.dumps({"state": "ProcessPayment", "cause": inner})
    failure = read(execution_event(error="PaymentProviderError", cause=cause))

    assert (failure.kind, failure.component) == (Kind.EXECUTION, "ProcessPayment")
    assert (failure.error_name, failure.error_message) == ("PaymentProviderError", "answered 503")
    assert failure.redrive == Redrive(Action.RESUME)
    assert json.loads(failure.payload or "") == BUS_EVENT["detail"]
    assert found(failure) == ("order-1", "customer-1", "correlation-1")


@pytest.mark.parametrize(
    ("status", "error"), [("TIMED_OUT", "States.Timeout"), ("ABORTED", "Aborted"), ("FAILED", "Unknown")]
)
def test_an_execution_that_says_nothing_is_named_by_its_status(status: str, error: str) -> None:
    failure = read(execution_event(status=status, error=None, cause=None))

    assert (failure.error_name, failure.error_message) == (error, f"the execution is {status}")


def test_an_order_is_stuck_once_however_many_executions_are() -> None:
    first = read(execution_event())
    second = read(execution_event(executionArn=f"{EXECUTION}-2"))

    assert first.failure_id == second.failure_id
    assert first.occurrence != second.occurrence


def test_a_stuck_order() -> None:
    inner = {"errorType": "PaymentProviderError", "errorMessage": "answered 503", "stackTrace": ["x"]}
    message = {
        "kind": "StuckOrder",
        "customerId": "customer-1",
        "orderId": "order-1",
        "correlationId": "correlation-1",
        "state": "ProcessPayment",
        "error": "PaymentProviderError",
        "cause": json.dumps(inner),
        "execution": EXECUTION,
    }
    failure = read(message)

    assert (failure.kind, failure.component, failure.occurrence) == (Kind.EXECUTION, "ProcessPayment", EXECUTION)
    assert (failure.error_name, failure.error_message) == ("PaymentProviderError", "answered 503")
    assert failure.redrive == Redrive(Action.RESUME)
    assert found(failure) == ("order-1", "customer-1", "correlation-1")
    assert failure.failure_id == read(execution_event()).failure_id
    cut = read({**message, "cause": json.dumps(inner)[:40], "execution": ""})
    assert (cut.error_message, cut.stack_trace) == (json.dumps(inner)[:40], [])


@pytest.mark.parametrize(
    ("message", "most", "expected"),
    [
        ("the provider answered 503", 100, "the provider answered 503"),
        ('it said "no"\n', 100, 'it said "no"\n'),
        ("x" * 50, 30, "x" * 12),  # the cut is in the message
        ("xxxxxxxxxx\u20ac", 30, "xxxxxxxxxx"),  # in an escape, from which nothing is taken
        ("xxxxxxxxxx\u20ac", 34, "xxxxxxxxxx\u20ac"),
        ("", 100, ""),
    ],
)
def test_a_cause_that_is_cut_off_still_tells_the_message(message: str, most: int, expected: str) -> None:
    # GIVEN an error as Lambda's runtime for Python writes it, of which the workflow reports the start
    cause = json.dumps({"errorMessage": message, "errorType": "E", "stackTrace": ["x" * 300]})[:most]
    report = {
        "kind": "StuckOrder",
        "customerId": "c",
        "orderId": "o",
        "correlationId": "",
        "state": "S",
        "error": "E",
    }

    found_message = read({**report, "cause": cause}).error_message

    assert found_message == (expected or cause)


def test_a_pointer_into_the_stream() -> None:
    pointer = {
        "requestContext": {"requestId": "r", "functionArn": FUNCTION, "condition": "RetryAttemptsExhausted"},
        "DDBStreamBatchInfo": {
            "shardId": "shard",
            "startSequenceNumber": "100",
            "endSequenceNumber": "200",
            "batchSize": 2,
            "streamArn": STREAM,
        },
    }
    failure = read(pointer)

    assert (failure.kind, failure.component, failure.error_name) == (
        Kind.STREAM,
        "OrdersTable",
        "RetryAttemptsExhausted",
    )
    assert failure.source["startSequenceNumber"] == "100"
    assert failure.redrive.action is Action.NONE


def test_a_parked_stream_record() -> None:
    record = {
        "eventName": "INSERT",
        "eventSourceARN": STREAM,
        "dynamodb": {
            "SequenceNumber": "100",
            "Keys": {"customerId": {"S": "customer-1"}, "orderId": {"S": "order-1"}},
            "NewImage": {"orderId": {"S": "order-1"}, "correlationId": {"S": "correlation-1"}},
        },
    }
    failure = read({"kind": "UnreadableStreamRecord", "error": "ValidationError: lines: required", "record": record})

    assert (failure.kind, failure.error_name, failure.error_message) == (
        Kind.STREAM,
        "ValidationError",
        "lines: required",
    )
    assert json.loads(failure.payload or "") == record
    assert failure.redrive.action is Action.PUBLISH
    assert found(failure) == ("order-1", "customer-1", "correlation-1")


@pytest.mark.parametrize(
    "body",
    [
        "",
        "no json",
        "[]",
        "{}",
        "null",
        "[" * 5000,
        '{"requestContext": 1, "requestPayload": {}}',
        '{"requestContext": {}, "requestPayload": {}}',
        '{"DDBStreamBatchInfo": {}}',
        '{"source": "aws.states", "detail-type": "Step Functions Execution Status Change"}',
        '{"kind": "UnreadableStreamRecord"}',
        '{"kind": "PoisonMessage", "body": 1}',
        '{"kind": ["PoisonMessage"]}',
    ],
)
def test_what_nobody_can_classify_is_kept_raw(body: str) -> None:
    failure = read(body)

    assert (failure.kind, failure.payload, failure.redrive.action) == (Kind.UNKNOWN, body, Action.NONE)


def test_half_a_surrogate_pair_is_kept_as_bytes() -> None:
    failure = read("before \ud800 after")

    assert failure.payload_encoding == "base64"


@given(
    body=st.one_of(st.text(), st.recursive(st.none() | st.text(), st.lists).map(json.dumps)),
    attributes=st.dictionaries(st.sampled_from(["TARGET_ARN", "RULE_ARN", "RETRY_ATTEMPTS"]), st.text()),
    came_from=st.text(),
)
def test_every_message_becomes_a_record_that_can_be_stored(
    body: str, attributes: dict[str, str], came_from: str
) -> None:
    failure = read(body, attributes=attributes, came_from=came_from)

    assert len(failure.failure_id) == 20
    for text in (failure.component, failure.error_name, failure.error_message, failure.payload or ""):
        text.encode()


@given(
    value=st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["detail", "data", "metadata", "orderId", "dynamodb", "NewImage", "S"]), inner
            )
        ),
    )
)
def test_an_order_id_is_text_that_an_index_takes(value: Any) -> None:
    found = identify(json.dumps(value))

    assert all(isinstance(each, str) and 0 < len(each) <= 128 for each in found.values())


@pytest.mark.parametrize(
    ("arn", "name"),
    [
        (FUNCTION, "IssueReceiptFunction"),
        (NOTIFICATIONS_QUEUE, "NotificationsQueue"),
        (STREAM, "OrdersTable"),
        (MACHINE, "orders-dev-order-workflow"),
        ("arn:aws:sqs:eu-west-1:123456789012:mine", "mine"),
        ("arn:aws:lambda:eu-west-1:123456789012:function:f:3", "f"),
        ("", ""),
        ("anything", "anything"),
    ],
)
def test_a_component_is_called_as_in_the_template(arn: str, name: str) -> None:
    assert component_of(arn) == name


def test_long_texts_are_cut_and_the_payload_is_not() -> None:
    body = json.dumps(
        {**INVOCATION, "requestPayload": "p" * 400_000, "responsePayload": {"errorMessage": "m" * 400_000}}
    )
    failure = read(body)

    assert len(failure.error_message) == MAX_MESSAGE
    assert len(failure.payload or "") == 400_002


# ---- Errors that botocore's models don't know


@pytest.mark.parametrize(
    ("service", "operation", "code", "transient"),
    [
        ("s3", "PutObject", "SlowDown", True),
        ("s3", "PutObject", "InternalError", True),
        ("sqs", "SendMessage", "ServiceUnavailable", True),
        ("dynamodb", "UpdateItem", "ServiceUnavailable", True),
        ("dynamodb", "UpdateItem", "InternalServerError", True),
        ("dynamodb", "UpdateItem", "AccessDeniedException", False),
    ],
)
def test_an_error_of_aws_has_its_own_name(service: str, operation: str, code: str, transient: bool) -> None:
    # GIVEN the error that botocore raises; for most codes its class is ClientError
    kind = client(service).exceptions.from_code(code)  # type: ignore[call-overload]
    error = kind({"Error": {"Code": code, "Message": "try later"}}, operation)

    # WHEN an asynchronous function and a state of the workflow fail with it
    answer = {"errorType": type(error).__name__, "errorMessage": str(error), "stackTrace": []}
    failure = read({**INVOCATION, "responsePayload": answer})
    stuck = read(
        {
            "kind": "StuckOrder",
            "customerId": "customer-1",
            "orderId": "order-1",
            "correlationId": "correlation-1",
            "state": "ValidateOrder",
            "error": type(error).__name__,
            "cause": json.dumps(answer),
        }
    )

    # THEN healing sees what AWS said
    assert (failure.error_name, stuck.error_name) == (code, code)
    assert (is_transient(failure), is_transient(stuck)) == (transient, transient)


def test_a_client_error_without_a_code_keeps_its_name() -> None:
    answer = {"errorType": "ClientError", "errorMessage": "what AWS says is not known"}
    assert read({**INVOCATION, "responsePayload": answer}).error_name == "ClientError"
