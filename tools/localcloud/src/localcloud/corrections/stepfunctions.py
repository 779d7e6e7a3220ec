"""Step Functions: how an execution runs.

Executions run in `localcloud.workflow_engine`; this module gives the engine threads and time, permissions and the
default bus. States inside Parallel and Map have no events in the history.
"""

import json
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any

import yaml
from ministack.core import iam_actions
from ministack.core.responses import json_response
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
    Response,
    StatesError,
    TaskToken,
    error,
    execute,
    send_task_failure,
    send_task_heartbeat,
    send_task_success,
    status_event,
    tokens,
)

logger = logging.getLogger("localcloud.stepfunctions")

runs: dict[str, "ServerRun"] = {}
_start_lock = threading.RLock()


class ServerRun(EngineRun):
    """An execution in the local cloud: it waits in time, and a stop or time-out wakes it."""

    def __init__(self, execution: JsonObject) -> None:
        super().__init__(execution)
        self._woken = threading.Event()
        self._token: TaskToken | None = None

    def wake(self) -> None:
        """End every wait of the execution."""
        self._woken.set()
        token = self._token
        if token is not None:
            token.answered.set()

    def sleep(self, seconds: float) -> None:
        """Wait for this time multiplied by SFN_WAIT_SCALE. Raises ExecutionEndedError."""
        scaled = seconds * float(internal(stepfunctions, "_SFN_WAIT_SCALE"))
        if self._woken.wait(max(scaled, 0)):
            raise ExecutionEndedError

    def call(self, resource: str, arguments: Any, timeout_s: float | None) -> Any:
        """Call a resource; see `EngineRun.call`.

        A time-out or a stop does not interrupt the call, just as the function that a stopped execution has called
        runs on.
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
        if self.ended:
            raise ExecutionEndedError
        if failure is not None:
            raise failure
        return result

    def await_token(self, token: TaskToken, timeout_s: float | None, heartbeat_s: float | None) -> Any:
        """Wait for the answer to a token; see `EngineRun.await_token`."""
        started = token.last_heartbeat = time.monotonic()
        self._token = token
        try:
            while not token.done:
                if self.ended:
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
        return token.result()

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
    """Put an execution's status on the default bus, unless the execution was started synchronously."""
    if execution.get("sync"):
        return
    try:
        internal(eventbridge, "_put_events")({"Entries": [status_event(execution)]}, allow_aws_source=True)
    except Exception:
        logger.exception("The status of %s could not be published.", execution["executionArn"])


def run_execution(execution_arn: str) -> None:
    """Run an execution from its first state to its end."""
    execution = internal(stepfunctions, "_executions").get(execution_arn)
    if execution is None:
        return
    run = runs[execution_arn] = ServerRun(execution)
    timer: threading.Timer | None = None
    try:
        machine = internal(stepfunctions, "_state_machines").get(execution["stateMachineArn"])
        if machine is None:
            run.fail("States.Runtime", "The state machine does not exist any more.")
            return
        definition = json.loads(machine["definition"])
        timeout_s = definition.get("TimeoutSeconds")
        if timeout_s:
            timer = threading.Timer(float(timeout_s), run.finish, ("TIMED_OUT", "ExecutionTimedOut", {}))
            timer.daemon = True
            timer.start()
        execute(run, machine, definition)
    except Exception as failure:
        logger.exception("%s met an unexpected error.", execution_arn)
        run.fail("States.Runtime", str(failure))
    finally:
        if timer is not None:
            timer.cancel()
        runs.pop(execution_arn, None)


# ---------------------------------------------------------------- API calls


def or_activity(send: Callable[[JsonObject], Response], original: Callable[[JsonObject], Response]) -> Any:
    """Leave the tokens of activities to MiniStack, which issues them."""

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
    run = runs.get(execution["executionArn"]) or ServerRun(execution)
    outcome: JsonObject = {name: data[name] for name in ("error", "cause") if name in data}
    run.finish("ABORTED", "ExecutionAborted", outcome, **outcome)
    if late := runs.get(execution["executionArn"]):
        late.wake()
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
    """Run executions in the engine of `localcloud.workflow_engine`."""
    workflow_engine.install(ServerRun)
    replace(stepfunctions, "_run_execution", run_execution)
    replace(stepfunctions, "_emit_execution_status_event", emit_status)
    replace(stepfunctions, "_stop_execution", stop_execution)


def install_callbacks(_: Settings) -> None:
    """Answer for task tokens as AWS does."""
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
                    # A token from before a restart is nobody's any more: the answer is to say so, not to refuse.
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
