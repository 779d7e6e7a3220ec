"""Step Functions: how an execution runs.

The loop over states and the execution of a task are this module's. The evaluation of paths, JSONata, choices, maps
and service calls is MiniStack's. States inside Parallel and Map have no events in the history.
"""

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, copy_context
from typing import Any

import yaml
from ministack.core import iam_actions
from ministack.core.responses import error_response_json, json_response, now_iso
from ministack.services import eventbridge, stepfunctions
from ministack.services.cloudformation import provisioners

from localcloud import expressions
from localcloud.corrections import permissions, states_access
from localcloud.patching import Correction, internal, replace
from localcloud.retrying import retry_delay_s
from localcloud.settings import Settings

CALLBACK = ".waitForTaskToken"
CLOSED_TOKENS_KEPT = 10_000
EVENT_PAYLOAD_LIMIT = 248 * 1024  # Step Functions developer guide, "EventBridge events for Step Functions"

logger = logging.getLogger("localcloud.stepfunctions")

JsonObject = dict[str, Any]
Response = tuple[int, JsonObject, bytes]

StatesError: Any = internal(stepfunctions, "_ExecutionError")


class ExecutionEndedError(Exception):
    """The execution was stopped or timed out while one of its states ran."""


class TaskToken:
    """One task that waits for SendTaskSuccess or SendTaskFailure; `machine` is its state machine's ARN."""

    def __init__(self, machine: str) -> None:
        self.machine = machine
        self.value = str(uuid.uuid4())
        self.answered = threading.Event()  # also set by a heartbeat, and when the execution ends
        self.output: Any = None
        self.error: tuple[str, str] | None = None
        self.done = False
        self.last_heartbeat = time.monotonic()


class Tokens:
    """All open task tokens, and the latest closed ones."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, TaskToken] = {}
        self._closed: dict[str, TaskToken] = {}

    def open(self, machine: str) -> TaskToken:
        """Issue a token for a task of the state machine with this ARN."""
        token = TaskToken(machine)
        with self._lock:
            self._open[token.value] = token
        return token

    def close(self, token: TaskToken) -> None:
        """Accept no more answers for a token."""
        with self._lock:
            self._open.pop(token.value, None)
            self._closed[token.value] = token
            if len(self._closed) > CLOSED_TOKENS_KEPT:
                del self._closed[next(iter(self._closed))]

    def machine_of(self, value: Any) -> str | None:
        """Return the ARN of the state machine that a token, open or closed, was issued for."""
        with self._lock:
            token = self._open.get(value) or self._closed.get(value)
        return token.machine if token else None

    def answer(self, value: Any, apply: Callable[[TaskToken], None]) -> Response:
        """Apply an answer to an open token; the first one counts."""
        with self._lock:
            token = self._open.get(value)
            if token is not None and not token.done:
                apply(token)
                token.answered.set()
                return empty_response()
            closed = token is not None or value in self._closed
        if closed:
            message = "Task Timed Out: 'Provided task does not exist anymore'"
            return error("TaskTimedOut", message)
        return error("TaskDoesNotExist", "Task does not exist")


class Run:
    """One running execution: its end, its waits and its task token."""

    def __init__(self, execution: JsonObject) -> None:
        self.execution = execution
        self.ended = threading.Event()
        self._token: TaskToken | None = None

    def finish(self, status: str, event_type: str, details: JsonObject, **outcome: Any) -> bool:
        """Give a running execution its final status; returns False if the execution has ended before."""
        with _finish_lock:
            if self.execution["status"] != "RUNNING":
                return False
            self.execution.update(status=status, stopDate=now_iso(), **outcome)
        name = event_type[0].lower() + event_type[1:] + "EventDetails"
        add_event(self.execution, event_type, {name: details})
        self.end()
        emit_status(self.execution)
        return True

    def end(self) -> None:
        """Interrupt the execution's wait."""
        self.ended.set()
        token = self._token
        if token is not None:
            token.answered.set()

    def sleep(self, seconds: float) -> None:
        """Wait for `seconds` times SFN_WAIT_SCALE. Raises ExecutionEndedError."""
        scaled = seconds * float(internal(stepfunctions, "_SFN_WAIT_SCALE"))
        if self.ended.wait(max(scaled, 0)):
            raise ExecutionEndedError

    def await_token(self, token: TaskToken, timeout_s: float | None, heartbeat_s: float | None) -> Any:
        """Wait for the answer to a token and return its output.

        Raises StatesError with the error that was sent, States.Timeout or States.HeartbeatTimeout.
        """
        started = token.last_heartbeat = time.monotonic()
        self._token = token
        try:
            while not token.done:
                if self.ended.is_set():
                    raise ExecutionEndedError
                limits = [started + timeout_s] if timeout_s else []
                limits += [token.last_heartbeat + heartbeat_s] if heartbeat_s else []
                remaining = min(limits) - time.monotonic() if limits else None
                if remaining is not None and remaining <= 0:
                    timed_out = bool(timeout_s) and time.monotonic() >= started + (timeout_s or 0)
                    raise StatesError("States.Timeout" if timed_out else "States.HeartbeatTimeout", "")
                token.answered.wait(remaining)
                if not token.done:
                    token.answered.clear()
        finally:
            self._token = None
        if token.error:
            raise StatesError(*token.error)
        return token.output


