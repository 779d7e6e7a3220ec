"""The workflow engine: runs an execution of an Amazon States Language definition, state by state.

The loop over states, retriers, catchers and the history are this module's own. Paths, JSONata, choices, maps and
branches are evaluated by MiniStack's interpreter.

`EngineRun` is the seam: a subclass says how a task calls its resource, how long a wait lasts and who is told of the
end. The local cloud's subclass has threads and time (corrections/stepfunctions.py). A simulation can have neither.
"""

import json
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from ministack.core.responses import now_iso
from ministack.services import stepfunctions

from localcloud.patching import internal, replace
from localcloud.retrying import retry_delay_s

CALLBACK = ".waitForTaskToken"
EVENT_PAYLOAD_LIMIT = 248 * 1024  # Step Functions developer guide, "EventBridge events for Step Functions"

JsonObject = dict[str, Any]

StatesError: Any = internal(stepfunctions, "_ExecutionError")


class ExecutionEndedError(Exception):
    """The execution was stopped or timed out while one of its states was at work."""


_finish_lock = threading.Lock()
_events_lock = threading.Lock()


class EngineRun(ABC):
    """One execution at work. `execution` is its record: ARNs, name, status, input, start date and events."""

    def __init__(self, execution: JsonObject) -> None:
        self.execution = execution

    @property
    def ended(self) -> bool:
        """Whether the execution has its final status."""
        return bool(self.execution["status"] != "RUNNING")

    def finish(self, status: str, event_type: str, details: JsonObject, **outcome: Any) -> bool:
        """Move the execution into its final status, unless it is in one; returns whether it did."""
        with _finish_lock:
            if self.ended:
                return False
            self.execution.update(status=status, stopDate=now_iso(), **outcome)
        name = event_type[0].lower() + event_type[1:] + "EventDetails"
        self.add_event(event_type, {name: details})
        self.wake()
        self.publish_status()
        return True

    def fail(self, name: str, cause: str) -> None:
        """End the execution as failed."""
        self.finish("FAILED", "ExecutionFailed", {"error": name, "cause": cause}, error=name, cause=cause)

    def add_event(self, event_type: str, details: JsonObject | None = None) -> JsonObject:
        """Append an event to the execution's history and return the event."""
        with _events_lock:
            number = len(self.execution["events"]) + 1
            event = {
                "id": number,
                "previousEventId": number - 1,
                "type": event_type,
                "timestamp": now_iso(),
                **(details or {}),
            }
            self.execution["events"].append(event)
        return event

    def now(self) -> str:
        """The time at which a state is entered, in UTC (ISO 8601)."""
        text: str = now_iso()
        return text

    @abstractmethod
    def sleep(self, seconds: float) -> None:
        """Wait in a Wait state or before a retry. Raises ExecutionEndedError."""

    @abstractmethod
    def call(self, resource: str, arguments: Any, timeout_s: float | None) -> Any:
        """Call a resource and return its result.

        Raises StatesError with the resource's error, or States.Timeout; and ExecutionEndedError.
        """

    def call_back(self, resource: str, arguments: Any, token: str, timeout_s: float | None) -> Any:
        """Call a resource that passes the task's token on, and return the answer to the token; raises as `call`."""
        raise StatesError("States.Runtime", f"Nobody here answers a task token, as {resource} requires.")

    @abstractmethod
    def authorize(self, role_arn: str | None, resource: str, arguments: Any) -> None:
        """Raise StatesError when the machine's role does not allow the call of a task."""

    @abstractmethod
    def publish_status(self) -> None:
        """Tell whoever listens that the status has changed."""

    @abstractmethod
    def wake(self) -> None:
        """End every wait of the execution, because the execution has ended."""


_current: ContextVar[EngineRun | None] = ContextVar("localcloud_execution", default=None)


def inside_execution() -> bool:
    """Whether the caller works for a state of an execution."""
    return _current.get() is not None


def install(run_of: Callable[[JsonObject], EngineRun]) -> None:
    """Have MiniStack's own code, such as Map, Wait and TestState, run tasks and wait as this engine does.

    `run_of` gives the run of a state that MiniStack runs outside of an execution of this engine.
    """
    sleep = internal(stepfunctions, "_scaled_sleep")

    def task(state: JsonObject, data: Any, execution: JsonObject, context: JsonObject) -> tuple[Any, str | None]:
        return execute_task(_current.get() or run_of(execution), state, data, context)

    def scaled_sleep(seconds: float) -> None:
        run = _current.get()
        if run is None:
            sleep(seconds)
        else:
            run.sleep(seconds)

    replace(stepfunctions, "_execute_task", task)
    replace(stepfunctions, "_scaled_sleep", scaled_sleep)


def execute(run: EngineRun, machine: JsonObject, definition: JsonObject) -> None:
    """Run an execution to its end; the outcome is in its record.

    `machine` has the state machine's `name` and `roleArn`. An exception other than StatesError and
    ExecutionEndedError is raised, and leaves the execution RUNNING.
    """
    before = _current.set(run)
    try:
        output = json.dumps(walk(run, machine, definition))
        run.finish("SUCCEEDED", "ExecutionSucceeded", {"output": output}, output=output)
    except ExecutionEndedError:
        pass
    except StatesError as failure:
        run.fail(failure.error, failure.cause)
    finally:
        _current.reset(before)


