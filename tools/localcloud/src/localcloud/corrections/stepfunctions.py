"""Step Functions: how an execution runs.

Executions run in `localcloud.workflow_engine`; this module gives the engine threads and time, permissions and the
default bus. States inside Parallel and Map have no events in the history.
"""

import json
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any

import yaml
from ministack.core.responses import error_response_json, json_response
from ministack.services import eventbridge, stepfunctions
from ministack.services.cloudformation import provisioners

from localcloud import expressions, workflow_engine
from localcloud.corrections import permissions, states_access
from localcloud.patching import Correction, internal, replace
from localcloud.settings import Settings
from localcloud.workflow_engine import (
    EngineRun,
    ExecutionEndedError,
    JsonObject,
    StatesError,
    execute,
    status_event,
)

Response = tuple[int, JsonObject, bytes]

logger = logging.getLogger("localcloud.stepfunctions")

runs: dict[str, "ServerRun"] = {}
_start_lock = threading.RLock()

watchers: list[Callable[[JsonObject, JsonObject, JsonObject], None]] = []
"""Called with a state machine, an execution and each event of the execution's history."""


class ServerRun(EngineRun):
    """An execution in the local cloud: it waits in time, and a stop or time-out wakes it."""

    def __init__(self, execution: JsonObject, machine: JsonObject | None = None) -> None:
        super().__init__(execution)
        self._machine = machine
        self._woken = threading.Event()
        self._calls: set[threading.Event] = set()

    def add_event(self, event_type: str, details: JsonObject | None = None) -> JsonObject:
        """Append an event to the execution's history and tell the watchers."""
        event = super().add_event(event_type, details)
        self.tell(event)
        return event

    def tell(self, event: JsonObject) -> None:
        """Tell the watchers of an event; their failure is not the execution's."""
        if self._machine is None:
            return
        for watch in watchers:
            try:
                watch(self._machine, self.execution, event)
            except Exception:
                logger.exception("An event of %s could not be reported.", self.execution["executionArn"])

    def wake(self) -> None:
        """End every wait of the execution."""
        self._woken.set()
        for call in tuple(self._calls):
            call.set()

    def sleep(self, seconds: float) -> None:
        """Wait for this time multiplied by SFN_WAIT_SCALE. Raises ExecutionEndedError."""
        scaled = seconds * float(internal(stepfunctions, "_SFN_WAIT_SCALE"))
        if self._woken.wait(max(scaled, 0)):
            raise ExecutionEndedError

    def call(self, resource: str, arguments: Any, timeout_s: float | None) -> Any:
        """Call a resource; see `EngineRun.call`."""
        return self._result_of(lambda: internal(stepfunctions, "_invoke_resource")(resource, arguments), timeout_s)

    def call_back(self, resource: str, arguments: Any, token: str, timeout_s: float | None) -> Any:
        """Call a resource that passes the task's token on, in MiniStack's way; see `EngineRun.call_back`."""
        invoke = internal(stepfunctions, "_invoke_with_callback")
        return self._result_of(lambda: invoke(resource, arguments, token, {}), timeout_s)

    def _result_of(self, invoke: Callable[[], Any], timeout_s: float | None) -> Any:
        """Return the result of a call.

        A time-out or a stop does not interrupt the call, just as the function that a stopped execution has called
        runs on.
        """
        outcome: list[tuple[Any, BaseException | None]] = []
        finished = threading.Event()

        def work() -> None:
            try:
                outcome.append((invoke(), None))
            except BaseException as failure:
                outcome.append((None, failure))
            finished.set()

        work_context = copy_context()
        threading.Thread(target=work_context.run, args=(work,), daemon=True, name="states-task").start()
        self._calls.add(finished)
        try:
            if not self.ended and not finished.wait(timeout_s):
                raise StatesError("States.Timeout", "")
        finally:
            self._calls.discard(finished)
        if self.ended:
            raise ExecutionEndedError
        result, failure = outcome[0]
        if failure is not None:
            raise failure
        return result

    def authorize(self, role_arn: str | None, resource: str, arguments: Any) -> None:
        """Raise StatesError when the machine's role does not allow the call of a task."""
        for access in states_access.required(resource, arguments):
            if not permissions.role_may(role_arn, access.action, access.resource_arn):
                cause = f"{role_arn} is not authorized to perform: {access.action} on resource: {access.resource_arn}"
                raise StatesError(access.error, cause)

    def publish_status(self) -> None:
        """Put the execution's status on the default bus."""
        emit_status(self.execution)


