"""The sentence that says where an order is, and why."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orderctl.commands import explain
from orderctl.commands.explain import Attempts, Execution
from orderctl.stack.target import Target
from orders.domain.clock import timestamp, timestamp_before

RETRY = [
    {"ErrorEquals": ["PaymentDeclined"], "MaxAttempts": 0},
    {"ErrorEquals": ["States.ALL"], "IntervalSeconds": 10, "BackoffRate": 4, "MaxDelaySeconds": 100},
]


class States:
    """Step Functions with one definition."""

    def describe_state_machine_for_execution(self, **_: str) -> dict[str, str]:
        return {"definition": json.dumps({"States": {"ProcessPayment": {"Retry": RETRY}}})}


class Stack(Target):
    def client(self, service: str) -> Any:
        return States()


STACK = Stack("stack orders-test", {"FulfilmentQueueArn": "arn:aws:sqs:::fulfilment"}, "", None)


def an_order(**changes: Any) -> dict[str, Any]:
    now = timestamp()
    return {"orderId": "o", "status": "RESERVED", "placedAt": now, "updatedAt": now, **changes}


def a_failure(**changes: Any) -> dict[str, Any]:
    return {
        "failureId": "f1",
        "kind": "execution",
        "status": "NEW",
        "component": "ProcessPayment",
        "errorName": "PaymentProviderError",
        "errorMessage": "answered 503.",
        "resourceArn": "arn:aws:states:::m",
        "occurrence": "o",
        "version": 1,
        "firstSeenAt": "2026-11-21T07:00:00.000Z",
        "lastSeenAt": "2026-11-21T07:00:00.000Z",
        "redrive": {"action": "resume", "to": "arn:aws:states:::m"},
        **changes,
    }


def running(state: str, **changes: Any) -> Execution:
    return Execution("arn:e", "RUNNING", [], Attempts(state, timestamp(), **changes))


def sentence(order: dict[str, Any], *executions: Execution, failures: list[dict[str, Any]] | None = None) -> str:
    queues = {"fulfilment": {"waiting": 2, "inFlight": 1, "delayed": 0}}
    return explain.sentence(STACK, order, list(executions), failures or [], queues)


def test_waiting_for_the_next_attempt() -> None:
    errors = [("PaymentProviderError", "the provider answered 503.")] * 2
    execution = running("ProcessPayment", errors=errors, waiting_since=timestamp())

    assert sentence(an_order(), execution) == (
        "Waiting for ProcessPayment's 3rd attempt, due within 40 s: "
        "it failed twice, the last time with PaymentProviderError: the provider answered 503."
    )


@pytest.mark.parametrize(
    ("failures", "waited", "due"), [(1, 0, "due within 10 s"), (3, 0, "due within 100 s"), (1, 60, "due now")]
)
def test_the_wait_is_what_the_definition_says(failures: int, waited: int, due: str) -> None:
    execution = running(
        "ProcessPayment", errors=[("PaymentProviderError", "")] * failures, waiting_since=timestamp_before(waited)
    )

    assert explain.next_try(STACK, execution) == due


def test_waiting_for_the_warehouse_names_the_queue() -> None:
    said = sentence(an_order(status="PAID"), running("FulfillOrder"))

    assert said.startswith("Waiting for the warehouse")
    assert "2 messages waiting and 1 in flight" in said


def test_a_stuck_order_names_cause_and_command() -> None:
    assert sentence(an_order(), failures=[a_failure()]) == (
        "Stuck since 2026-11-21T07:00:00.000Z in the failure inbox, status RESERVED: ProcessPayment failed with "
        "PaymentProviderError: answered 503; once that is mended: " + STACK.command("failures redrive f1")
    )


def test_a_mail_that_failed_does_not_keep_the_order() -> None:
    mail = a_failure(
        kind="queue", component="NotificationsQueue", redrive={"action": "send", "to": "arn:aws:sqs:::notifications"}
    )

    said = sentence(an_order(status="PLACED"), failures=[mail])

    assert said.startswith("Placed 0 s ago; its event has not started a workflow yet")


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ({"status": "FULFILLED", "updatedAt": "T"}, "Fulfilled at T: paid and shipped."),
        ({"status": "CANCELLED", "updatedAt": "T"}, "Cancelled at T by the customer."),
        (
            {"status": "FAILED", "updatedAt": "T", "reason": {"code": "OutOfStock", "message": "sold out"}},
            "Failed at T, with everything undone: OutOfStock: sold out.",
        ),
    ],
)
def test_an_order_that_has_ended(order: dict[str, Any], said: str) -> None:
    assert sentence(an_order(**order)) == said


def test_an_order_that_has_ended_without_its_receipt_says_so() -> None:
    failure = a_failure(kind="function", component="IssueReceiptFunction")

    said = sentence(an_order(status="FULFILLED", updatedAt="T"), failures=[failure])

    assert said == (
        "Fulfilled at T: paid and shipped; but IssueReceiptFunction failed with PaymentProviderError (answered 503): "
        + STACK.command("failures redrive f1")
    )


def test_an_order_that_nobody_works_on_waits_for_the_sweep() -> None:
    ended = Execution("arn:e", "ABORTED", [], Attempts())

    assert "the sweep starts it again" in sentence(an_order(), ended)


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        ("plain", "plain"),
        ('{"errorMessage": "m", "errorType": "E"}', "m"),
        ('{"state": "S", "cause": "{\\"errorMessage\\": \\"m\\"}"}', "S: m"),
        ("[1]", "[1]"),
        ("", ""),
    ],
)
def test_the_message_in_a_cause(cause: str, message: str) -> None:
    assert explain.message_of(cause) == message


@pytest.mark.parametrize(
    ("number", "word"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (22, "22nd")]
)
def test_ordinals(number: int, word: str) -> None:
    assert explain._ordinal(number) == word


def test_an_order_that_was_given_up_says_so() -> None:
    order = an_order(givenUp={"code": "Discarded", "message": "no"})
    assert sentence(order, running("ReleaseInventory")).startswith(
        "Given up by an operator, and to be undone. In Rele"
    )