def status_event(execution: JsonObject) -> JsonObject:
    """Return the entry for PutEvents that tells of an execution's status."""
    status = execution["status"]
    succeeded, running = status == "SUCCEEDED", status == "RUNNING"
    epoch_ms = internal(stepfunctions, "_iso_to_epoch_ms")
    redrivable = not succeeded and not running
    detail: JsonObject = {
        "executionArn": execution["executionArn"],
        "stateMachineArn": execution["stateMachineArn"],
        "name": execution["name"],
        "status": status,
        "startDate": epoch_ms(execution.get("startDate")),
        "stopDate": epoch_ms(execution.get("stopDate")),
        "input": execution.get("input"),
        "inputDetails": {"included": True},
        "output": execution.get("output") if succeeded else None,
        "outputDetails": {"included": True} if succeeded else None,
        "stateMachineVersionArn": None,
        "stateMachineAliasArn": None,
        "redriveCount": 0,
        "redriveDate": None,
        "redriveStatus": "REDRIVABLE" if redrivable else "NOT_REDRIVABLE",
        "redriveStatusReason": None if redrivable else f"Execution is {status} and cannot be redriven",
        "error": execution.get("error"),
        "cause": execution.get("cause"),
    }
    for name in ("input", "output"):
        if len(detail[name] or "") > EVENT_PAYLOAD_LIMIT:
            detail[name] = None
            detail[f"{name}Details"] = {"included": False}
    return {
        "Source": "aws.states",
        "DetailType": "Step Functions Execution Status Change",
        "Detail": json.dumps(detail),
        "Resources": [execution["executionArn"]],
    }


# ---------------------------------------------------------------- the loop over states


def walk(run: EngineRun, machine: JsonObject, definition: JsonObject) -> Any:
    """Run the states of a definition one after the other and return the last one's output."""
    execution = run.execution
    states = definition.get("States") or {}
    data = json.loads(execution["input"])
    context: JsonObject = {
        "QueryLanguage": definition.get("QueryLanguage", "JSONPath"),
        "Execution": {
            "Id": execution["executionArn"],
            "Input": data,
            "Name": execution["name"],
            "RoleArn": machine["roleArn"],
            "StartTime": execution["startDate"],
            "RedriveCount": 0,
        },
        "StateMachine": {"Id": execution["stateMachineArn"], "Name": machine["name"]},
        "variables": {},
    }
    name: str | None = definition.get("StartAt")
    while name is not None:
        if run.ended:
            raise ExecutionEndedError
        state = states.get(name)
        if state is None:
            raise StatesError("States.Runtime", f"The definition has no state {name!r}.")
        context["State"] = {"Name": name, "EnteredTime": run.now(), "RetryCount": 0}
        kind = state["Type"]
        entered = {"name": name, "input": json.dumps(data)}
        run.add_event(f"{kind}StateEntered", {"stateEnteredEventDetails": entered})
        data, following = run_state(run, state, data, context)
        exited = {"name": name, "output": json.dumps(data)}
        run.add_event(f"{kind}StateExited", {"stateExitedEventDetails": exited})
        name = following
    return data


def run_state(run: EngineRun, state: JsonObject, data: Any, context: JsonObject) -> tuple[Any, str | None]:
    """Run one state and return its output and the name of the next state."""
    kind = state["Type"]
    if kind == "Succeed":
        return succeed_output(state, data, context), None
    if kind == "Fail":
        raise StatesError(*internal(stepfunctions, "_fail_state_error")(state, data, context))
    if kind == "Task":
        return execute_task(run, state, data, context)
    if kind in ("Parallel", "Map"):
        result: tuple[Any, str | None] = internal(stepfunctions, f"_execute_{kind.lower()}")(
            state, data, run.execution, context
        )
        return result
    if kind in ("Pass", "Choice", "Wait"):
        return plain_state(kind, state, data, context)
    raise StatesError("States.Runtime", f"There is no state type {kind!r}.")


def plain_state(kind: str, state: JsonObject, data: Any, context: JsonObject) -> tuple[Any, str | None]:
    """Run a state that calls nothing."""
    result: tuple[Any, str | None] = internal(stepfunctions, f"_execute_{kind.lower()}")(state, data, context)
    return result


def is_jsonata(state: JsonObject, context: JsonObject) -> bool:
    """Whether a state's fields are JSONata."""
    return bool(internal(stepfunctions, "_state_query_language")(state, context) == "JSONata")


def succeed_output(state: JsonObject, data: Any, context: JsonObject) -> Any:
    """Return what a Succeed state ends with."""
    if is_jsonata(state, context):
        return internal(stepfunctions, "_apply_jsonata_output")(state, data, context, default=data)
    selected = internal(stepfunctions, "_apply_input_path")(state, data, context)
    return internal(stepfunctions, "_apply_output_path")(state, selected, context)


# ---------------------------------------------------------------- tasks


