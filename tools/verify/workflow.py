"""The order workflow's real definition, run by MiniStack's interpreter one state at a time.

States, retries, catches and JSONata are the interpreter's. The calls that a state makes, and the pauses between
its tries, come here instead: nothing waits, and each call is a point at which a fault can be put in the way.
"""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Callable
from typing import Any

from localcloud.patching import internal, replace
from verify import services as aws
from verify import template as blueprint
from verify.scheduler import Aborted, Actor, Crash, Verdict, pause
from verify.services import Json, ServiceError

from ministack.services import stepfunctions  # isort: skip - found through what proof.aws puts on the path
from localcloud import expressions  # isort: skip

StateError: type[Any] = internal(stepfunctions, "_ExecutionError")
_HANDLERS = {
    "Task": internal(stepfunctions, "_execute_task"),
    "Choice": internal(stepfunctions, "_execute_choice"),
    "Wait": internal(stepfunctions, "_execute_wait"),
}
_fail_state_error = internal(stepfunctions, "_fail_state_error")

Invoke = Callable[[str, Json], Any]
# (state, when) -> the error that this try of the state meets; None for none.
Fault = Callable[[str, str], "tuple[str, str] | None"]


def error(name: str, cause: str = "") -> Any:
    """An error of a state, as the interpreter raises it."""
    return StateError(name, cause)


class Execution:
    """One execution: `status` is RUNNING, SUCCEEDED, FAILED or ABORTED; `trace` lists the states entered."""

    def __init__(
        self, name: str, data: Json, *, invoke: Invoke, send: Callable[[str, str], None], fault: Fault | None = None
    ) -> None:
        self.name = name
        self.input = data
        self.status = "RUNNING"
        self.error: tuple[str, str] = ("", "")
        self.trace: list[str] = []
        self.token: str | None = None
        self.answer: Json | None = None
        self.invoke = invoke
        self.send = send
        self.fault = fault or (lambda state, when: None)

    @property
    def order_id(self) -> str:
        """The order that it is about."""
        return str(self.input.get("data", {}).get("orderId", ""))

    def run(self) -> None:
        """Run to the end; afterwards `status` and `error` say which."""
        around = getattr(_running, "execution", None)  # another one may run while a state of this one is at work
        _running.execution = self
        try:
            self._run()
            self.status = "SUCCEEDED"
        except StateError as failed:
            self.status, self.error = "FAILED", (failed.error, failed.cause)
        except Aborted:
            self.status = "ABORTED"
        finally:
            self.token = None
            _running.execution = around

    def _run(self) -> None:
        definition = blueprint.definition()
        context = {
            "QueryLanguage": definition["QueryLanguage"],
            "Execution": {"Id": f"arn:aws:states:::execution:{self.name}", "Input": self.input, "Name": self.name},
            "StateMachine": {"Id": blueprint.WORKFLOW, "Name": blueprint.WORKFLOW},
            "variables": {},
        }
        execution = {"testCase": "", "events": []}
        name, data = definition["StartAt"], self.input
        while name:
            state = definition["States"][name]
            self.trace.append(name)
            entered = datetime.datetime.now(datetime.UTC).isoformat()
            context["State"] = {"Name": name, "EnteredTime": f"{entered}#{len(self.trace)}", "RetryCount": 0}
            match state["Type"]:
                case "Succeed":
                    return
                case "Fail":
                    raise error(*_fail_state_error(state, data, context))
                case "Task":
                    data, name = _HANDLERS["Task"](state, data, execution, context)
                case kind:
                    data, name = _HANDLERS[kind](state, data, context)

    # ---- What a state calls

    def perform(self, resource: str, arguments: Json) -> Any:
        """One try of a Task state. Raises the interpreter's error."""
        state = self.trace[-1]
        if found := self.fault(state, "before"):
            raise error(*found)
        try:
            result = self._perform(state, resource, arguments)
        except ServiceError as refused:
            # DynamoDB's own integration names errors DynamoDB.*, the SDK integration DynamoDb.*.
            prefix = "DynamoDb" if ":aws-sdk:" in resource else "DynamoDB"
            cause = f"{refused.message} (Service: {prefix}, Status Code: 400, Request ID: 1)"
            raise error(f"{prefix}.{refused.code}", cause) from None
        if found := self.fault(state, "after"):
            raise error(*found)
        return result

    def _perform(self, state: str, resource: str, arguments: Json) -> Any:
        match resource.removeprefix("arn:aws:states:::"):
            case "lambda:invoke":
                return {"StatusCode": 200, "Payload": self.invoke(arguments["FunctionName"], arguments["Payload"])}
            case "aws-sdk:dynamodb:transactWriteItems":
                action = "TransactWriteItems"
            case "dynamodb:updateItem":
                action = "UpdateItem"
            case "dynamodb:getItem":
                action = "GetItem"
            case _:
                raise NotImplementedError(f"the proof doesn't know what {resource} does: teach it here")
        match pause(f"{state}: {action}"):
            case Verdict.ABORT:
                raise Aborted
            case Verdict.REFUSED | Verdict.CRASH:
                raise ServiceError("ProvisionedThroughputExceededException", "The level is exceeded")
            case Verdict.CONFLICT if action == "TransactWriteItems":
                raise aws.conflict(len(arguments["TransactItems"]))
            case Verdict.LOST | Verdict.TIMEOUT:
                aws.table(action, arguments)
                raise error("States.Timeout", "the answer was lost")
        return aws.table(action, arguments)

    def wait_for_token(self, arguments: Json) -> Any:
        """Send a message that carries a task token, and wait for the answer to the token."""
        state = self.trace[-1]
        if found := self.fault(state, "before"):
            raise error(*found)
        self.token, self.answer = str(arguments["MessageBody"]["taskToken"]), None
        match pause(f"{state}: SendMessage"):
            case Verdict.ABORT:
                raise Aborted
            case Verdict.REFUSED | Verdict.CRASH:
                raise error("SQS.SqsException", "Rate exceeded")
            case Verdict.LOST:
                self.send(arguments["QueueUrl"], json.dumps(arguments["MessageBody"]))
                self.token = None
                raise error("SQS.SdkClientException", "the answer was lost")
        self.send(arguments["QueueUrl"], json.dumps(arguments["MessageBody"]))
        if found := self.fault(state, "after"):
            self.token = None
            raise error(*found)
        while self.answer is None:
            verdict = pause(f"{state}: waiting")
            if verdict is Verdict.ABORT:
                raise Aborted
            # Without a test that steps it there is nobody left to answer.
            if verdict is Verdict.TIMEOUT or not stepped():
                break
        answer, self.token = self.answer, None
        if answer is None:
            raise error("States.Timeout", "Task timed out waiting for callback")
        if "error" in answer:
            raise error(answer["error"], answer.get("cause", ""))
        return json.loads(answer["output"])

    def rest(self) -> None:
        """The pause between two tries."""
        if pause(f"{self.trace[-1]}: trying again") is Verdict.ABORT:
            raise Aborted


