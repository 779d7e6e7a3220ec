"""The sentence that says where an order is, and why."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orderctl import explanation
from orderctl.stack import executions
from orderctl.stack.executions import Attempts, Execution
from orderctl.stack.records import DamagedOrder
from orderctl.stack.target import Target
from orders.domain.clock import timestamp, timestamp_before
from orders.domain.order import Order, Reason, Status
from orders.inbox.healing import Hold, Outlook
from orders.inbox.record import Action, FailureRecord, FailureStatus, Kind, Redrive
from tests.integration.world import an_order as a_new_order

RETRY = [
    {"ErrorEquals": ["PaymentDeclined"], "MaxAttempts": 0},
    {"ErrorEquals": ["States.ALL"], "IntervalSeconds": 10, "BackoffRate": 4, "MaxDelaySeconds": 100},
]


class Aws:
    """Step Functions with one definition, and Lambda with the sweep's settings."""

    def describe_state_machine(self, **_: str) -> dict[str, str]:
        return {"definition": json.dumps({"States": {"ProcessPayment": {"Retry": RETRY}}})}

    def get_function_configuration(self, FunctionName: str) -> dict[str, Any]:  # noqa: N803
        assert FunctionName == "sweep-orders"
        return {"Environment": {"Variables": {"ORDER_PROMISE_SECONDS": "1200", "WAREHOUSE_PROMISE_SECONDS": "1800"}}}


class Stack(Target):
    def client(self, service: str) -> Any:
        return Aws()


OUTPUTS = {
    "FulfilmentQueueArn": "arn:aws:sqs:::fulfilment",
    "SweepOrdersFunction": "sweep-orders",
    "StateMachineArn": "arn:aws:states:::m",
}
STACK = Stack("stack orders-test", OUTPUTS, "", None)


def an_order(**changes: Any) -> Order:
    return a_new_order(**{"status": Status.RESERVED, **changes})


def a_failure(**changes: Any) -> FailureRecord:
    fields: dict[str, Any] = {
        "failure_id": "f1",
        "kind": Kind.EXECUTION,
        "status": FailureStatus.NEW,
        "component": "ProcessPayment",
        "error_name": "PaymentProviderError",
        "error_message": "answered 503.",
        "resource_arn": "arn:aws:states:::m",
        "occurrence": "o",
        "first_seen_at": "2026-11-21T07:00:00.000Z",
        "last_seen_at": "2026-11-21T07:00:00.000Z",
        "redrive": Redrive(Action.RESUME, "arn:aws:states:::m"),
    }
    return FailureRecord(**{**fields, **changes})


def running(state: str, ago_s: float = 0, **changes: Any) -> Execution:
    begun_at = timestamp_before(ago_s)
    return Execution("m:e:1", [], begun_at, attempts=Attempts(state, begun_at, **changes))


def ended(ago_s: float = 0) -> Execution:
    return Execution("m:e:1", [], timestamp_before(ago_s), ended=True)


def sentence(
    order: Order | DamagedOrder,
    *found: Execution,
    failures: list[FailureRecord] | None = None,
    outlooks: dict[str, Outlook] | None = None,
) -> str:
    queues = {"fulfilment": {"waiting": 2, "inFlight": 1, "delayed": 0}}
    return explanation.sentence(STACK, order, explanation.Known(list(found), failures or [], queues, outlooks or {}))


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
    errors = [("PaymentProviderError", "")] * failures
    at = Attempts("ProcessPayment", errors=errors, waiting_since=timestamp_before(waited))

    assert executions.next_attempt(STACK, at) == due


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ([], "A workflow took it up 40 s ago."),
        (
            [("Busy", "conflict"), ("PaymentProviderError", "answered 503.")],
            "A workflow took it up 40 s ago and failed twice so far, "
            "the last time with PaymentProviderError: answered 503.",
        ),
    ],
)
def test_a_log_of_failures_only_does_not_know_the_state(errors: list[tuple[str, str]], said: str) -> None:
    assert sentence(an_order(), running("", 40, errors=errors, waiting_since=timestamp())) == said


