"""A discarded failure gives its order up: the order becomes FAILING, and the event of that undoes it."""

from __future__ import annotations

import json
from typing import Any

import boto3
import msgspec
import pytest

from orderctl.redrive.discarding import await_undoing, discard_one
from orderctl.redrive.many import sender_of
from orderctl.stack import records
from orderctl.stack.target import Target
from orders.domain.clock import timestamp
from orders.domain.errors import OrderFailing
from orders.domain.order import CAN_FAIL, GIVEN_UP_REASON, TERMINAL, Order, Reason, Status, TimelineEntry
from orders.inbox.record import Action, FailureRecord, FailureStatus, Kind, Redrive
from orders.inbox.store import FailuresTable
from orders.redrive.sending import Outcome, redrive_one
from orders.storage.dynamodb import to_item
from tests.integration.world import ENVIRONMENT, REGION, World, an_order

MACHINE = ENVIRONMENT["STATE_MACHINE_ARN"]
FULFILMENT = ENVIRONMENT["FULFILMENT_QUEUE_ARN"]
STREAM = "arn:aws:dynamodb:us-east-1:123456789012:table/OrdersTable/stream/1"


class Workflows:
    """Step Functions: what was started."""

    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []

    def start_execution(self, *, stateMachineArn: str, name: str, input: str) -> None:  # noqa: A002, N803
        assert stateMachineArn == MACHINE
        self.started.append({"name": name, **json.loads(input)})


@pytest.fixture
def workflows() -> Workflows:
    return Workflows()


@pytest.fixture
def there(world: World, workflows: Workflows) -> Target:
    outputs = {
        "OrdersTable": "OrdersTable",
        "CatalogueTable": "CatalogueTable",
        "FailuresTable": "FailuresTable",
        "FailedPayloadsBucket": "failed-payloads-bucket",
        "FulfilmentQueueArn": FULFILMENT,
        "StateMachineArn": MACHINE,
        "PublishEventsFunction": "publish-events",
    }
    target = Target("test", outputs, "", boto3.session.Session(region_name=REGION))
    target._clients["stepfunctions"] = workflows
    return target


@pytest.fixture
def inbox(there: Target) -> FailuresTable:
    return records.failures_table(there)


def stream_record(order: Order) -> str:
    return json.dumps({"eventSourceARN": STREAM, "dynamodb": {"NewImage": {"status": {"S": order.status}}}})


WAITED_FOR = {
    "a stuck workflow": (Kind.EXECUTION, MACHINE, Redrive(Action.RESUME, MACHINE)),
    "an event that did not start its workflow": (Kind.RULE_TARGET, MACHINE, Redrive(Action.DELIVER, MACHINE, "rule")),
    "a message that the warehouse never got": (Kind.QUEUE, FULFILMENT, Redrive(Action.SEND, FULFILMENT)),
    "an event that was never published": (Kind.STREAM, STREAM, Redrive(Action.PUBLISH)),
}
FUNCTIONS = "arn:aws:lambda:us-east-1:123456789012:function"
RECEIPTS = f"{FUNCTIONS}:orders-IssueReceiptFunction-AbCdEfGhIjKl"
REFUNDS = f"{FUNCTIONS}:orders-RefundPaymentFunction-AbCdEfGhIjKl"
MAILS = "arn:aws:sqs:us-east-1:123456789012:orders-NotificationsQueue-AbCdEfGhIjKl"
OTHERS = {
    "no receipt": (Kind.FUNCTION, RECEIPTS, Redrive(Action.INVOKE, RECEIPTS)),
    "no mail": (Kind.QUEUE, MAILS, Redrive(Action.SEND, MAILS)),
    "stays charged": (Kind.RULE_TARGET, REFUNDS, Redrive(Action.DELIVER, REFUNDS, "rule")),
}


def a_failure_of(world: World, order: Order, of: tuple[Kind, str, Redrive], **changes: Any) -> str:
    kind, resource_arn, redrive = of
    record = FailureRecord(
        failure_id="0123456789abcdef0123",
        kind=kind,
        component="somewhere",
        resource_arn=resource_arn,
        error_name="SomeError",
        error_message="no",
        occurrence="1",
        redrive=redrive,
        payload=stream_record(order) if kind is Kind.STREAM else "{}",
        order_id=order.order_id,
        customer_id=order.customer_id,
        status=FailureStatus.NEW,
        first_seen_at=timestamp(),
        last_seen_at=timestamp(),
    )
    record = msgspec.structs.replace(record, **changes)
    world.dynamodb.put_item(TableName="FailuresTable", Item=to_item(msgspec.to_builtins(record)))
    return record.failure_id


def status_of(inbox: FailuresTable, failure_id: str) -> FailureStatus:
    found = inbox.get(failure_id)
    assert found is not None
    return found.status


