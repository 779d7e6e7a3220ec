"""Step Functions: Express state machines.

An Express execution is never among MiniStack's executions: no API call may find it, and nothing of it stays in memory
once it has ended.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from contextvars import copy_context
from typing import Any

from ministack.core.responses import new_uuid, now_iso
from ministack.services import stepfunctions
from ministack.services.cloudformation import provisioners

from localcloud.corrections.states_monitoring import billed_ms
from localcloud.corrections.stepfunctions import (
    Response,
    ServerRun,
    answer,
    error,
    is_express,
    perform,
    refused_input,
)
from localcloud.patching import Correction, internal, replace
from localcloud.settings import Settings
from localcloud.workflow_engine import CALLBACK, inside_execution

JsonObject = dict[str, Any]

BILLED_MEMORY_MB = 64


def machine_of(arn: Any) -> JsonObject | None:
    """Return the state machine that an ARN of a machine, version or alias names, or None."""
    base = internal(stepfunctions, "_resolve_state_machine_arn")(str(arn).partition("#")[0])
    machine: JsonObject | None = internal(stepfunctions, "_state_machines").get(base) if base else None
    return machine


def is_express_machine(machine: JsonObject | None) -> bool:
    """Whether a state machine is one of type EXPRESS."""
    return machine is not None and machine.get("type") == "EXPRESS"


def new_run(machine: JsonObject, data: JsonObject) -> ServerRun:
    """Return a run that begins now, of a request to start an execution."""
    name, begin, text = data.get("name") or new_uuid(), now_iso(), data.get("input", "{}")
    started = {"input": text, "roleArn": machine["roleArn"]}
    execution = {
        "executionArn": f"{machine['stateMachineArn'].replace(':stateMachine:', ':express:')}:{name}:{new_uuid()}",
        "stateMachineArn": machine["stateMachineArn"],
        "name": name,
        "status": "RUNNING",
        "startDate": begin,
        "stopDate": None,
        "input": text,
        "output": None,
        "events": [
            {
                "id": 1,
                "previousEventId": 0,
                "type": "ExecutionStarted",
                "timestamp": begin,
                "executionStartedEventDetails": started,
            }
        ],
    }
    return ServerRun(execution, machine)


def install_start(settings: Settings) -> None:
    """Start executions of Express state machines."""
    start = internal(stepfunctions, "_start_execution")
    start_sync = internal(stepfunctions, "_start_sync_execution")

    def start_execution(data: JsonObject) -> Response:
        machine = machine_of(data.get("stateMachineArn"))
        if machine is None or not is_express_machine(machine):
            response: Response = start(data)
            return response
        if refusal := refused_input(data):
            return refusal
        # A running execution keeps the definition, role and log group that it was started with.
        machine = dict(machine)
        run = new_run(machine, data)
        begin = run.execution["startDate"]
        arguments = (perform, run, machine, settings.express_timeout_s)
        threading.Thread(target=copy_context().run, args=arguments, daemon=True, name="states-express").start()
        return answer({"executionArn": run.execution["executionArn"], "startDate": begin})

    def start_sync_execution(data: JsonObject) -> Response:
        machine = machine_of(data.get("stateMachineArn"))
        if machine is None or not is_express_machine(machine):
            # MiniStack runs a nested Standard execution (startExecution.sync) by this function.
            if machine is not None and not inside_execution():
                return type_not_supported()
            response: Response = start_sync(data)
            return response
        if refusal := refused_input(data):
            return refusal
        run = new_run(machine, data)
        perform(run, machine, settings.express_timeout_s)
        return answer(sync_answer(run.execution))

    replace(stepfunctions, "_start_execution", start_execution)
    replace(stepfunctions, "_start_sync_execution", start_sync_execution)


def sync_answer(execution: JsonObject) -> JsonObject:
    """Return what StartSyncExecution answers for an execution that has ended."""
    copied = ("executionArn", "stateMachineArn", "name", "status", "startDate", "stopDate", "input")
    optional = {name: execution[name] for name in ("output", "error", "cause") if execution.get(name) is not None}
    details = {
        f"{name}Details": {"included": True} for name in ("input", "output") if execution.get(name) is not None
    }
    billing = {"billedDurationInMilliseconds": billed_ms(execution), "billedMemoryUsedInMB": BILLED_MEMORY_MB}
    return {**{name: execution[name] for name in copied}, **optional, **details, "billingDetails": billing}


def type_not_supported() -> Response:
    """Return the refusal of an operation that the state machine's type does not have."""
    return error("StateMachineTypeNotSupported", "This operation is not supported by this type of state machine")


def install_refusals(_: Settings) -> None:
    """Refuse the API calls that Express executions do not have."""
    list_executions = internal(stepfunctions, "_list_executions")

    def list_of_machine(data: JsonObject) -> Response:
        if is_express_machine(machine_of(data.get("stateMachineArn"))):
            return type_not_supported()
        response: Response = list_executions(data)
        return response

    replace(stepfunctions, "_list_executions", list_of_machine)
    for name in (
        "_describe_execution",
        "_describe_state_machine_for_execution",
        "_get_execution_history",
        "_stop_execution",
    ):
        replace(stepfunctions, name, for_standard(internal(stepfunctions, name)))


