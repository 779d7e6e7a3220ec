"""The AWS services of the proof, in this process: real clients, answered without a network.

It takes the whole process over, its environment too, so the proof runs in a process of its own.

Tables are MiniStack's, so conditions, transactions and streams behave as in the local cloud. Bus, queues, task
tokens and buckets only take down what is sent; `world` says what becomes of it.
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
from verify import template as blueprint
from verify.scheduler import Crash, Verdict, pause

# MiniStack pins another botocore and lives in an environment of its own. Only its interpreter of tables and
# workflows is used here, which makes no calls; what both environments have is taken from this one.
_ENVIRONMENT = next((blueprint.ROOT / ".local" / "venv-cloud" / "lib").glob("python3*/site-packages"), None)
if _ENVIRONMENT is None:
    raise ImportError("the local cloud's environment is not installed: run scripts/install")
sys.path.append(str(_ENVIRONMENT))

from ministack.services import dynamodb  # noqa: E402

Json = dict[str, Any]


def copied(value: Any) -> Any:
    """A copy of plain data; `copy.deepcopy` looks for cycles, which takes most of a run's time."""
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
    """An error answer: its code, its sentence and what else it carries."""

    def __init__(self, code: str, message: str, more: Json | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.more = more or {}


def conflict(items: int) -> ServiceError:
    """What TransactWriteItems answers when another request touches the second of its items."""
    codes = ["None"] * items
    codes[-1] = "TransactionConflict"
    return cancelled(codes)


def cancelled(codes: list[str]) -> ServiceError:
    """A cancelled transaction with these reasons, one for each of its items."""
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


def reset_tables() -> None:
    """All tables of the template, new and empty."""
    for store in (_TABLES, _STREAMS, _TOKENS):
        store.clear()
    for request in _REQUESTS:
        status, _, body = _CREATE(copy.deepcopy(request))
        assert status == 200, body


def save_tables() -> Json:
    """What is in the tables and their streams, to be put back with `load_tables`."""
    return {
        "items": {name: copied(dict(_TABLES[name]["items"])) for name in _TABLES},
        "streams": {name: copied(_STREAMS[name]) for name in _STREAMS},
    }


def load_tables(saved: Json) -> None:
    """Put back what `save_tables` gave; it may be put back again."""
    reset_tables()
    for name, found in saved["items"].items():
        _TABLES[name]["items"].update(copied(found))
    for name, records in saved["streams"].items():
        _STREAMS[name] = copied(records)


_REQUESTS = blueprint.table_requests()

# ---- What the functions' own clients meet --------------------------------------------------------------------

_SERVICES = {"dynamodb": "dynamodb", "events": "events", "sqs": "sqs", "sfn": "stepfunctions", "s3": "s3"}
_THROTTLED = {
    "dynamodb": "ProvisionedThroughputExceededException",
    "events": "ThrottlingException",
    "sqs": "RequestThrottled",
    "stepfunctions": "ThrottlingException",
    "s3": "SlowDown",
}

receivers: dict[str, Callable[[str, Json], Json]] = {}
"""What answers for a service other than DynamoDB: takes operation and request."""


@dataclass
class Outage:
    """What becomes of every call, or of the next so many, whatever a story says of the single call."""

    verdict: Verdict
    calls: float = math.inf


outages: dict[str, Outage] = {}
"""By service, or by service and operation (`dynamodb.PutItem`); until it is mended."""


def _verdict(service: str, operation: str) -> Verdict:
    stepped = pause(f"{service}.{operation}")
    for name in (f"{service}.{operation}", service):
        outage = outages.get(name)
        if outage and outage.calls > 0:
            outage.calls -= 1
            return outage.verdict
    return stepped


def _carry_out(service: str, operation: str, request: Json) -> Json:
    if service == "dynamodb":
        return table(operation, request)
    return receivers[service](operation, request)


def call(service: str, operation: str, request: Json) -> Json:
    """One call of a function's to a service, with whatever fault is put in its way. Raises `ServiceError`."""
    match _verdict(service, operation):
        case Verdict.CRASH:
            raise Crash
        case Verdict.REFUSED:
            raise ServiceError(_THROTTLED[service], "Rate exceeded")
        case Verdict.LOST:
            _carry_out(service, operation, request)
            raise ReadTimeoutError(endpoint_url=service)
        case Verdict.TWICE:
            _carry_out(service, operation, request)
        case Verdict.CONFLICT if operation == "TransactWriteItems":
            raise conflict(len(request["TransactItems"]))
        case Verdict.CONFLICT if service == "dynamodb" and operation in ("PutItem", "UpdateItem", "DeleteItem"):
            raise ServiceError("TransactionConflictException", "Transaction is ongoing for the item")
        case Verdict.PARTIAL if operation == "PutEvents" and request["Entries"]:
            taken = _carry_out(service, operation, {**request, "Entries": request["Entries"][:-1]})
            return {**taken, "Entries": [*taken["Entries"], {"ErrorCode": "InternalFailure", "ErrorMessage": ""}]}
    return _carry_out(service, operation, request)


def _answer(model: Any, params: Json, **_: Any) -> tuple[Any, Json]:
    """botocore's `before-call`: the request is built and checked as ever, then answered here."""
    service = _SERVICES[str(model.service_model.service_name).replace("stepfunctions", "sfn")]
    if service == "s3":
        request: Json = {"path": params["url_path"], "body": params["body"]}
    else:
        request = json.loads(params["body"])
    try:
        return SimpleNamespace(status_code=200), call(service, model.name, request)
    except ServiceError as error:
        parsed = {"Error": {"Code": error.code, "Message": error.message}, "ResponseMetadata": {}, **error.more}
        return SimpleNamespace(status_code=400), parsed


_counter = itertools.count(1)


def new_id(prefix: str) -> str:
    """An id that is the same in every run that does the same."""
    return f"{prefix}-{next(_counter)}"


def _uuid4() -> uuid.UUID:
    return uuid.UUID(int=next(_counter), version=4)


def reset_ids() -> None:
    """Begin again with the first id."""
    global _counter  # noqa: PLW0603
    _counter = itertools.count(1)


def prepare() -> None:
    """Set the environment that the functions find, before any of their modules is imported."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(blueprint.environment_of())
    os.environ.update(
        AWS_ACCESS_KEY_ID="proof",
        AWS_SECRET_ACCESS_KEY="proof",
        AWS_DEFAULT_REGION="us-east-1",
        LOG_LEVEL="CRITICAL",
        POWERTOOLS_TRACE_DISABLED="true",
        POWERTOOLS_METRICS_DISABLED="true",
        POWERTOOLS_METRICS_NAMESPACE="proof",
    )
    uuid.uuid4 = _uuid4  # else the same story would give other order ids each time
    botocore.handlers.BUILTIN_HANDLERS.append(("before-call", _answer))  # every client made from here on
    reset_tables()
