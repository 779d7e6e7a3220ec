"""Asynchronous Lambda invocations.

Pending retries live in the server's memory: a stop loses them. The first delay is `Settings.retry_base_s`, where AWS
waits a minute.
"""

import contextlib
import json
import logging
import threading
import time
import uuid
from contextvars import copy_context
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ministack.core.arn import parse_arn
from ministack.core.responses import request_scope
from ministack.services import eventbridge, lambda_svc, s3, sns

from localcloud.corrections import permissions, queues
from localcloud.corrections.lambda_environments import request_id_override
from localcloud.patching import Correction, internal, replace
from localcloud.settings import Settings

DEFAULT_RETRIES = 2
DEFAULT_MAX_AGE_S = 6 * 3600
MAX_DELAY_S = 30.0
DESTINATION_ACTIONS = {
    "sqs": "sqs:SendMessage",
    "sns": "sns:Publish",
    "lambda": "lambda:InvokeFunction",
    "events": "events:PutEvents",
    "s3": "s3:PutObject",
}

logger = logging.getLogger("localcloud.lambda")

JsonObject = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """How an asynchronous invocation ended: `condition` is Success, RetriesExhausted or EventAgeExceeded."""

    condition: str
    attempts: int
    outcome: JsonObject

    @property
    def succeeded(self) -> bool:
        """Whether the function returned."""
        return self.condition == "Success"


@dataclass(frozen=True)
class AsyncInvocation:
    """One asynchronous invocation of a function, version or alias."""

    function_arn: str
    event: Any
    retry_base_s: float
    request_id: str

    def run(self) -> None:
        """Invoke until a success or until retries or age are used up, then send the record to the destination."""
        _, _, _, region, account, *_ = self.function_arn.split(":")
        with request_scope(account, region):
            config = self._invoke_config()
            result = self._attempt(config)
            self._report(config.get("DestinationConfig") or {}, result)

    def _invoke_config(self) -> JsonObject:
        func, _, _ = internal(lambda_svc, "_get_base_func_record_for_ref")(self.function_arn)
        configs = (func or {}).get("event_invoke_configs") or {}
        qualifier = self.function_arn.split(":function:")[1].partition(":")[2]
        keys = [qualifier] if qualifier not in ("", "$LATEST") else ["", "$LATEST"]
        found: JsonObject = next((configs[key] for key in keys if key in configs), {})
        return found

    def _attempt(self, config: JsonObject) -> Result:
        retries = config.get("MaximumRetryAttempts")
        retries = DEFAULT_RETRIES if retries is None else int(retries)
        expiry = time.monotonic() + int(config.get("MaximumEventAgeInSeconds") or DEFAULT_MAX_AGE_S)
        attempts = throttles = 0
        while True:
            outcome = self._invoke_once()
            if outcome.get("throttle"):
                throttles += 1
            else:
                attempts += 1
                if not outcome.get("error"):
                    return Result("Success", attempts, outcome)
                if attempts > retries:
                    return Result("RetriesExhausted", attempts, outcome)
            delay = min(self.retry_base_s * 2 ** (attempts + throttles - 1), MAX_DELAY_S)
            if time.monotonic() + delay > expiry:
                return Result("EventAgeExceeded", attempts, outcome)
            time.sleep(delay)

    def _invoke_once(self) -> JsonObject:
        # Looked up for each attempt: a retry runs the code that is deployed at that time.
        func, config, name = internal(lambda_svc, "_get_func_record_for_ref")(self.function_arn)
        if func is None:
            message = f"Function not found: {name}"
            return {
                "error": True,
                "body": {"errorType": "ResourceNotFoundException", "errorMessage": message},
            }
        record = internal(lambda_svc, "_execution_record_for_config")(
            func, {**config, "FunctionArn": self.function_arn}
        )
        token = request_id_override.set(self.request_id)
        try:
            outcome: JsonObject = internal(lambda_svc, "_execute_function")(record, self.event)
        finally:
            request_id_override.reset(token)  # invocations by its destination have ids of their own
        return outcome

    def _report(self, destinations: JsonObject, result: Result) -> None:
        destination = (destinations.get("OnSuccess" if result.succeeded else "OnFailure") or {}).get("Destination")
        if destination:
            try:
                deliver(destination, self._record(result), self._role())
            except Exception:
                logger.exception("The destination %s of %s refused the record.", destination, self.function_arn)
        if not result.succeeded:
            self._dead_letter(result)

    def _role(self) -> str | None:
        _, config, _ = internal(lambda_svc, "_get_func_record_for_ref")(self.function_arn)
        return (config or {}).get("Role")

    def _record(self, result: Result) -> JsonObject:
        _, config, _ = internal(lambda_svc, "_get_func_record_for_ref")(self.function_arn)
        qualified = ":" in self.function_arn.split(":function:")[1]
        record: JsonObject = {
            "version": "1.0",
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "requestContext": {
                "requestId": self.request_id,
                "functionArn": self.function_arn if qualified else f"{self.function_arn}:$LATEST",
                "condition": result.condition,
                "approximateInvokeCount": result.attempts,
            },
            "requestPayload": self.event,
        }
        if result.attempts:
            response: JsonObject = {
                "statusCode": 200,
                "executedVersion": (config or {}).get("Version", "$LATEST"),
            }
            if not result.succeeded:
                response["functionError"] = result.outcome.get("function_error") or "Unhandled"
            record["responseContext"] = response
            record["responsePayload"] = result.outcome.get("body")
        return record

    def _dead_letter(self, result: Result) -> None:
        _, config, _ = internal(lambda_svc, "_get_func_record_for_ref")(self.function_arn)
        target = ((config or {}).get("DeadLetterConfig") or {}).get("TargetArn")
        if not target:
            return
        body = result.outcome.get("body")
        message = body.get("errorMessage", "") if isinstance(body, dict) else str(body)
        attributes = {
            "RequestID": queues.string_attribute(self.request_id),
            "ErrorCode": queues.number_attribute(200),
            "ErrorMessage": queues.string_attribute(message[:1024] or "-"),
        }
        if parse_arn(target).service == "sns":
            sns.publish_internal(target, json.dumps(self.event), message_attributes=attributes)
            return
        with contextlib.suppress(queues.QueueNotFoundError):
            queues.send(target, json.dumps(self.event), attributes)


