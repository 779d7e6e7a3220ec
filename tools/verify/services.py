"""The AWS services of the proof: real clients, answered in this process without a network.

The module changes the process's environment and botocore, so the proof runs in a process of its own.

Tables are MiniStack's: conditions, transactions and streams behave as in the local cloud. Calls to bus, queues, the
workflow and buckets go to `receivers`, which the simulation provides.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import os
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import botocore.handlers
from botocore.exceptions import ReadTimeoutError

from localcloud.patching import internal, replace
from verify import template
from verify.scheduler import CallOutcome, Crash, pause

# MiniStack pins another botocore and is installed in an environment of its own. The proof uses MiniStack's tables and
# workflow interpreter only, which make no calls. A package that both environments have comes from this one.
_ENVIRONMENT = next((template.ROOT / ".local" / "venv-cloud" / "lib").glob("python3*/site-packages"), None)
if _ENVIRONMENT is None:
    raise ImportError("the local cloud's environment is not installed: run scripts/install")
sys.path.append(str(_ENVIRONMENT))

from ministack.services import dynamodb  # noqa: E402

Json = dict[str, Any]


def copied(value: Any) -> Any:
    """A deep copy of plain data. `copy.deepcopy` also looks for cycles, which would take most of a run's time."""
    if type(value) is dict:
        return {name: copied(each) for name, each in value.items()}
    if type(value) is list:
        return [copied(each) for each in value]
    return value if isinstance(value, str | int | float | None) else copy.deepcopy(value)


replace(dynamodb, "copy", SimpleNamespace(deepcopy=copied))

_ACTIONS: dict[str, Callable[[Json], tuple[int, Json, bytes]]] = {
    action: internal(dynamodb, name)
    for action, name in {
        "PutItem": "_put_item",
        "GetItem": "_get_item",
        "UpdateItem": "_update_item",
        "DeleteItem": "_delete_item",
        "Query": "_query",
        "BatchGetItem": "_batch_get_item",
        "TransactWriteItems": "_transact_write_items",
    }.items()
}
_CREATE = internal(dynamodb, "_create_table")
_TABLES: dict[str, Json] = internal(dynamodb, "_tables")
_STREAMS: dict[str, list[Json]] = internal(dynamodb, "_stream_records")
_TOKENS: dict[str, Json] = internal(dynamodb, "_txn_idempotency")