def for_standard(call: Any) -> Any:
    """Return an API call that refuses the ARN of an Express execution."""

    def refusing(data: JsonObject) -> Response:
        if is_express(data.get("executionArn")):
            return error("InvalidArn", "Invalid Arn: 'Resource type not valid in this context: express'")
        response: Response = call(data)
        return response

    return refusing


# ---------------------------------------------------------------- definitions


def refused_states(machine: JsonObject, path: str = "") -> Iterator[str]:
    """Yield why an Express state machine can't have a state of this definition or part of one, with its place."""
    for name, state in (machine.get("States") or {}).items():
        place = f"{path}/States/{name}"
        resource = str(state.get("Resource", ""))
        if resource.endswith(CALLBACK):
            yield f"Express state machine does not support '{CALLBACK}' service integration at {place}/Resource"
        elif resource.endswith((".sync", ".sync:2")):
            yield f"Express state machine does not support '.sync' service integration at {place}/Resource"
        elif ":activity:" in resource:
            yield f"Express state machine does not support Activity ARN at {place}/Resource"
        for number, branch in enumerate(state.get("Branches") or []):
            yield from refused_states(branch, f"{place}/Branches[{number}]")
        for part in ("ItemProcessor", "Iterator"):
            items = state.get(part) or {}
            if (items.get("ProcessorConfig") or {}).get("Mode") == "DISTRIBUTED":
                yield f"Express state machine does not support distributed Map at {place}/{part}"
            yield from refused_states(items, f"{place}/{part}")


def refusal_of(definition: Any) -> str:
    """Return why a definition can't be an Express state machine's, or an empty string."""
    with suppress(ValueError, TypeError, AttributeError):  # MiniStack judges a definition that is none
        for reason in refused_states(json.loads(definition)):
            return f"Invalid State Machine Definition: 'SCHEMA_VALIDATION_FAILED: {reason}'"
    return ""


def install_definitions(_: Settings) -> None:
    """Refuse definitions that Express state machines do not support, by API and in a template."""
    create, update = (
        internal(stepfunctions, "_create_state_machine"),
        internal(stepfunctions, "_update_state_machine"),
    )
    definition_of = internal(provisioners, "_sfn_definition")

    def create_machine(data: JsonObject) -> Response:
        reason = refusal_of(data.get("definition")) if data.get("type") == "EXPRESS" else ""
        response: Response = error("InvalidDefinition", reason) if reason else create(data)
        return response

    def update_machine(data: JsonObject) -> Response:
        machine = internal(stepfunctions, "_state_machines").get(data.get("stateMachineArn"))
        reason = refusal_of(data.get("definition")) if is_express_machine(machine) else ""
        response: Response = error("InvalidDefinition", reason) if reason else update(data)
        return response

    def definition_in_template(properties: JsonObject) -> str:
        text: str = definition_of(properties)
        reason = refusal_of(text) if properties.get("StateMachineType") == "EXPRESS" else ""
        if reason:
            raise ValueError(reason)
        return text

    replace(stepfunctions, "_create_state_machine", create_machine)
    replace(stepfunctions, "_update_state_machine", update_machine)
    replace(provisioners, "_sfn_definition", definition_in_template)


CORRECTIONS = (
    Correction(
        name="stepfunctions-express",
        service="Step Functions",
        aws=(
            "An Express execution ends TIMED_OUT after five minutes. A second start with the same name is a second "
            "execution. No event tells of a status. Nothing is kept of an execution that has ended. An execution's "
            "ARN is arn:aws:states:region:account:express:machine:name:id. StartSyncExecution is for Express only."
        ),
        ministack=(
            "An Express execution is a Standard one: without a limit, its name used up, with events, and with a "
            "history for ever. StartSyncExecution takes Standard state machines."
        ),
        here="Express executions as documented, except that each runs once. --express-timeout is the limit (300 s).",
        install=install_start,
    ),
    Correction(
        name="stepfunctions-express-calls",
        service="Step Functions",
        aws=(
            "ListExecutions of an Express state machine fails with StateMachineTypeNotSupported; DescribeExecution, "
            "GetExecutionHistory, DescribeStateMachineForExecution and StopExecution of an Express execution with "
            "InvalidArn."
        ),
        ministack="These calls answer as for Standard.",
        here="These calls are refused.",
        install=install_refusals,
    ),
    Correction(
        name="stepfunctions-express-definitions",
        service="Step Functions",
        aws=(
            "A definition with .waitForTaskToken, .sync, an activity or a distributed Map is refused for an Express "
            "state machine: InvalidDefinition."
        ),
        ministack="Every definition is accepted.",
        here="These definitions are refused, in a template too.",
        install=install_definitions,
    ),
)