@pytest.mark.parametrize("of", WAITED_FOR.values(), ids=WAITED_FOR.keys())
@pytest.mark.parametrize("status", [FailureStatus.NEW, FailureStatus.REDRIVEN])
@pytest.mark.parametrize("stands", CAN_FAIL)
def test_discarding_what_an_order_waits_for_gives_the_order_up_at_any_moment(
    *,
    world: World,
    there: Target,
    inbox: FailuresTable,
    workflows: Workflows,
    of: Any,
    status: FailureStatus,
    stands: Status,
) -> None:
    order = world.store(an_order(status=stands))
    placed = stream_record(an_order())
    changes = {"payload": placed} if of[0] is Kind.STREAM else {}
    failure_id = a_failure_of(world, order, of, status=status, claimed_at=timestamp(), **changes)

    outcome = discard_one(there, inbox, failure_id, "ada", "a test")

    # THEN the order's event will undo it: the discard starts nothing
    assert (outcome.result, outcome.order_id, outcome.given_up) == ("discarded", order.order_id, True)
    assert (world.order(order).status, world.order(order).reason) == (Status.FAILING, GIVEN_UP_REASON)
    assert workflows.started == []
    assert status_of(inbox, failure_id) is FailureStatus.DISCARDED


@pytest.mark.parametrize("told", OTHERS.keys())
def test_discarding_what_no_order_waits_for_leaves_the_order_alone_and_tells_what_never_comes(
    world: World, there: Target, inbox: FailuresTable, workflows: Workflows, told: str
) -> None:
    order = world.store(an_order())

    outcome = discard_one(there, inbox, a_failure_of(world, order, OTHERS[told]), "ada", "a test")

    assert (outcome.result, told in outcome.detail) == ("discarded", True)
    assert (world.order(order).status, workflows.started) == (order.status, [])


def test_discarding_a_later_event_does_not_give_up_an_order_that_goes_on_without_it(
    world: World, there: Target, inbox: FailuresTable, workflows: Workflows
) -> None:
    order = world.store(an_order(status=Status.RESERVED, version=2))
    failure_id = a_failure_of(world, order, WAITED_FOR["an event that was never published"])

    outcome = discard_one(there, inbox, failure_id, "ada", "a test")

    assert "goes on" in outcome.detail
    assert "its event is never published" in outcome.detail
    assert (world.order(order).status, workflows.started) == (order.status, [])


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_an_order_that_has_ended_is_not_given_up(
    world: World, there: Target, inbox: FailuresTable, workflows: Workflows, status: Status
) -> None:
    order = world.store(an_order(status=status, open_shard=None))

    outcome = discard_one(there, inbox, a_failure_of(world, order, WAITED_FOR["a stuck workflow"]), "ada", "a test")

    assert (outcome.result, outcome.detail) == ("discarded", f"the order is {status}")
    assert workflows.started == []