def emit_status(execution: JsonObject) -> None:
    """Put an execution's status on the default bus, unless the execution is Express or was started synchronously."""
    if execution.get("sync") or is_express(execution["executionArn"]):
        return
    try:
        internal(eventbridge, "_put_events")({"Entries": [status_event(execution)]}, allow_aws_source=True)
    except Exception:
        logger.exception("The status of %s could not be published.", execution["executionArn"])


def is_express(execution_arn: Any) -> bool:
    """Whether an ARN is that of an execution of an Express state machine."""
    return isinstance(execution_arn, str) and execution_arn.split(":")[5:6] == ["express"]


def run_execution(execution_arn: str) -> None:
    """Run an execution of MiniStack's from its first state to its end."""
    execution = internal(stepfunctions, "_executions").get(execution_arn)
    if execution is None:
        return
    machine = internal(stepfunctions, "_state_machines").get(execution["stateMachineArn"])
    run = runs[execution_arn] = ServerRun(execution, machine)
    try:
        if machine is None:
            run.fail("States.Runtime", "The state machine does not exist any more.")
        else:
            perform(run, machine)
    finally:
        runs.pop(execution_arn, None)


def perform(run: ServerRun, machine: JsonObject, longest_s: float | None = None) -> None:
    """Run an execution, whose history has its first event, to its end.

    The execution times out after `longest_s` or the definition's TimeoutSeconds, whichever is shorter.
    """
    timer: threading.Timer | None = None
    try:
        run.tell(run.execution["events"][0])
        definition = json.loads(machine["definition"])
        limits = [float(limit) for limit in (longest_s, definition.get("TimeoutSeconds")) if limit]
        if limits:
            arguments: tuple[Any, ...] = (run.finish, "TIMED_OUT", "ExecutionTimedOut", {})
            timer = threading.Timer(min(limits), copy_context().run, arguments)
            timer.daemon = True
            timer.start()
        execute(run, machine, definition)
    except Exception as failure:
        logger.exception("%s met an unexpected error.", run.execution["executionArn"])
        run.fail("States.Runtime", str(failure))
    finally:
        if timer is not None:
            timer.cancel()


# ---------------------------------------------------------------- API calls


def answer(content: JsonObject) -> Response:
    """Return a success."""
    response: Response = json_response(content)
    return response


def error(code: str, message: str) -> Response:
    """Return an error response."""
    response: Response = error_response_json(code, message, 400)
    return response


def stop_execution(data: JsonObject) -> Response:
    """StopExecution."""
    execution = internal(stepfunctions, "_executions").get(data.get("executionArn"))
    if execution is None:
        return error("ExecutionDoesNotExist", f"Execution Does Not Exist: '{data.get('executionArn')}'")
    machine = internal(stepfunctions, "_state_machines").get(execution["stateMachineArn"])
    run = runs.get(execution["executionArn"]) or ServerRun(execution, machine)
    outcome: JsonObject = {name: data[name] for name in ("error", "cause") if name in data}
    run.finish("ABORTED", "ExecutionAborted", outcome, **outcome)
    if late := runs.get(execution["executionArn"]):
        late.wake()
    return answer({"stopDate": execution["stopDate"]})


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
    """Run executions in the engine of `localcloud.workflow_engine`."""
    workflow_engine.install(ServerRun)
    replace(stepfunctions, "_run_execution", run_execution)
    replace(stepfunctions, "_emit_execution_status_event", emit_status)
    replace(stepfunctions, "_stop_execution", stop_execution)


def refused_input(data: JsonObject) -> Response | None:
    """Return the refusal of a start whose input is no JSON, or None."""
    text = data.get("input", "{}")
    try:
        json.loads(text)
    except ValueError:
        return error("InvalidExecutionInput", f"Invalid State Machine Execution Input: '{text[:100]}'")
    return None


def install_start(_: Settings) -> None:
    """Make StartExecution idempotent by name and input while the execution runs, and check its input."""
    start = internal(stepfunctions, "_start_execution")

    def start_execution(data: JsonObject) -> Response:
        if refusal := refused_input(data):
            return refusal
        text = data.get("input", "{}")
        with _start_lock:
            running = same_name(data) if "name" in data else None
            if running and running["status"] == "RUNNING" and running["input"] == text:
                return answer({"executionArn": running["executionArn"], "startDate": running["startDate"]})
            response: Response = start(data)
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
            "retrier honours MaxDelaySeconds and JitterStrategy. Calls are made as the machine's role. Succeed has "
            "an Output. The history names each task's service and call."
        ),
        ministack=(
            "A late failure overwrites ABORTED. The machine's TimeoutSeconds, MaxDelaySeconds, JitterStrategy and "
            "Output of Succeed are ignored. No permission is checked. Each execution sleeps 150 ms first."
        ),
        here="Time-outs, aborts, retry delays, permissions and history as documented.",
        install=install_engine,
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