def test_no_execution_is_at_work_longer_than_five_minutes() -> None:
    # GIVEN executions whose end no log tells
    assert sentence(an_order(), running("", 299)).startswith("A workflow took it up")
    assert sentence(an_order(), running("ProcessPayment", 301)).startswith("Nobody is at work on it")


def test_waiting_for_the_warehouse_names_the_queue() -> None:
    # GIVEN a paid order whose execution has ended, as far as is known
    order = an_order(status=Status.PAID, updated_at=timestamp_before(30))
    for execution in (ended(), running("")):
        said = sentence(order, execution)

        assert said.startswith("Waiting for the warehouse for 30 s")
        assert "2 messages waiting and 1 in flight" in said
        assert said.endswith(". If nothing happens, the sweep restarts it in about 29 min.")


def test_a_paid_order_whose_workflow_failed_is_not_known_to_be_with_the_warehouse() -> None:
    failed = Execution("m:e:1", [], timestamp(), ended=True, failed=True)

    assert sentence(an_order(status=Status.PAID), failed).startswith(
        "Nobody is at work on it: its last workflow has failed, the order is PAID. "
    )


def test_a_paid_order_whose_workflow_has_not_asked_the_warehouse_yet() -> None:
    assert sentence(an_order(status=Status.PAID), running("FulfillOrder")) == "In FulfillOrder for 0 s."


def test_a_stuck_order_names_cause_and_command() -> None:
    assert sentence(an_order(), failures=[a_failure()]) == (
        "Stuck since 2026-11-21T07:00:00.000Z in the failure inbox, status RESERVED: ProcessPayment failed with "
        "PaymentProviderError: answered 503; once that is mended: " + STACK.command("failures redrive f1")
    )


@pytest.mark.parametrize(
    ("outlook", "said"),
    [
        (Outlook("it has not healed within 24 hours", 9), "; once that is mended: "),
        (Outlook("", 0), "; it is redriven by itself, next within a minute or two; at once: "),
        (Outlook("", 2, not_before="T"), "; it is redriven by itself, next not before T; at once: "),
        (Outlook("", 0, hold=Hold("ada", "T", "w")), "; held by ada since T; once that is mended: "),
    ],
)
def test_a_stuck_order_says_whether_it_heals_by_itself(outlook: Outlook, said: str) -> None:
    command = STACK.command("failures redrive f1")

    assert sentence(an_order(), failures=[a_failure()], outlooks={"f1": outlook}).endswith(said + command)


def test_a_mail_that_failed_does_not_keep_the_order() -> None:
    mail = a_failure(
        kind=Kind.QUEUE,
        component="NotificationsQueue",
        redrive=Redrive(Action.SEND, "arn:aws:sqs:::notifications"),
    )

    said = sentence(an_order(status=Status.PLACED), failures=[mail])

    assert said.startswith("Placed 0 s ago; its event has not started a workflow yet")


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ({"status": Status.FULFILLED, "updated_at": "T"}, "Fulfilled at T: paid and shipped."),
        ({"status": Status.CANCELLED, "updated_at": "T"}, "Cancelled at T by the customer."),
        (
            {"status": Status.FAILED, "updated_at": "T", "reason": Reason("OutOfStock", "sold out")},
            "Failed at T, with everything undone: OutOfStock: sold out.",
        ),
    ],
)
def test_an_order_that_has_ended(order: dict[str, Any], said: str) -> None:
    assert sentence(an_order(**order)) == said


def test_an_order_that_has_ended_without_its_receipt_says_so() -> None:
    failure = a_failure(kind=Kind.FUNCTION, component="IssueReceiptFunction")

    said = sentence(an_order(status=Status.FULFILLED, updated_at="T"), failures=[failure])

    assert said == (
        "Fulfilled at T: paid and shipped; but IssueReceiptFunction failed with PaymentProviderError (answered 503): "
        + STACK.command("failures redrive f1")
    )


def test_an_order_that_nobody_works_on_waits_for_the_sweep() -> None:
    assert sentence(an_order(updated_at=timestamp_before(500)), ended()) == (
        "Nobody is at work on it: its last workflow has ended, the order is RESERVED. "
        "If nothing happens, the sweep restarts it in about 11 min."
    )


