"""Adapter: the local cloud's workflow engine under the scheduler's control.

The engine runs the order workflow's real definition (localcloud/workflow_engine.py). An execution of the proof waits
for nothing: before each call and each wait it stops, and the scheduler says what becomes of the call. Calls and waits
move the proof's clock. An execution that is older than the definition's time-out dies, as one of AWS does: silently.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any, NoReturn

from verify import clock, services, template
from verify.scheduler import Aborted, CallOutcome, pause
from verify.services import Json, ServiceError

from localcloud import expressions, workflow_engine  # isort: skip - finds MiniStack through verify.services
from localcloud.patching import replace  # isort: skip
from localcloud.retrying import retry_delay_s  # isort: skip
from localcloud.workflow_engine import ExecutionEndedError, StatesError  # isort: skip
from jsonata import functions  # isort: skip

MACHINE_ARN = template.arn_of(template.WORKFLOW)
MACHINE = {"name": template.WORKFLOW, "roleArn": ""}
INTEGRATION = "arn:aws:states:::"
TABLE_ACTIONS = {
    "aws-sdk:dynamodb:transactWriteItems": "TransactWriteItems",
    "dynamodb:updateItem": "UpdateItem",
    "dynamodb:getItem": "GetItem",
}
CALL_S = 1.0
TIMED_OUT = ("States.Timeout", "")

Invoke = Callable[[str, Json], Any]
"""Runs a function with a payload and returns its result. Raises `StatesError`."""
Injector = Callable[[str, str], "tuple[str, str] | None"]
"""Takes a state and "before" or "after"; returns the error (name, cause) that this attempt meets, or None."""


class SimulatedExecution(workflow_engine.EngineRun):
    """One execution of the order workflow; `send` takes a queue and a body."""

    def __init__(
        self,
        name: str,
        data: Json,
        *,
        invoke: Invoke,
        send: Callable[[str, str], None],
        inject: Injector | None = None,
    ) -> None:
        self._began = clock.now()
        record = {
            "executionArn": f"{MACHINE_ARN.replace(':stateMachine:', ':execution:')}:{name}",
            "stateMachineArn": MACHINE_ARN,
            "name": name,
            "status": "RUNNING",
            "startDate": clock.text(),
            "input": json.dumps(data),
            "events": [],
        }
        super().__init__(record)
        self.data = data
        self.send = send
        self.reported = False
        self._invoke = invoke
        self._inject = inject or (lambda state, when: None)

    def run(self) -> None:
        """Run to the end, or to where the execution dies."""
        workflow_engine.execute(self, MACHINE, template.definition())

    @property
    def status(self) -> str:
        """RUNNING, SUCCEEDED, FAILED, or TIMED_OUT, which stands for each silent death."""
        return str(self.execution["status"])

    @property
    def error(self) -> tuple[str, str]:
        """Name and cause of the error that the execution failed with."""
        return self.execution.get("error", ""), self.execution.get("cause", "")

    @property
    def trace(self) -> list[str]:
        """The states entered, in order."""
        entered = [event.get("stateEnteredEventDetails") for event in self.execution["events"]]
        return [details["name"] for details in entered if details]

    @property
    def seconds(self) -> float:
        """The execution's age."""
        return (clock.now() - self._began).total_seconds()

    # ---- What the engine asks for

    def now(self) -> str:
        """The present time."""
        return clock.text()

    def sleep(self, seconds: float) -> None:
        """Stop once, and let that much time pass; see `EngineRun.sleep`."""
        clock.advance(seconds)
        self._pause("delay")

    def call(self, resource: str, arguments: Any, timeout_s: float | None) -> Any:
        """Call a resource, with the injected error before or after the call; see `EngineRun.call`."""
        clock.advance(CALL_S)
        try:
            self._live()
            self._meet("before")
            result = self._call(resource.removeprefix(INTEGRATION), arguments)
            self._meet("after")
        except Aborted:
            self._die()
        except StatesError as failed:
            if failed.error == "States.Timeout" and timeout_s:
                clock.advance(timeout_s - CALL_S)
            raise
        return result

    def authorize(self, role_arn: str | None, resource: str, arguments: Any) -> None:
        """Allow everything: roles are what tests/template checks."""

    def publish_status(self) -> None:
        """Tell nobody: an Express execution has no status events."""

    def wake(self) -> None:
        """Nothing waits."""

    # ---- Faults

    def _meet(self, when: str) -> None:
        if found := self._inject(self.trace[-1], when):
            raise StatesError(*found)

    def _pause(self, what: str) -> CallOutcome:
        outcome = pause(f"{self.trace[-1]}: {what}")
        if outcome is CallOutcome.ABORT:
            self._die()
        self._live()
        return outcome

    def _live(self) -> None:
        if self.seconds > template.definition()["TimeoutSeconds"]:
            self._die()

    def _die(self) -> NoReturn:
        self.finish("TIMED_OUT", "ExecutionTimedOut", {})
        raise ExecutionEndedError

    def _call(self, integration: str, arguments: Json) -> Any:
        if integration == "lambda:invoke":
            return {"StatusCode": 200, "Payload": self._invoke(arguments["FunctionName"], arguments["Payload"])}
        if integration == "sqs:sendMessage":
            return self._send(arguments)
        if integration in TABLE_ACTIONS:
            try:
                return self._use_table(TABLE_ACTIONS[integration], arguments)
            except ServiceError as refused:
                # DynamoDB's own integration names errors DynamoDB.*, the SDK integration DynamoDb.*.
                prefix = "DynamoDb" if integration.startswith("aws-sdk:") else "DynamoDB"
                cause = f"{refused.message} (Service: {prefix}, Status Code: 400, Request ID: 1)"
                raise StatesError(f"{prefix}.{refused.code}", cause) from None
        raise NotImplementedError(f"the proof doesn't know the integration {integration}: add it to {__name__}")

    def _use_table(self, action: str, arguments: Json) -> Json:
        match self._pause(action):
            case CallOutcome.REFUSED | CallOutcome.CRASH:
                raise ServiceError("ProvisionedThroughputExceededException", "The level is exceeded")
            case CallOutcome.CONFLICT if action == "TransactWriteItems":
                raise services.conflict(len(arguments["TransactItems"]))
            case CallOutcome.LOST | CallOutcome.TIMEOUT:
                services.table(action, arguments)
                raise StatesError(*TIMED_OUT)
        return services.table(action, arguments)

    def _send(self, arguments: Json) -> Json:
        body = json.dumps(arguments["MessageBody"])
        outcome = self._pause("SendMessage")
        if outcome in (CallOutcome.REFUSED, CallOutcome.CRASH):
            raise StatesError("SQS.SqsException", "Rate exceeded")
        self.send(arguments["QueueUrl"], body)
        self.reported = self.reported or arguments["QueueUrl"] == "FailuresQueue"
        if outcome in (CallOutcome.LOST, CallOutcome.TIMEOUT):
            raise StatesError("SQS.SdkClientException", "the answer was lost")
        return {}


def crash_error(function: str) -> Any:
    """The error of a state whose function's process dies."""
    return StatesError("Lambda.Unknown", json.dumps({"errorType": "Runtime.ExitError", "function": function}))


def _outside(_: Json) -> SimulatedExecution:
    raise NotImplementedError("the proof runs whole executions only")


workflow_engine.install(_outside)
expressions.parse_once()
# The longest delays, so that an execution that takes too long is found.
replace(workflow_engine, "retry_delay_s", functools.partial(retry_delay_s, uniform=lambda _, most: most))
replace(functions.Functions, "now", staticmethod(lambda *_: clock.text()))
clock.install()