class _Running(threading.local):
    execution: Any = None


_running = _Running()


def stepped() -> bool:
    """Whether this runs as an actor, which a test steps."""
    from verify import scheduler  # noqa: PLC0415

    return isinstance(getattr(scheduler._current, "actor", None), Actor)


# ---- Taking hold of the interpreter --------------------------------------------------------------------------


def _perform(resource: str, arguments: Json, _timeout_s: float) -> Any:
    return _running.execution.perform(resource, arguments)


def _with_callback(_resource: str, arguments: Json, token: str, _state: Json) -> Any:
    # The interpreter keeps one token for all tries of a state; Step Functions gives each try its own.
    body = {**arguments["MessageBody"], "taskToken": aws.new_id(token[:8])}
    return _running.execution.wait_for_token({**arguments, "MessageBody": body})


def _sleep(_seconds: float) -> None:
    _running.execution.rest()


def _no_history(_execution: Json, _kind: str, _details: Json | None = None) -> None:
    return


replace(stepfunctions, "_invoke_resource_with_timeout", _perform)
replace(stepfunctions, "_invoke_with_callback", _with_callback)
replace(stepfunctions, "_scaled_sleep", _sleep)
replace(stepfunctions, "_add_event", _no_history)
expressions.parse_once()


def crash_error(function: str) -> Any:
    """What a state gets to see when its function's process dies."""
    return error("Lambda.Unknown", json.dumps({"errorType": "Runtime.ExitError", "function": function}))


__all__ = ["Crash", "Execution", "StateError", "crash_error", "error"]