@pytest.mark.parametrize(
    ("changed_s", "swept_s", "restarts", "when"),
    [
        (1300, None, 0, "in one of its next runs."),
        (9000, 600, 1, "in about 9 min, for the 2nd time."),
    ],
)
def test_the_sweep_counts_from_the_last_change_or_its_own_restart(
    changed_s: float, swept_s: float | None, restarts: int, when: str
) -> None:
    swept_at = timestamp_before(swept_s) if swept_s else None
    order = an_order(updated_at=timestamp_before(changed_s), swept_at=swept_at, restarts=restarts)

    assert sentence(order, ended()).endswith(f"the sweep restarts it {when}")


def test_after_three_restarts_the_sweep_gives_an_order_to_the_inbox() -> None:
    order = an_order(updated_at=timestamp_before(9000), swept_at=timestamp_before(600), restarts=3)

    assert sentence(order, ended()).endswith(
        ". The sweep has restarted it 3 times in vain, and gives it to the failure inbox in about 9 min."
    )


def test_restarts_before_the_last_change_do_not_count() -> None:
    order = an_order(updated_at=timestamp_before(60), swept_at=timestamp_before(70), restarts=3)

    assert sentence(order, ended()).endswith(". If nothing happens, the sweep restarts it in about 18 min.")


@pytest.mark.parametrize(
    ("ago_s", "said"), [(1100, "Redriven at"), (1300, "Nobody is at work on it")], ids=["lately", "overdue"]
)
def test_a_redrive_counts_as_work_as_long_as_the_sweep_leaves_the_order_alone(ago_s: int, said: str) -> None:
    # GIVEN a stack whose sweep waits 1200 s for a redrive's effect
    redriven = a_failure(status=FailureStatus.REDRIVEN, claimed_at=timestamp_before(ago_s))

    assert sentence(an_order(), ended(2000), failures=[redriven]).startswith(said)


def test_a_redrive_whose_workflow_has_ended_is_no_work_any_more() -> None:
    redriven = a_failure(status=FailureStatus.REDRIVEN, claimed_at=timestamp_before(30))

    assert sentence(an_order(), ended(20), failures=[redriven]).startswith("Nobody is at work on it")


def test_an_order_that_got_stuck_again_is_stuck() -> None:
    # GIVEN an execution whose end no log tells, and a failure that is later than its beginning
    failure = a_failure(last_seen_at=timestamp_before(10))

    assert sentence(an_order(), running("", 20), failures=[failure]).startswith("Stuck since")
    assert sentence(an_order(), running("", 5), failures=[failure]).startswith("A workflow took it up 5 s ago; but")


def test_a_damaged_order_is_said_to_be_damaged() -> None:
    damaged = DamagedOrder("c", "o", "Expected `int`, got `str` - at `$.version`", {"status": "PAID"})

    assert sentence(damaged) == (
        "The order's item in the table can't be read (Expected `int`, got `str` - at `$.version`)."
    )


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
    assert executions.message_of(cause) == message


@pytest.mark.parametrize(
    ("number", "word"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (22, "22nd")]
)
def test_ordinals(number: int, word: str) -> None:
    assert explanation._ordinal(number) == word


REASON = Reason("Discarded", "no")
FAILING = "Given up at 2026-11-21T07:00:00.000Z (Discarded: no), and to be undone. "


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([], f"{FAILING}Its event has not started a workflow yet"),
        ([Execution("m:e:1", [], "2026-11-21T06:59:59.000Z")], f"{FAILING}Its event has not started a workflow yet"),
        ([running("RefundPayment")], f"{FAILING}In RefundPayment for "),
        ([running("")], f"{FAILING}A workflow took it up "),
        ([ended()], f"{FAILING}Nobody is at work on it"),
    ],
)
def test_an_order_that_was_given_up_says_who_undoes_it(found: list[Execution], said: str) -> None:
    order = an_order(status=Status.FAILING, updated_at="2026-11-21T07:00:00.000Z", reason=REASON)

    assert sentence(order, *found).startswith(said)


def test_an_order_that_release_1_0_0_gave_up_says_so() -> None:
    assert sentence(an_order(given_up=REASON), running("ReleaseInventory")).startswith(
        "Given up by an operator, and to be undone. In Rele"
    )
