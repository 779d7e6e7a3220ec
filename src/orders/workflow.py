"""The order workflow from outside: its input, the names of its executions, and the failures that an order waits for.

The workflow itself is statemachine/order.asl.yaml.
"""

import msgspec
from msgspec import Struct

from orders.inbox.record import Action, Failure, FailureRecord, FailureStatus

# Later than any time: an order in the inbox is attended to until its failure is redriven or settled.
ATTENDED = "9"
# After so many restarts without a change, the sweep gives an order to the inbox.
RESTARTS_IN_VAIN = 3


class InputMetadata(Struct, rename="camel"):
    """The part of an event's metadata that the workflow reads."""

    correlation_id: str


class OrderKey(Struct, rename="camel"):
    """The order of an execution."""

    customer_id: str
    order_id: str


class WorkflowInput(Struct):
    """The input of an execution, as far as anybody reads it: the detail of an OrderPlaced or OrderFailing event.

    It names the order. The order's status in the table alone decides what an execution does.
    """

    metadata: InputMetadata
    data: OrderKey


def workflow_input(customer_id: str, order_id: str, correlation_id: str) -> str:
    """The input, as JSON, of an execution that goes on from the order's present status."""
    given = WorkflowInput(InputMetadata(correlation_id), OrderKey(customer_id, order_id))
    return msgspec.json.encode(given).decode()


def input_of_failure(record: FailureRecord, payload: str) -> str:
    """The input, as JSON, of an execution that continues the order of a failure.

    `payload` names the order: the input of a failed execution, or the message of a stuck one. If it can't be read,
    the record's ids replace it. Raises `LookupError` if the record has none.
    """
    try:
        return msgspec.json.encode(msgspec.json.decode(payload, type=WorkflowInput)).decode()
    except ValueError:
        if not (record.order_id and record.customer_id):
            raise LookupError("the failure names no order and no customer") from None
        return workflow_input(record.customer_id, record.order_id, record.correlation_id or record.order_id)


def execution_name(order_id: str, started_by: str) -> str:
    """The name of an execution that somebody starts for an order: `started_by` is "sweep" or a failure's id.

    The workflow is an Express one: a name need not be unique, and only tells a reader of the log who started it. Far
    below Step Functions' quota of 80 characters.
    """
    return f"{order_id[:36]}-{started_by}"


def order_waits_for(failure: Failure, fulfilment_queue_arn: str) -> bool:
    """Whether an order can't go on before this failure is redriven or given up.

    An order waits for its workflow, for the event that starts the workflow, and for its message to the warehouse. An
    order does not wait for a receipt or a mail.
    """
    return (
        failure.redrive.action in (Action.PUBLISH, Action.RESUME)
        or ":states:" in failure.redrive.to
        or failure.resource_arn == fulfilment_queue_arn
    )


def attended_at(record: FailureRecord, *, fulfilment_queue_arn: str) -> str:
    """When somebody last took care of the order that waits for a failure, as a `timestamp`.

    `ATTENDED`, later than any time, while the failure is NEW; the time of the claim after a redrive; "" if no order
    waits for the failure. The record may come from a list.
    """
    if order_waits_for(record, fulfilment_queue_arn):
        if record.status is FailureStatus.NEW:
            return ATTENDED
        if record.status is FailureStatus.REDRIVEN:
            return record.claimed_at or ""
    return ""


def keeps_sweep_away(record: FailureRecord, *, fulfilment_queue_arn: str, redriven_since: str) -> bool:
    """Whether the sweep must leave a failure's order alone.

    The sweep does so while the failure is NEW in the inbox, and after a redrive later than `redriven_since` (a
    `timestamp`), which may still take effect.
    """
    return attended_at(record, fulfilment_queue_arn=fulfilment_queue_arn) > redriven_since
