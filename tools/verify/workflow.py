"""Adapter: the local cloud's workflow engine under the scheduler's control.

The engine runs the order workflow's real definition (localcloud/workflow_engine.py). An execution of the proof waits
for nothing: before each call and each wait it stops, and the scheduler says what becomes of the call.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NoReturn

from verify import services, template
from verify.scheduler import Aborted, CallOutcome, pause, stepped
from verify.services import Json, ServiceError

from localcloud import expressions, workflow_engine  # isort: skip - finds MiniStack through verify.services
from localcloud.workflow_engine import ExecutionEndedError, StatesError, TaskToken  # isort: skip

MACHINE_ARN = f"arn:aws:states:us-east-1:000000000000:stateMachine:{template.WORKFLOW}"
MACHINE = {"name": template.WORKFLOW, "roleArn": ""}
INTEGRATION = "arn:aws:states:::"
TABLE_ACTIONS = {
    "aws-sdk:dynamodb:transactWriteItems": "TransactWriteItems",
    "dynamodb:updateItem": "UpdateItem",
    "dynamodb:getItem": "GetItem",
}

Invoke = Callable[[str, Json], Any]
"""Runs a function with a payload and returns its result. Raises `StatesError`."""
Injector = Callable[[str, str], "tuple[str, str] | None"]
"""Takes a state and "before" or "after"; returns the error (name, cause) that this attempt meets, or None."""


class SimulatedExecution(workflow_engine.EngineRun):
    """One execution of the order workflow.

    `send` takes a queue and a body. `publish` takes the event that tells of the execution's end.
    """

    def __init__(
        self,
        name: str,
        data: Json,
        *,
        invoke: Invoke,
        send: Callable[[str, str], None],
        publish: Callable[[Json], None],
        inject: Injector | None = None,
    ) -> None:
        record = {
            "executionArn": f"{MACHINE_ARN.replace(':stateMachine:', ':execution:')}:{name}",
            "stateMachineArn": MACHINE_ARN,
            "name": name,
            "status": "RUNNING",
            "startDate": self.now(),
            "input": json.dumps(data),
            "events": [],
        }
        super().__init__(record)
        self.send = send
        self._invoke = invoke
        self._publish = publish
        self._inject = inject or (lambda state, when: None)

    def run(self) -> None:
        """Run to the end, or to where somebody stops the execution."""
        workflow_engine.execute(self, MACHINE, template.definition())

    @property
    def status(self) -> str:
        """RUNNING, SUCCEEDED, FAILED or ABORTED."""
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

    # ---- What the engine asks for

    def now(self) -> str:
        """The present time; to the microsecond, because states follow each other faster than milliseconds."""
        return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"

    def sleep(self, seconds: float) -> None:
        """Stop once, whatever the time is; see `EngineRun.sleep`."""
        self._pause("delay")

    def call(self, resource: str, arguments: Any, timeout_s: float | None) -> Any:
        """Call a resource, with the injected error before or after the call; see `EngineRun.call`."""
        try:
            self._meet("before")
            result = self._call(resource.removeprefix(INTEGRATION), arguments)
            self._meet("after")
        except Aborted:
            self._abort()
        return result

    def await_token(self, token: TaskToken, timeout_s: float | None, heartbeat_s: float | None) -> Any:
        """Wait until the token is answered or the scheduler lets the task time out; see `EngineRun.await_token`."""
        while not token.done:
            # Outside of the scheduler nobody is left to answer.
            if self._pause("waiting") is CallOutcome.TIMEOUT or not stepped():
                raise StatesError("States.Timeout", "")
        return token.result()

    def authorize(self, role_arn: str | None, resource: str, arguments: Any) -> None:
        """Allow everything: roles are what tests/template checks."""

    def publish_status(self) -> None:
        """Hand over the event that tells of the end."""
        self._publish(workflow_engine.status_event(self.execution))

    def wake(self) -> None:
        """Nothing waits."""

    # ---- Faults

    def _meet(self, when: str) -> None:
        if found := self._inject(self.trace[-1], when):
            raise StatesError(*found)

    def _pause(self, what: str) -> CallOutcome:
        outcome = pause(f"{self.trace[-1]}: {what}")
        if outcome is CallOutcome.ABORT:
            self._abort()
        return outcome

    def _abort(self) -> NoReturn:
        self.finish("ABORTED", "ExecutionAborted", {})
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
                raise StatesError("States.Timeout", "the answer was lost")
        return services.table(action, arguments)

    def _send(self, arguments: Json) -> Json:
        body = json.dumps(arguments["MessageBody"])
        outcome = self._pause("SendMessage")
        if outcome in (CallOutcome.REFUSED, CallOutcome.CRASH):
            raise StatesError("SQS.SqsException", "Rate exceeded")
        self.send(arguments["QueueUrl"], body)
        if outcome is CallOutcome.LOST:
            raise StatesError("SQS.SdkClientException", "the answer was lost")
        return {}


def crash_error(function: str) -> Any:
    """The error of a state whose function's process dies."""
    return StatesError("Lambda.Unknown", json.dumps({"errorType": "Runtime.ExitError", "function": function}))


def answer_token(operation: str, request: Json) -> Json:
    """SendTaskSuccess or SendTaskFailure. Raises `ServiceError`."""
    send = {
        "SendTaskSuccess": workflow_engine.send_task_success,
        "SendTaskFailure": workflow_engine.send_task_failure,
    }[operation]
    status, _, body = send(request)
    answer: Json = json.loads(body)
    if status >= 400:
        raise ServiceError(str(answer["__type"]).rpartition("#")[2], str(answer.get("message", "")))
    return answer


def _outside(_: Json) -> SimulatedExecution:
    raise NotImplementedError("the proof runs whole executions only")


workflow_engine.install(_outside)
expressions.parse_once()