def execute_task(run: EngineRun, state: JsonObject, data: Any, context: JsonObject) -> tuple[Any, str | None]:
    """Run a Task state with its retriers and catchers."""
    retries: dict[int, int] = {}
    while True:
        context["State"]["RetryCount"] = sum(retries.values())
        try:
            result = attempt_task(run, state, data, context)
            return task_output(state, data, result, context), internal(stepfunctions, "_next_or_end")(state)
        except StatesError as failure:
            find = internal(stepfunctions, "_find_matching_retrier")
            retrier, index = find(state.get("Retry", []), failure.error, retries)
            if retrier is not None:
                run.sleep(retry_delay_s(retrier, retries.get(index, 0)))
                retries[index] = retries.get(index, 0) + 1
                continue
            catcher = internal(stepfunctions, "_find_matching_catcher")(state.get("Catch", []), failure.error)
            if catcher is None:
                raise
            language = "JSONata" if is_jsonata(state, context) else "JSONPath"
            caught = {"Error": failure.error, "Cause": failure.cause}
            output = internal(stepfunctions, "_apply_catcher")(catcher, data, context, language, caught)
            return output, catcher["Next"]


def attempt_task(run: EngineRun, state: JsonObject, data: Any, context: JsonObject) -> Any:
    """Call a task's resource once and return its result. Raises StatesError."""
    resource = state["Resource"]
    token = str(uuid.uuid4()) if resource.endswith(CALLBACK) else None
    if token is not None:
        context["Task"] = {"Token": token}
    arguments = task_arguments(state, data, context)
    timeout_s = seconds_of(state, "TimeoutSeconds", data, context)
    record = TaskEvents(run, resource)
    record.scheduled(arguments, timeout_s)
    try:
        run.authorize(context["Execution"].get("RoleArn"), resource.removesuffix(CALLBACK), arguments)
        if token is None:
            result = run.call(resource, arguments, timeout_s)
        else:
            result = run.call_back(resource, arguments, token, timeout_s)
    except StatesError as failure:
        record.failed(failure)
        raise
    record.succeeded(result)
    return result


def task_arguments(state: JsonObject, data: Any, context: JsonObject) -> Any:
    """Return what a task's resource is called with."""
    if is_jsonata(state, context):
        return internal(stepfunctions, "_apply_jsonata_arguments")(state, data, context)
    selected = internal(stepfunctions, "_apply_input_path")(state, data, context)
    return internal(stepfunctions, "_apply_parameters")(state, selected, context)


def task_output(state: JsonObject, data: Any, result: Any, context: JsonObject) -> Any:
    """Return a task's output and assign its variables."""
    if is_jsonata(state, context):
        output = internal(stepfunctions, "_apply_jsonata_output")(state, data, context, result=result, default=result)
        internal(stepfunctions, "_apply_state_assign")(state, data, context, result=result)
        return output
    selected = internal(stepfunctions, "_apply_result_selector")(state, result)
    combined = internal(stepfunctions, "_apply_result_path")(state, data, selected)
    return internal(stepfunctions, "_apply_output_path")(state, combined, context)


def seconds_of(state: JsonObject, name: str, data: Any, context: JsonObject) -> float | None:
    """Return a time-out of a task in seconds, or None; it may be a JSONata expression or a path."""
    if f"{name}Path" in state:
        return float(internal(stepfunctions, "_resolve_path_or_ctx")(state[f"{name}Path"], data, context))
    if name not in state:
        return None
    value = state[name]
    if is_jsonata(state, context):
        value = internal(stepfunctions, "_apply_jsonata_template")(value, data, context)
    return float(value)


class TaskEvents:
    """The history of one attempt of a task."""

    def __init__(self, run: EngineRun, resource: str) -> None:
        self._run = run
        self._lambda_arn = resource.startswith("arn:aws:lambda:")
        self._resource = resource
        service, _, call_name = resource.removeprefix("arn:aws:states:::").rpartition(":")
        self._common = {"resourceType": service, "resource": call_name}

    def _add(self, name: str, details: JsonObject) -> None:
        if self._lambda_arn:
            event = f"LambdaFunction{name}"
            key = f"lambdaFunction{name}EventDetails"
            self._run.add_event(event, {key: details} if details else None)
        else:
            self._run.add_event(f"Task{name}", {f"task{name}EventDetails": {**self._common, **details}})

    def scheduled(self, arguments: Any, timeout_s: float | None) -> None:
        """The task was handed over."""
        details: JsonObject = (
            {"resource": self._resource, "input": json.dumps(arguments)}
            if self._lambda_arn
            else {
                "region": self._run.execution["executionArn"].split(":")[3],
                "parameters": json.dumps(arguments),
            }
        )
        if timeout_s:
            details["timeoutInSeconds"] = int(timeout_s)
        self._add("Scheduled", details)
        self._add("Started", {})

    def succeeded(self, output: Any) -> None:
        """The task has a result."""
        self._add("Succeeded", {"output": json.dumps(output)})

    def failed(self, failure: Any) -> None:
        """The task failed or timed out."""
        timed_out = failure.error == "States.Timeout"
        self._add("TimedOut" if timed_out else "Failed", {"error": failure.error, "cause": failure.cause})
