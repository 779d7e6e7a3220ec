"""The order workflow, seen from outside: its input, the names of its executions, and who works on an order.

The workflow itself is statemachine/order.asl.yaml.
"""

from typing import Literal

import msgspec
from msgspec import Struct

from orders.domain.clock import seconds_since
from orders.domain.order import Order
from orders.inbox.record import Action, Failure, FailureRecord, FailureStatus

# The events of an execution's history that say that an attempt failed, and the field with the error.
FAILED_ATTEMPTS = {
    "TaskFailed": "taskFailedEventDetails",
    "TaskTimedOut": "taskTimedOutEventDetails",
    "TaskStartFailed": "taskStartFailedEventDetails",
    "TaskSubmitFailed": "taskSubmitFailedEventDetails",
}

Purpose = Literal["resume", "undo", "again"]
"""Why a redrive starts an execution: to carry on, to undo a given-up order, or to deliver a rule's event again."""


class InputMetadata(Struct, rename="camel"):
    """The part of an event's metadata that the workflow reads."""

    correlation_id: str


class OrderKey(Struct, rename="camel"):
    """The order of an execution."""

    customer_id: str
    order_id: str


class OrderOfExecution(Struct):
    """The part of an execution's input that names its order."""

    metadata: InputMetadata
    data: OrderKey


class WorkflowInput(OrderOfExecution):
    """The input of an execution: the detail of an OrderPlaced event; a redrive and the sweep set `path: resume`."""

    path: Literal["forward", "resume"] = "forward"


def resume_input(order: Order) -> str:
    """The input, as JSON, of an execution that goes on from the order's present status."""
    given = WorkflowInput(InputMetadata(order.correlation_id), OrderKey(order.customer_id, order.order_id), "resume")
    return msgspec.json.encode(given).decode()


def resume_input_of_failure(record: FailureRecord, payload: str) -> str:
    """The input, as JSON, of an execution that continues the failed execution's order.

    `payload` is the failed execution's input. If it can't be read, the record's ids replace it. Raises `LookupError`
    if the record has none.
    """
    try:
        given = msgspec.json.decode(payload, type=OrderOfExecution)
    except ValueError:
        if not (record.order_id and record.customer_id):
            raise LookupError("the execution's input names no order and no customer") from None
        metadata = InputMetadata(record.correlation_id or record.order_id)
        given = OrderOfExecution(metadata, OrderKey(record.customer_id, record.order_id))
    return msgspec.json.encode(WorkflowInput(given.metadata, given.data, "resume")).decode()


def sweep_execution_name(order: Order, promise_s: float) -> str:
    """The name of the execution that the sweep starts for an overdue order.

    Each multiple of the promise (seconds since the order was placed) has one name, so any number of sweeps start one
    execution for each promise broken.
    """
    return f"{order.order_id}-sweep-{int(seconds_since(order.placed_at) / promise_s)}"


def redrive_execution_name(record: FailureRecord, purpose: Purpose) -> str:
    """The name of the execution that a redrive of a failure starts: the same redrive has the same name."""
    return _redrive_name(record, purpose, record.redrives)


def redrive_execution_names(record: FailureRecord) -> list[str]:
    """Every execution name that the redrives of a failure may have used so far."""
    purposes: tuple[Purpose, ...] = ("resume", "undo", "again")
    return [_redrive_name(record, purpose, number) for purpose in purposes for number in range(record.redrives + 1)]


def _redrive_name(record: FailureRecord, purpose: Purpose, redrives: int) -> str:
    # Far below Step Functions' quota of 80 characters.
    return f"{(record.order_id or 'order')[:36]}-{purpose}-{record.failure_id}-{redrives}"


def order_of_execution(name: str) -> str | None:
    """The id of the order in an execution's name; None where a rule gave the name."""
    order_id = name[:36]
    return order_id if name[36:].startswith(("-sweep-", "-resume-", "-undo-", "-again-")) else None


def order_waits_for(failure: Failure, fulfilment_queue_arn: str) -> bool:
    """Whether an order can't go on before this failure is redriven or given up.

    An order waits for its workflow, for the event that starts the workflow, and for its message to the warehouse. An
    order does not wait for a receipt or a mail.
    """
    return (
        failure.redrive.action is Action.PUBLISH
        or ":states:" in failure.redrive.to
        or failure.resource_arn == fulfilment_queue_arn
    )


def keeps_sweep_away(record: FailureRecord, *, fulfilment_queue_arn: str, redriven_since: str) -> bool:
    """Whether the sweep must leave a failure's order alone.

    The sweep does so while the failure is NEW in the inbox, and after a redrive later than `redriven_since` (a
    `timestamp`), which may still take effect.
    """
    if not order_waits_for(record, fulfilment_queue_arn):
        return False
    if record.status is FailureStatus.REDRIVEN:
        return record.claimed_at is not None and record.claimed_at > redriven_since
    return record.status is FailureStatus.NEW