def deliver(destination: str, record: JsonObject, role_arn: str | None) -> None:
    """Send an invocation record to a destination ARN as a function's execution role.

    Raises QueueNotFoundError for a queue that does not exist, PermissionError when the role may not send, and
    ValueError for a destination of another kind.
    """
    body = json.dumps(record)
    spec = parse_arn(destination)
    action = DESTINATION_ACTIONS.get(spec.service, "")
    resource = f"{destination}/{object_key(record)}" if spec.service == "s3" else destination
    if not permissions.role_may(role_arn, action, resource):
        raise PermissionError(f"{role_arn} does not allow {action} on {destination}")
    if spec.service == "sqs":
        queues.send(destination, body)
    elif spec.service == "sns":
        sns.publish_internal(destination, body)
    elif spec.service == "lambda":
        lambda_svc.invoke_async_with_retry({"FunctionArn": destination}, record)
    elif spec.service == "events":
        result = "Success" if record["requestContext"]["condition"] == "Success" else "Failure"
        entry = {
            "EventBusName": destination,
            "Source": "lambda",
            "DetailType": f"Lambda Function Invocation Result - {result}",
            "Detail": body,
            "Resources": [record["requestContext"]["functionArn"], destination],
        }
        internal(eventbridge, "_put_events")({"Entries": [entry]})
    elif spec.service == "s3":
        internal(s3, "_put_object")(spec.resource, object_key(record), body.encode(), {})
    else:
        raise ValueError(f"{destination} cannot be a destination")


def object_key(record: JsonObject) -> str:
    """Return the key under which Lambda stores a failed invocation in S3."""
    now = datetime.now(UTC)
    function = record["requestContext"]["functionArn"].split(":function:")[1].replace(":", "/")
    return f"aws/lambda/async/{function}/{now:%Y/%m/%d}/{now:%Y-%m-%dT%H.%M.%S}-{uuid.uuid4()}"


def install(settings: Settings) -> None:
    """Replace MiniStack's asynchronous invocation, which Invoke, S3, SNS and EventBridge share."""

    def invoke_async_with_retry(func: JsonObject, event: Any) -> None:
        arn = (func.get("config") or func)["FunctionArn"]
        invocation = AsyncInvocation(arn, event, settings.retry_base_s, str(uuid.uuid4()))
        threading.Thread(target=copy_context().run, args=(invocation.run,), daemon=True, name="lambda-async").start()

    replace(lambda_svc, "invoke_async_with_retry", invoke_async_with_retry)


CORRECTIONS = (
    Correction(
        name="lambda-async",
        service="Lambda",
        aws=(
            "A failed asynchronous invocation is retried twice, with the same request id. An invocation record "
            "then goes to the on-failure destination of the invoked function, version or alias, or the bare event "
            "to its dead-letter queue; a success goes to the on-success destination. Destinations are queues, "
            "topics, functions, buses and, for failures, buckets; the function's role must allow the call. A "
            "throttled invocation is retried for up to six hours and is no attempt."
        ),
        ministack=(
            "Only the configuration of the unqualified function is found, while SAM's is on $LATEST or the alias. "
            "The record is incomplete and goes to queues, topics and functions on failure only. No permission is "
            "checked."
        ),
        here="Retries and destinations of the alias or version, with AWS's record, as the function's role.",
        install=install,
    ),
)
