"""The messages on the failures queue: those that our functions and the workflow write, and those that AWS writes."""

from typing import Any

import msgspec
from msgspec import Raw, Struct


class UnreadableStreamRecord(Struct, tag_field="kind", tag="UnreadableStreamRecord"):
    """A record of the orders table's stream (JSON) that publish_events can't read; `error` is `Name: message`."""

    error: str
    record: Raw


class PoisonMessage(Struct, tag_field="kind", tag="PoisonMessage", rename="camel"):
    """A message that failed at its last receive; its consumer hands it over with the error, as `Name: message`."""

    error: str
    queue_arn: str
    message_id: str
    receives: int
    body: str
    stack_trace: list[str] = []


class StuckOrder(Struct, tag_field="kind", tag="StuckOrder", rename="camel"):
    """An order that its workflow or the sweep can't bring on; the workflow's state ReportStuck writes this, too.

    `state` is the workflow's state, or the order's status if nobody knows the state. `execution` is an ARN, "" if no
    execution failed. The ids are "" if the execution's input named no order.
    """

    customer_id: str
    order_id: str
    correlation_id: str
    state: str
    error: str
    cause: str = ""
    execution: str = ""


class Shape(Struct, rename="camel"):
    """The fields that tell the messages on the failures queue apart."""

    source: Any = None
    detail_type: Any = msgspec.field(name="detail-type", default=None)
    kind: Any = None
    request_context: Raw = Raw()
    request_payload: Raw = Raw()
    stream_batch: Raw = msgspec.field(name="DDBStreamBatchInfo", default=Raw())


class RequestContext(Struct, rename="camel"):
    """The invocation that failed (Lambda developer guide, "Invocation records")."""

    function_arn: str
    request_id: str = ""
    condition: str = ""
    approximate_invoke_count: int = 1


class FunctionRecord(Struct, rename="camel"):
    """An asynchronous function's on-failure record (Lambda developer guide, "Invocation records")."""

    request_context: RequestContext
    request_payload: Raw  # the text as it came: what isn't parsed can't be changed
    response_payload: Raw = Raw(b"null")


class LambdaError(Struct, rename="camel"):
    """The answer of a function that raised an error."""

    error_type: str = ""
    error_message: str = ""
    stack_trace: list[str] = []


class StreamBatch(Struct, rename="camel"):
    """The place of a batch in its stream."""

    stream_arn: str
    shard_id: str
    start_sequence_number: str
    end_sequence_number: str
    batch_size: int = 1


class StreamRecord(Struct, rename="camel"):
    """A stream mapping's on-failure record (Lambda developer guide, "Retaining discarded batches")."""

    request_context: RequestContext
    batch: StreamBatch = msgspec.field(name="DDBStreamBatchInfo")


class EndedExecution(Struct, rename="camel"):
    """An execution of release 1.0.0 that failed, timed out or was aborted."""

    execution_arn: str
    state_machine_arn: str
    status: str
    input: str | None = None
    error: str | None = None
    cause: str | None = None


class ExecutionEvent(Struct):
    """The event "Step Functions Execution Status Change" (Step Functions developer guide)."""

    detail: EndedExecution


class StuckCause(Struct):
    """The cause that release 1.0.0's state OrderStuck wrote."""

    state: str
    cause: Any = ""
