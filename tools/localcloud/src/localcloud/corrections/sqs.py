"""SQS: redrive, queues as event sources, and messages sent at the same time."""

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from ministack.services import lambda_svc, sqs

from localcloud.corrections import queues
from localcloud.patching import Correction, internal, replace
from localcloud.settings import Settings

DEFAULT_MOVES_PER_S = 500  # StartMessageMoveTask, "MaxNumberOfMessagesPerSecond"

logger = logging.getLogger("localcloud.sqs")

JsonObject = dict[str, Any]

# The functions that read and then write a queue's list of messages.
REWRITING = (
    "_act_send_message",
    "_act_delete_message",
    "_act_delete_message_batch",
    "_act_change_visibility",
    "_act_purge_queue",
    "_expire_retained",
    "_refresh_counts",
    "_collect_msgs",
    "_dlq_sweep",
)

lock = threading.RLock()


def locked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, run by one thread at a time."""

    @wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        with lock:
            return function(*arguments, **options)

    return run


def install_lock(_: Settings) -> None:
    """Let only one thread at a time rewrite a queue."""
    handlers = internal(sqs, "_HANDLERS")
    replace(sqs, "_queues_lock", lock)
    for name in REWRITING:
        original = internal(sqs, name)
        safe = locked(original)
        replace(sqs, name, safe)
        for action, handler in handlers.items():
            if handler is original:
                handlers[action] = safe


def failed_identifiers(body: Any) -> set[str] | None:
    """Return the message ids that a function reports as failed; None for an invalid answer.

    Lambda developer guide, "Success and failure conditions": an empty answer is success, an answer that is
    no list of identifiers fails the whole batch.
    """
    if body is None or body == "":
        return set()
    if not isinstance(body, dict):
        return None
    failures = body.get("batchItemFailures")
    if failures is None:
        return set()
    if not isinstance(failures, list):
        return None
    identifiers = [item.get("itemIdentifier") if isinstance(item, dict) else None for item in failures]
    if not all(isinstance(identifier, str) and identifier for identifier in identifiers):
        return None
    return {str(identifier) for identifier in identifiers}


def run_batch(  # noqa: PLR0917 - called by MiniStack
    mapping: JsonObject,
    function: JsonObject,
    event: JsonObject,
    batch: list[JsonObject],
    queue_url: str,
    queue_name: str,
) -> None:
    """Invoke a function with a batch of messages and delete the processed messages.

    The others stay on the queue until their visibility timeout ends.
    """
    origins = {message["id"]: message["sys"].get("DeadLetterQueueSourceArn") for message in batch}
    for record in event["Records"]:
        if origin := origins.get(record["messageId"]):
            record["attributes"]["DeadLetterQueueSourceArn"] = origin
    result = internal(lambda_svc, "_execute_function")(function, event)
    failed: set[str] | None = set()
    if result.get("error"):
        failed = None
    elif "ReportBatchItemFailures" in mapping.get("FunctionResponseTypes", []):
        failed = failed_identifiers(result.get("body"))
    if failed is None:
        mapping["LastProcessingResult"] = "PROBLEM: Function call failed"
        logger.warning("%s failed on %d messages of %s", mapping["FunctionName"], len(batch), queue_name)
        return
    done = {message["receipt_handle"] for message in batch if message["id"] not in failed}
    internal(sqs, "_delete_messages_for_esm")(queue_url, done)
    mapping["LastProcessingResult"] = "OK"


def install_event_source(_: Settings) -> None:
    """Give functions the origin of dead letters, and read their answer as AWS does."""
    # The time for which MiniStack's poller ignores new messages after it found none.
    replace(lambda_svc, "_ESM_IDLE_WAKE_GAP_SECONDS", 0.01)
    replace(lambda_svc, "_run_sqs_batch", run_batch)


@dataclass
class MoveTask:
    """One task of StartMessageMoveTask."""

    source_arn: str
    destination_arn: str | None
    rate: int | None
    to_move: int
    handle: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: str = "RUNNING"
    moved: int = 0
    failure: str | None = None
    started_ms: int = field(default_factory=lambda: int(time.time() * 1000))

    def run(self) -> None:
        """Move the messages that were on the queue when the task started."""
        source = internal(sqs, "_queue_by_arn")(self.source_arn)
        try:
            while self.status == "RUNNING" and self.moved < self.to_move and self._move_one(source):
                time.sleep(1 / (self.rate or DEFAULT_MOVES_PER_S))
        except LookupError as error:
            self.failure = str(error)
        if self.status == "CANCELLING":
            self.status = "CANCELLED"
        else:
            self.status = "FAILED" if self.failure else "COMPLETED"

    def _move_one(self, source: JsonObject) -> bool:
        """Move one visible message; returns False if there is none. Raises LookupError without a destination."""
        with lock:
            now = time.time()
            message = next((m for m in source["messages"] if m["visible_at"] <= now), None)
            if message is None:
                return False
            destination = self.destination_arn or message["sys"].get("DeadLetterQueueSourceArn")
            if not destination:
                raise LookupError("CouldNotDetermineMessageSource")
            try:
                # A moved message is a new message, with a new id and no receives.
                queues.send(destination, message["body"], message["message_attributes"])
            except queues.QueueNotFoundError:
                raise LookupError("AWS.SimpleQueueService.NonExistentQueue") from None
            source["messages"].remove(message)
            self.moved += 1
            return True

    def view(self) -> JsonObject:
        """Return the task as an entry of ListMessageMoveTasks."""
        optional = {
            "TaskHandle": self.handle if self.status == "RUNNING" else None,
            "DestinationArn": self.destination_arn,
            "MaxNumberOfMessagesPerSecond": self.rate,
            "FailureReason": self.failure,
        }
        return {
            "Status": self.status,
            "SourceArn": self.source_arn,
            "ApproximateNumberOfMessagesMoved": self.moved,
            "ApproximateNumberOfMessagesToMove": self.to_move,
            "StartedTimestamp": self.started_ms,
            **{name: value for name, value in optional.items() if value is not None},
        }


class MoveTasks:
    """The three calls on message move tasks, and the tasks, newest first."""

    def __init__(self) -> None:
        self._tasks: list[MoveTask] = []

    def start(self, data: JsonObject, _: str) -> JsonObject:
        """StartMessageMoveTask."""
        source_arn, destination_arn = data.get("SourceArn", ""), data.get("DestinationArn")
        for arn, name in ((source_arn, "SourceArn"), (destination_arn, "DestinationArn")):
            if arn is not None and internal(sqs, "_queue_by_arn")(arn) is None:
                message = f"The resource that you specified for the {name} parameter doesn't exist."
                raise internal(sqs, "_Err")("ResourceNotFoundException", message, 404)
        if not source_queues(source_arn):
            message = "Source queue must be configured as a Dead Letter Queue."
            raise internal(sqs, "_Err")("InvalidParameterValue", message)
        if any(task.source_arn == source_arn and task.status == "RUNNING" for task in self._tasks):
            message = "There is already a task running. Only one active task is allowed for a source queue."
            raise internal(sqs, "_Err")("UnsupportedOperation", message)
        with lock:
            messages = internal(sqs, "_queue_by_arn")(source_arn)["messages"]
            task = MoveTask(source_arn, destination_arn, data.get("MaxNumberOfMessagesPerSecond"), len(messages))
        self._tasks.insert(0, task)
        threading.Thread(target=copy_context().run, args=(task.run,), daemon=True, name="sqs-move").start()
        return {"TaskHandle": task.handle}

    def list(self, data: JsonObject, _: str) -> JsonObject:
        """ListMessageMoveTasks."""
        found = [task.view() for task in self._tasks if task.source_arn == data.get("SourceArn")]
        return {"Results": found[: int(data.get("MaxResults") or 1)]}

    def cancel(self, data: JsonObject, _: str) -> JsonObject:
        """CancelMessageMoveTask."""
        for task in self._tasks:
            if task.handle == data.get("TaskHandle") and task.status == "RUNNING":
                task.status = "CANCELLING"
                return {"ApproximateNumberOfMessagesMoved": task.moved}
        raise internal(sqs, "_Err")("ResourceNotFoundException", "Task does not exist.", 404)


def source_queues(dead_letter_queue_arn: str) -> list[str]:
    """Return the URLs of the queues whose redrive policy names a dead-letter queue."""
    urls = []
    for url, queue in internal(sqs, "_queues").items():
        redrive = json.loads(queue["attributes"].get("RedrivePolicy") or "{}")
        if redrive.get("deadLetterTargetArn") == dead_letter_queue_arn:
            urls.append(url)
    return urls


def list_dead_letter_source_queues(data: JsonObject, url: str) -> JsonObject:
    """ListDeadLetterSourceQueues."""
    queue = internal(sqs, "_get_q")(data.get("QueueUrl", url), "sqs:ListDeadLetterSourceQueues")
    return {"queueUrls": source_queues(queue["attributes"]["QueueArn"])}


def install_redrive(_: Settings) -> None:
    """Add the calls that redrive a dead-letter queue."""
    tasks = MoveTasks()
    internal(sqs, "_HANDLERS").update(
        {
            "StartMessageMoveTask": tasks.start,
            "ListMessageMoveTasks": tasks.list,
            "CancelMessageMoveTask": tasks.cancel,
            "ListDeadLetterSourceQueues": list_dead_letter_source_queues,
        }
    )


CORRECTIONS = (
    Correction(
        name="sqs-lock",
        service="SQS",
        aws="A message that was accepted is not lost.",
        ministack="A message is lost if another thread rewrites the queue's list at the same time.",
        here="One thread at a time rewrites a queue.",
        install=install_lock,
    ),
    Correction(
        name="sqs-event-source",
        service="Lambda",
        aws=(
            "A function that reads a dead-letter queue finds a message's origin in DeadLetterQueueSourceArn. An "
            "answer that is no valid list of failures fails the whole batch."
        ),
        ministack="The attribute is missing. An invalid answer counts as success.",
        here="Functions see the origin of a dead letter; an invalid answer fails the whole batch.",
        install=install_event_source,
    ),
    Correction(
        name="sqs-redrive",
        service="SQS",
        aws=(
            "StartMessageMoveTask, ListMessageMoveTasks and CancelMessageMoveTask move a dead-letter queue's "
            "messages to their origin or to another queue. ListDeadLetterSourceQueues finds the queues that use a "
            "dead-letter queue."
        ),
        ministack="None of these calls exists.",
        here="All four calls exist.",
        install=install_redrive,
    ),
)