tokens = Tokens()
runs: dict[str, Run] = {}
_current: ContextVar[Run | None] = ContextVar("localcloud_execution", default=None)
_events_lock = threading.Lock()
_finish_lock = threading.Lock()
_start_lock = threading.RLock()


def error(code: str, message: str) -> Response:
    """Return an error response."""
    response: Response = error_response_json(code, message, 400)
    return response


def empty_response() -> Response:
    """Return an empty success."""
    response: Response = json_response({})
    return response


def add_event(execution: JsonObject, event_type: str, details: JsonObject | None = None) -> JsonObject:
    """Append an event to an execution's history."""
    with _events_lock:
        number = len(execution["events"]) + 1
        event = {
            "id": number,
            "previousEventId": number - 1,
            "type": event_type,
            "timestamp": now_iso(),
            **(details or {}),
        }
        execution["events"].append(event)
    return event


def emit_status(execution: JsonObject) -> None:
    """Put an execution's status on the default bus; a synchronous execution has no event."""
    if execution.get("sync"):
        return
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
    entry = {
        "Source": "aws.states",
        "DetailType": "Step Functions Execution Status Change",
        "Detail": json.dumps(detail),
        "Resources": [execution["executionArn"]],
    }
    try:
        internal(eventbridge, "_put_events")({"Entries": [entry]}, allow_aws_source=True)
    except Exception:
        logger.exception("The status of %s could not be published.", execution["executionArn"])


# ---------------------------------------------------------------- the loop over states


def run_execution(execution_arn: str) -> None:
    """Run an execution from its first state to its end."""
    execution = internal(stepfunctions, "_executions").get(execution_arn)
    if execution is None:
        return
    run = runs[execution_arn] = Run(execution)
    _current.set(run)
    timer: threading.Timer | None = None
    try:
        machine = internal(stepfunctions, "_state_machines").get(execution["stateMachineArn"])
        if machine is None:
            raise StatesError("States.Runtime", "The state machine does not exist any more.")
        definition = json.loads(machine["definition"])
        timeout_s = definition.get("TimeoutSeconds")
        if timeout_s:
            timer = threading.Timer(float(timeout_s), time_out, (run,))
            timer.daemon = True
            timer.start()
        output = json.dumps(walk(run, machine, definition))
        run.finish("SUCCEEDED", "ExecutionSucceeded", {"output": output}, output=output)
    except ExecutionEndedError:
        logger.info("%s ended while a state ran.", execution_arn)
    except StatesError as failure:
        fail(run, failure.error, failure.cause)
    except Exception as failure:
        logger.exception("%s met an unexpected error.", execution_arn)
        fail(run, "States.Runtime", str(failure))
    finally:
        if timer is not None:
            timer.cancel()
        runs.pop(execution_arn, None)


def fail(run: Run, name: str, cause: str) -> None:
    """End an execution as failed."""
    run.finish("FAILED", "ExecutionFailed", {"error": name, "cause": cause}, error=name, cause=cause)