def test_a_second_discard_goes_on_where_the_first_died(
    world: World, there: Target, inbox: FailuresTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a discard that died after the order was given up
    order = world.store(an_order())
    failure_id = a_failure_of(world, order, WAITED_FOR["a stuck workflow"])
    with monkeypatch.context() as patch:
        patch.setattr(FailuresTable, "settle", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            discard_one(there, inbox, failure_id, "ada", "a test")
    assert (status_of(inbox, failure_id), world.order(order).status) == (FailureStatus.NEW, Status.FAILING)
    version = world.order(order).version

    # WHEN it is discarded again
    outcome = discard_one(there, inbox, failure_id, "ada", "a test")

    # THEN the failure is settled, and the order changes no more
    assert (outcome.result, outcome.given_up, world.order(order).version) == ("discarded", True, version)
    assert status_of(inbox, failure_id) is FailureStatus.DISCARDED


def test_a_second_discard_of_an_order_that_is_undone_by_then_tells_so(
    world: World, there: Target, inbox: FailuresTable
) -> None:
    timeline = [
        TimelineEntry("1", Status.PLACED),
        TimelineEntry("2", Status.FAILING),
        TimelineEntry("3", Status.FAILED),
    ]
    order = world.store(an_order(status=Status.FAILED, timeline=timeline, open_shard=None))
    failure_id = a_failure_of(world, order, WAITED_FOR["a stuck workflow"])

    first = discard_one(there, inbox, failure_id, "ada", "a test")
    second = discard_one(there, inbox, failure_id, "ada", "a test")

    assert (first.result, first.given_up) == ("discarded", True)
    assert (second.result, "nothing stays charged" in second.detail) == ("refused", True)


def test_an_order_whose_item_cannot_be_read_stays_in_the_inbox_until_somebody_mends_it(
    world: World, there: Target, inbox: FailuresTable, workflows: Workflows
) -> None:
    order = world.store(an_order())
    failure_id = a_failure_of(world, order, WAITED_FOR["an event that was never published"])
    world.put("OrdersTable", **{**msgspec.to_builtins(order), "lines": "broken"})

    outcome = discard_one(there, inbox, failure_id, "ada", "a test")

    assert (outcome.result, "mend the item" in outcome.detail) == ("failed", True)
    assert (status_of(inbox, failure_id), workflows.started) == (FailureStatus.NEW, [])
    world.store(order)
    assert discard_one(there, inbox, failure_id, "ada", "a test").result == "discarded"


def test_an_order_that_is_being_undone_is_not_paid(world: World) -> None:
    order = world.store(an_order(status=Status.FAILING))

    with pytest.raises(OrderFailing):
        world.orders.mark_paid(order.customer_id, order.order_id, "pay_1")

    assert world.order(order).status is Status.FAILING


def test_the_first_reason_for_giving_up_stays(world: World) -> None:
    order = world.store(an_order())
    first = world.orders.start_failing(order.customer_id, order.order_id, GIVEN_UP_REASON)

    later = world.orders.start_failing(order.customer_id, order.order_id, Reason("Other", "other"))

    assert (later.reason, later.version) == (GIVEN_UP_REASON, first.version)


def test_an_order_that_is_not_there_cannot_be_given_up(world: World) -> None:
    with pytest.raises(LookupError):
        world.orders.start_failing("nobody", "nothing", GIVEN_UP_REASON)


@pytest.mark.parametrize("mark", [{"status": Status.FAILING}, {"status": Status.PAID, "given_up": GIVEN_UP_REASON}])
def test_a_given_up_orders_message_is_not_sent_to_the_warehouse_again(
    world: World, there: Target, inbox: FailuresTable, workflows: Workflows, mark: dict[str, Any]
) -> None:
    order = world.store(an_order(**mark))
    failure_id = a_failure_of(world, order, WAITED_FOR["a message that the warehouse never got"])

    outcome = redrive_one(sender_of(there), inbox, failure_id, "ada")

    # THEN its workflow undoes it, or ships what has left already
    assert outcome.result == "redriven"
    assert len(workflows.started) == 1
    assert world.messages("FulfilmentQueue") == []


@pytest.mark.parametrize("of", ["a stuck workflow", "a message that the warehouse never got"])
@pytest.mark.parametrize("customer", ["known", None])
def test_what_an_ended_order_waited_for_is_resolved_and_not_sent(
    *, world: World, there: Target, inbox: FailuresTable, workflows: Workflows, of: str, customer: str | None
) -> None:
    order = world.store(an_order(status=Status.FULFILLED, open_shard=None))
    known = {} if customer else {"customer_id": None}
    failure_id = a_failure_of(world, order, WAITED_FOR[of], **known)

    outcome = redrive_one(sender_of(there), inbox, failure_id, "ada")

    assert (outcome.result, "FULFILLED" in outcome.detail) == ("resolved", True)
    assert (world.messages("FulfilmentQueue"), workflows.started) == ([], [])


@pytest.mark.parametrize("of", ["a stuck workflow", "an event that did not start its workflow"])
def test_an_execution_is_started_on_the_present_machine_whichever_the_record_names(
    world: World, there: Target, inbox: FailuresTable, workflows: Workflows, of: str
) -> None:
    # GIVEN failures of a machine, and of a rule, that are gone
    order = world.store(an_order(status=Status.FAILING))
    old = MACHINE.replace("order-workflow", "gone")
    kind, _, redrive = WAITED_FOR[of]
    gone = (kind, old, Redrive(redrive.action, old, redrive.rule))
    event = {"detail": {"metadata": {"correlationId": "c"}, "data": {"customerId": "x", "orderId": "y"}}}
    failure_id = a_failure_of(world, order, gone, payload=json.dumps(event))

    outcome = redrive_one(sender_of(there), inbox, failure_id, "ada")

    # THEN the event's detail is the input; without one, the record's ids are
    (started,) = workflows.started
    assert outcome.result == "redriven"
    assert started["name"] == f"{order.order_id}-{failure_id}"
    delivered = redrive.action is Action.DELIVER
    assert started["data"]["orderId"] == ("y" if delivered else order.order_id)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (Status.FAILED, "nothing stays charged or reserved, and nothing is shipped"),
        (Status.FULFILLED, "the parcel had left already: the order is FULFILLED and stays charged"),
        (Status.CANCELLED, "the order is CANCELLED by its customer"),
        (Status.FAILING, "the order is FAILING and is being undone; see its progress"),
    ],
)
def test_an_operator_is_told_where_a_given_up_order_has_ended(
    world: World, there: Target, status: Status, said: str
) -> None:
    order = world.store(an_order(status=status))
    outcome = Outcome("f", "discarded", "it is being undone", order.order_id, given_up=True)

    await_undoing(there, [outcome], timeout_s=0, pause_s=0)

    assert said in outcome.detail