class ServiceError(Exception):
    """An error answer of a service: `code`, `message` and the other members of the answer, `more`."""

    def __init__(self, code: str, message: str, more: Json | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.more = more or {}


def conflict(items: int) -> ServiceError:
    """The answer of TransactWriteItems when another request touches the last of its items."""
    codes = ["None"] * items
    codes[-1] = "TransactionConflict"
    return cancelled(codes)


def cancelled(codes: list[str]) -> ServiceError:
    """The answer of a cancelled transaction; `codes` are the reasons, one for each item."""
    listed = ", ".join(codes)
    message = f"Transaction cancelled, please refer cancellation reasons for specific reasons [{listed}]"
    reasons = [{"Code": code} for code in codes]
    return ServiceError("TransactionCanceledException", message, {"CancellationReasons": reasons})


def table(action: str, request: Json) -> Json:
    """One call to DynamoDB. Raises `ServiceError`."""
    status, _, body = _ACTIONS[action](json.loads(json.dumps(request)))
    answer: Json = json.loads(body) if body else {}
    if status >= 400:
        code = str(answer.pop("__type", "InternalServerError")).rpartition("#")[2]
        raise ServiceError(code, str(answer.pop("message", answer.pop("Message", ""))), answer)
    return answer


def items(name: str) -> list[Json]:
    """Every item of a table."""
    return [item for bucket in _TABLES[name]["items"].values() for item in bucket.values()]


def stream(name: str) -> list[Json]:
    """Every record of a table's stream so far, oldest first."""
    return _STREAMS.get(name, [])


def empty(name: str) -> None:
    """Delete every item of a table, without a trace in its stream."""
    _TABLES[name]["items"].clear()


def reset_tables() -> None:
    """All tables of the template, new and empty."""
    for store in (_TABLES, _STREAMS, _TOKENS):
        store.clear()
    for request in _REQUESTS:
        status, _, body = _CREATE(copy.deepcopy(request))
        assert status == 200, body


def save_tables() -> Json:
    """The content of the tables and their streams, for `load_tables`."""
    return {
        "items": {name: copied(dict(_TABLES[name]["items"])) for name in _TABLES},
        "streams": {name: copied(_STREAMS[name]) for name in _STREAMS},
    }


def load_tables(saved: Json) -> None:
    """Restore the content that `save_tables` gave; the same content may be restored more than once."""
    reset_tables()
    for name, found in saved["items"].items():
        _TABLES[name]["items"].update(copied(found))
    for name, records in saved["streams"].items():
        _STREAMS[name] = copied(records)


_REQUESTS = template.table_requests()

# ---- The functions' own clients --------------------------------------------------------------------

_SERVICES = {
    "dynamodb": "dynamodb",
    "events": "events",
    "sqs": "sqs",
    "sfn": "stepfunctions",
    "s3": "s3",
    "lambda": "lambda",
    "cloudwatch": "cloudwatch",
}
_THROTTLED = {
    "dynamodb": "ProvisionedThroughputExceededException",
    "events": "ThrottlingException",
    "sqs": "RequestThrottled",
    "stepfunctions": "ThrottlingException",
    "s3": "SlowDown",
    "lambda": "TooManyRequestsException",
    "cloudwatch": "Throttling",
}

receivers: dict[str, Callable[[str, Json], Json]] = {}
"""Answers the calls to a service other than DynamoDB: takes operation and request, returns the answer."""


@dataclass
class Outage:
    """The outcome of the next `calls` calls, whatever the scheduler says of the single call."""

    outcome: CallOutcome
    calls: float = math.inf


outages: dict[str, Outage] = {}
"""The current outages by service, or by service and operation (`dynamodb.PutItem`)."""


def _outcome(service: str, operation: str) -> CallOutcome:
    stepped = pause(f"{service}.{operation}")
    for name in (f"{service}.{operation}", service):
        outage = outages.get(name)
        if outage and outage.calls > 0:
            outage.calls -= 1
            return outage.outcome
    return stepped


def _carry_out(service: str, operation: str, request: Json) -> Json:
    if service == "dynamodb":
        return table(operation, request)
    return receivers[service](operation, request)


def call(service: str, operation: str, request: Json) -> Json:
    """Make a function's call to a service, with the call's outcome. Raises `ServiceError` and `Crash`."""
    match _outcome(service, operation):
        case CallOutcome.CRASH:
            raise Crash
        case CallOutcome.REFUSED:
            raise ServiceError(_THROTTLED[service], "Rate exceeded")
        case CallOutcome.LOST:
            _carry_out(service, operation, request)
            raise ReadTimeoutError(endpoint_url=service)
        case CallOutcome.TWICE:
            _carry_out(service, operation, request)
        case CallOutcome.CONFLICT if operation == "TransactWriteItems":
            raise conflict(len(request["TransactItems"]))
        case CallOutcome.CONFLICT if service == "dynamodb" and operation in ("PutItem", "UpdateItem", "DeleteItem"):
            raise ServiceError("TransactionConflictException", "Transaction is ongoing for the item")
        case CallOutcome.PARTIAL if operation == "PutEvents" and request["Entries"]:
            taken = _carry_out(service, operation, {**request, "Entries": request["Entries"][:-1]})
            return {**taken, "Entries": [*taken["Entries"], {"ErrorCode": "InternalFailure", "ErrorMessage": ""}]}
    return _carry_out(service, operation, request)


def _answer(model: Any, params: Json, **_: Any) -> tuple[Any, Json]:
    """botocore's `before-call` handler: botocore builds and validates the request, this function answers it."""
    service = _SERVICES[str(model.service_model.service_name).replace("stepfunctions", "sfn")]
    if service in ("s3", "lambda"):
        request: Json = {"path": params["url_path"], "body": params["body"], "headers": params["headers"]}
    elif service == "cloudwatch":
        request = {}  # its protocol isn't JSON, and no answer depends on the request
    else:
        request = json.loads(params["body"])
    try:
        return SimpleNamespace(status_code=200), call(service, model.name, request)
    except ServiceError as error:
        parsed = {"Error": {"Code": error.code, "Message": error.message}, "ResponseMetadata": {}, **error.more}
        return SimpleNamespace(status_code=400), parsed


_counter = itertools.count(1)


def new_id(prefix: str) -> str:
    """A new id; the same run gives the same ids."""
    return f"{prefix}-{next(_counter)}"


def _uuid4() -> uuid.UUID:
    return uuid.UUID(int=next(_counter), version=4)


def reset_ids() -> None:
    """Start again with the first id."""
    global _counter  # noqa: PLW0603
    _counter = itertools.count(1)


def prepare() -> None:
    """Set the functions' environment variables; must run before a module of theirs is imported."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(template.environment_of())
    os.environ.update(
        AWS_ACCESS_KEY_ID="proof",
        AWS_SECRET_ACCESS_KEY="proof",
        AWS_DEFAULT_REGION="us-east-1",
        LOG_LEVEL="CRITICAL",
        POWERTOOLS_TRACE_DISABLED="true",
        POWERTOOLS_METRICS_DISABLED="true",
        POWERTOOLS_METRICS_NAMESPACE="proof",
    )
    uuid.uuid4 = _uuid4  # the same story has the same order ids
    botocore.handlers.BUILTIN_HANDLERS.append(("before-call", _answer))  # for every client made from now on
    reset_tables()