def time_out(run: Run) -> None:
    """End an execution that has used up its machine's TimeoutSeconds."""
    run.finish("TIMED_OUT", "ExecutionTimedOut", {})


def walk(run: Run, machine: JsonObject, definition: JsonObject) -> Any:
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
        if run.ended.is_set() or execution["status"] != "RUNNING":
            raise ExecutionEndedError
        state = states.get(name)
        if state is None:
            raise StatesError("States.Runtime", f"The definition has no state {name!r}.")
        context["State"] = {"Name": name, "EnteredTime": now_iso(), "RetryCount": 0}
        kind = state["Type"]
        entered = {"name": name, "input": json.dumps(data)}
        add_event(execution, f"{kind}StateEntered", {"stateEnteredEventDetails": entered})
        data, following = run_state(state, data, execution, context)
        exited = {"name": name, "output": json.dumps(data)}
        add_event(execution, f"{kind}StateExited", {"stateExitedEventDetails": exited})
        name = following
    return data


def run_state(state: JsonObject, data: Any, execution: JsonObject, context: JsonObject) -> tuple[Any, str | None]:
    """Run one state and return its output and the name of the next state."""
    kind = state["Type"]
    if kind == "Succeed":
        return succeed_output(state, data, context), None
    if kind == "Fail":
        raise StatesError(*internal(stepfunctions, "_fail_state_error")(state, data, context))
    if kind == "Task":
        return execute_task(state, data, execution, context)
    if kind in ("Parallel", "Map"):
        result: tuple[Any, str | None] = internal(stepfunctions, f"_execute_{kind.lower()}")(
            state, data, execution, context
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
    """Return the output of a Succeed state."""
    if is_jsonata(state, context):
        return internal(stepfunctions, "_apply_jsonata_output")(state, data, context, default=data)
    selected = internal(stepfunctions, "_apply_input_path")(state, data, context)
    return internal(stepfunctions, "_apply_output_path")(state, selected, context)


# ---------------------------------------------------------------- tasks


def execute_task(state: JsonObject, data: Any, execution: JsonObject, context: JsonObject) -> tuple[Any, str | None]:
    """Run a Task state with its retriers and catchers."""
    run = _current.get() or Run(execution)
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


def attempt_task(run: Run, state: JsonObject, data: Any, context: JsonObject) -> Any:
    """Call a task's resource once and return its result. Raises StatesError."""
    resource = state["Resource"]
    token = tokens.open(run.execution["stateMachineArn"]) if resource.endswith(CALLBACK) else None
    if token is not None:
        context["Task"] = {"Token": token.value}
    try:
        arguments = task_arguments(state, data, context)
        timeout_s = seconds_of(state, "TimeoutSeconds", data, context)
        heartbeat_s = seconds_of(state, "HeartbeatSeconds", data, context)
        record = TaskEvents(run.execution, resource)
        record.scheduled(arguments, timeout_s, heartbeat_s)
        try:
            check_permissions(context["Execution"].get("RoleArn"), resource.removesuffix(CALLBACK), arguments)
            if token is None:
                result = call(run, resource, arguments, timeout_s)
            else:
                submitted = call(run, resource.removesuffix(CALLBACK), arguments, timeout_s)
                record.submitted(submitted)
                result = run.await_token(token, timeout_s, heartbeat_s)
        except StatesError as failure:
            record.failed(failure)
            raise
        record.succeeded(result)
        return result
    finally:
        if token is not None:
            tokens.close(token)


def check_permissions(role_arn: str | None, resource: str, arguments: Any) -> None:
    """Raise StatesError when the machine's role does not allow the call of a task."""
    for access in states_access.required(resource, arguments):
        if not permissions.role_may(role_arn, access.action, access.resource_arn):
            cause = f"{role_arn} is not authorized to perform: {access.action} on resource: {access.resource_arn}"
            raise StatesError(access.error, cause)


def task_arguments(state: JsonObject, data: Any, context: JsonObject) -> Any:
    """Return the arguments of a task's call."""
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
    """Return a time-out of a task in seconds, given as a number, a JSONata expression or a path; None without one."""
    if f"{name}Path" in state:
        return float(internal(stepfunctions, "_resolve_path_or_ctx")(state[f"{name}Path"], data, context))
    if name not in state:
        return None
    value = state[name]
    if is_jsonata(state, context):
        value = internal(stepfunctions, "_apply_jsonata_template")(value, data, context)
    return float(value)


def call(run: Run, resource: str, arguments: Any, timeout_s: float | None) -> Any:
    """Call a resource and return its result.

    Raises StatesError with the resource's error or States.Timeout, and ExecutionEndedError. A call that timed out is
    not interrupted, as on AWS.
    """
    outcome: list[tuple[Any, BaseException | None]] = []
    finished = threading.Event()

    def work() -> None:
        try:
            outcome.append((internal(stepfunctions, "_invoke_resource")(resource, arguments), None))
        except BaseException as failure:
            outcome.append((None, failure))
        finished.set()

    work_context = copy_context()
    threading.Thread(target=work_context.run, args=(work,), daemon=True, name="states-task").start()
    if not finished.wait(timeout_s):
        raise StatesError("States.Timeout", "")
    result, failure = outcome[0]
    if run.ended.is_set():
        raise ExecutionEndedError
    if failure is not None:
        raise failure
    return result


class TaskEvents:
    """The history of one attempt of a task."""

    def __init__(self, execution: JsonObject, resource: str) -> None:
        self._execution = execution
        self._lambda_arn = resource.startswith("arn:aws:lambda:")
        self._resource = resource
        service, _, call_name = resource.removeprefix("arn:aws:states:::").rpartition(":")
        self._common = {"resourceType": service, "resource": call_name}

    def _add(self, name: str, details: JsonObject) -> None:
        if self._lambda_arn:
            event = f"LambdaFunction{name}"
            key = f"lambdaFunction{name}EventDetails"
            add_event(self._execution, event, {key: details} if details else None)
        else:
            add_event(self._execution, f"Task{name}", {f"task{name}EventDetails": {**self._common, **details}})

    def scheduled(self, arguments: Any, timeout_s: float | None, heartbeat_s: float | None) -> None:
        """Record the call."""
        details: JsonObject = (
            {"resource": self._resource, "input": json.dumps(arguments)}
            if self._lambda_arn
            else {"region": self._execution["executionArn"].split(":")[3], "parameters": json.dumps(arguments)}
        )
        if timeout_s:
            details["timeoutInSeconds"] = int(timeout_s)
        if heartbeat_s:
            details["heartbeatInSeconds"] = int(heartbeat_s)
        self._add("Scheduled", details)
        self._add("Started", {})

    def submitted(self, output: Any) -> None:
        """Record that the call that carries the token was accepted."""
        self._add("Submitted", {"output": json.dumps(output)})

    def succeeded(self, output: Any) -> None:
        """Record the result."""
        self._add("Succeeded", {"output": json.dumps(output)})

    def failed(self, failure: Any) -> None:
        """Record a failure or a time-out."""
        timed_out = failure.error in ("States.Timeout", "States.HeartbeatTimeout")
        self._add("TimedOut" if timed_out else "Failed", {"error": failure.error, "cause": failure.cause})


# ---------------------------------------------------------------- API calls


def send_task_success(data: JsonObject) -> Response:
    """SendTaskSuccess."""
    try:
        output = json.loads(data.get("output", ""))
    except ValueError:
        return error("InvalidOutput", "Invalid Output: 'The output is not valid JSON'")

    def succeed(token: TaskToken) -> None:
        token.output, token.done = output, True

    return tokens.answer(data.get("taskToken"), succeed)


def send_task_failure(data: JsonObject) -> Response:
    """SendTaskFailure."""

    def fail_task(token: TaskToken) -> None:
        token.error, token.done = (data.get("error") or "", data.get("cause") or ""), True

    return tokens.answer(data.get("taskToken"), fail_task)


def send_task_heartbeat(data: JsonObject) -> Response:
    """SendTaskHeartbeat."""

    def beat(token: TaskToken) -> None:
        token.last_heartbeat = time.monotonic()

    return tokens.answer(data.get("taskToken"), beat)


def or_activity(send: Callable[[JsonObject], Response], original: Callable[[JsonObject], Response]) -> Any:
    """Return a handler that leaves the tokens of activities to MiniStack, which issues them."""

    def send_task(data: JsonObject) -> Response:
        if data.get("taskToken") in internal(stepfunctions, "_task_tokens"):
            return original(data)
        return send(data)

    return send_task


def stop_execution(data: JsonObject) -> Response:
    """StopExecution."""
    execution = internal(stepfunctions, "_executions").get(data.get("executionArn"))
    if execution is None:
        return error("ExecutionDoesNotExist", f"Execution Does Not Exist: '{data.get('executionArn')}'")
    run = runs.get(execution["executionArn"]) or Run(execution)
    outcome: JsonObject = {name: data[name] for name in ("error", "cause") if name in data}
    run.finish("ABORTED", "ExecutionAborted", outcome, **outcome)
    if late := runs.get(execution["executionArn"]):
        late.end()
    response: Response = json_response({"stopDate": execution["stopDate"]})
    return response


def install_yaml(_: Settings) -> None:
    """Accept definitions in YAML from CloudFormation."""
    definition_of = internal(provisioners, "_sfn_definition")
    replace(provisioners, "_sfn_definition", lambda properties: as_json(definition_of(properties)))


def as_json(definition: str) -> str:
    """Return a definition given in JSON or YAML as JSON, and anything else unchanged."""
    try:
        json.loads(definition)
    except ValueError:
        with suppress(yaml.YAMLError):
            document = yaml.safe_load(definition)
            if isinstance(document, dict):
                return json.dumps(document, default=str)
    return definition


def install_engine(_: Settings) -> None:
    """Replace MiniStack's loop over states and its execution of tasks."""
    replace(stepfunctions, "_run_execution", run_execution)
    replace(stepfunctions, "_execute_task", execute_task)
    replace(stepfunctions, "_add_event", add_event)
    replace(stepfunctions, "_emit_execution_status_event", emit_status)
    replace(stepfunctions, "_stop_execution", stop_execution)
    sleep = internal(stepfunctions, "_scaled_sleep")

    def scaled_sleep(seconds: float) -> None:
        run = _current.get()
        if run is None:
            sleep(seconds)
        else:
            run.sleep(seconds)

    replace(stepfunctions, "_scaled_sleep", scaled_sleep)


def install_callbacks(_: Settings) -> None:
    """Replace the three calls that answer a task token."""
    for name, send in (
        ("_send_task_success", send_task_success),
        ("_send_task_failure", send_task_failure),
        ("_send_task_heartbeat", send_task_heartbeat),
    ):
        replace(stepfunctions, name, or_activity(send, internal(stepfunctions, name)))


def install_token_resource(_: Settings) -> None:
    """Authorize the answer to a task token on the state machine that waits, as AWS documents for its actions."""
    resource_arn = internal(iam_actions, "extract_resource_arn")

    def resource_of(service: str, method: str, path: str, headers: JsonObject, body: bytes, *rest: Any) -> str:
        if service == "states":
            with suppress(ValueError, AttributeError):
                if token := json.loads(body).get("taskToken"):
                    # The answer to a token from before a restart is TaskDoesNotExist, not AccessDenied.
                    machine = tokens.machine_of(token) or next(iter(internal(stepfunctions, "_state_machines")), None)
                    if machine:
                        return machine
        arn: str = resource_arn(service, method, path, headers, body, *rest)
        return arn

    replace(iam_actions, "extract_resource_arn", resource_of)


def install_start(_: Settings) -> None:
    """Make StartExecution idempotent by name and input while the execution runs, and check its input."""
    start = internal(stepfunctions, "_start_execution")

    def start_execution(data: JsonObject) -> Response:
        text = data.get("input", "{}")
        try:
            json.loads(text)
        except ValueError:
            return error("InvalidExecutionInput", f"Invalid State Machine Execution Input: '{text[:100]}'")
        with _start_lock:
            running = same_name(data) if "name" in data else None
            if running and running["status"] == "RUNNING" and running["input"] == text:
                answer = {"executionArn": running["executionArn"], "startDate": running["startDate"]}
                response: Response = json_response(answer)
            else:
                response = start(data)
        return response

    def same_name(data: JsonObject) -> JsonObject | None:
        machine = internal(stepfunctions, "_resolve_state_machine_arn")(data.get("stateMachineArn", ""))
        if machine is None:
            return None
        arn = f"{machine.replace(':stateMachine:', ':execution:')}:{data['name']}"
        found: JsonObject | None = internal(stepfunctions, "_executions").get(arn)
        return found

    replace(stepfunctions, "_start_execution", start_execution)


def install_lambda_errors(_: Settings) -> None:
    """Name the error of a throttled Lambda task."""
    call_lambda = internal(stepfunctions, "_call_lambda")

    def call_lambda_task(function: str, event: Any) -> Any:
        try:
            return call_lambda(function, event)
        except StatesError as failure:
            if failure.error == "Lambda.Unknown" and "TooManyRequestsException" in failure.cause:
                raise StatesError("Lambda.TooManyRequestsException", failure.cause) from None
            raise

    replace(stepfunctions, "_call_lambda", call_lambda_task)


def install_parsed_expressions(_: Settings) -> None:
    """Parse each JSONata expression once."""
    expressions.parse_once()


CORRECTIONS = (
    Correction(
        name="stepfunctions-yaml",
        service="Step Functions",
        aws="A definition in a template is JSON or YAML.",
        ministack="YAML is refused.",
        here="YAML is accepted.",
        install=install_yaml,
    ),
    Correction(
        name="stepfunctions-engine",
        service="Step Functions",
        aws=(
            "An execution ends once, SUCCEEDED, FAILED, ABORTED or TIMED_OUT, with an event on the default bus. A "
            "retrier honours MaxDelaySeconds and JitterStrategy, a task HeartbeatSeconds. Each attempt has a task "
            "token of its own and fails if the call that hands the token over fails. Calls are made as the "
            "machine's role. Succeed has an Output. The history names each task's service and call."
        ),
        ministack=(
            "A late failure overwrites ABORTED. The machine's TimeoutSeconds, heartbeats, MaxDelaySeconds, "
            "JitterStrategy and Output of Succeed are ignored. All attempts share a token; a failed call is "
            "overlooked. No permission is checked. Each execution sleeps 150 ms first."
        ),
        here="Time-outs, aborts, retry delays, heartbeats, tokens, permissions and history as documented.",
        install=install_engine,
    ),
    Correction(
        name="stepfunctions-callbacks",
        service="Step Functions",
        aws="SendTaskSuccess answers InvalidOutput, TaskDoesNotExist or TaskTimedOut.",
        ministack="The answer to a finished task is TaskDoesNotExist; an invalid output is accepted.",
        here="Late, unknown and malformed answers are told apart.",
        install=install_callbacks,
    ),
    Correction(
        name="stepfunctions-token-resource",
        service="Step Functions",
        aws="The resource of SendTaskSuccess, in a policy, is the state machine.",
        ministack="Only a policy for every resource allows the call.",
        here="A policy may name the state machine.",
        install=install_token_resource,
    ),
    Correction(
        name="stepfunctions-start",
        service="Step Functions",
        aws=(
            "StartExecution with the name and input of a running execution returns that execution. Input that is "
            "no JSON is refused."
        ),
        ministack="The answer is always ExecutionAlreadyExists. Input is not checked.",
        here="StartExecution is idempotent and checks its input.",
        install=install_start,
    ),
    Correction(
        name="stepfunctions-lambda-errors",
        service="Step Functions",
        aws="A throttled Lambda task fails with Lambda.TooManyRequestsException.",
        ministack="A throttled Lambda task fails with Lambda.Unknown.",
        here="The documented name, so that a retrier can match it.",
        install=install_lambda_errors,
    ),
    Correction(
        name="stepfunctions-expressions",
        service="Step Functions",
        aws="Nothing: the difference is speed.",
        ministack="A JSONata expression is parsed in each state.",
        here="A JSONata expression is parsed once.",
        install=install_parsed_expressions,
    ),
)
