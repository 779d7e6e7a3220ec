"""Faults that a test asks for, which one server with one user never has by itself."""

import json
import math
import random
from typing import Any

from ministack import app
from ministack.services import dynamodb, lambda_svc

from localcloud.patching import Correction, internal, replace
from localcloud.settings import Settings

JsonObject = dict[str, Any]

PATH = "/_localcloud/faults"
CONFLICTS = "transactionConflicts"
CONCURRENCY = "accountConcurrency"


def refusal_of(wanted: Any) -> str:
    """Return why these are no faults, or an empty string."""
    if not isinstance(wanted, dict) or not wanted.keys() <= {CONFLICTS, CONCURRENCY}:
        return f"send an object with {CONFLICTS}, {CONCURRENCY}, both or neither"
    conflicts = wanted.get(CONFLICTS, {})
    shares = conflicts.values() if isinstance(conflicts, dict) else [None]
    if not all(isinstance(share, int | float) and math.isfinite(share) and 0 <= share <= 1 for share in shares):
        return f"{CONFLICTS} is an object: a share from 0 to 1 by the name of a table"
    limit = wanted.get(CONCURRENCY)
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        return f"{CONCURRENCY} is a whole number from 1"
    return ""


def cancelled(conflicts: dict[str, float], items: Any) -> tuple[int, dict[str, str], bytes] | None:
    """Return the answer to a transaction that meets others on its items, or None if it meets none."""
    tables = [next(iter(item.values())).get("TableName", "") for item in items]
    reasons = [
        {"Code": "TransactionConflict", "Message": "Transaction is ongoing for the item"}
        if random.random() < conflicts.get(table.rpartition("/")[2], 0.0)
        else {"Code": "None"}
        for table in tables
    ]
    codes = [reason["Code"] for reason in reasons]
    if "TransactionConflict" not in codes:
        return None
    name = "TransactionCanceledException"
    text = f"Transaction cancelled, please refer cancellation reasons for specific reasons [{', '.join(codes)}]"
    body = {"__type": name, "Message": text, "CancellationReasons": reasons}
    headers = {"Content-Type": "application/x-amz-json-1.0", "x-amzn-errortype": name}
    return 400, headers, json.dumps(body).encode()


def install(_: Settings) -> None:
    """Take requests for faults, and let transactions conflict as asked."""
    configure = internal(app, "_handle_admin_config_request")
    transact = internal(dynamodb, "_transact_write_items")
    shipped_limit: int = internal(lambda_svc, "_ACCOUNT_CONCURRENCY_CAP")
    conflicts: dict[str, float] = {}

    async def handle_admin_config_request(path: str, method: str, body: bytes) -> Any:
        if path != PATH or method != "POST":
            return await configure(path, method, body)
        headers = {"Content-Type": "application/json"}
        try:
            wanted = json.loads(body or b"{}")
        except ValueError:
            wanted = None
        if reason := refusal_of(wanted):
            return 400, headers, json.dumps({"message": reason}).encode()
        conflicts.clear()
        conflicts.update(wanted.get(CONFLICTS, {}))
        replace(lambda_svc, "_ACCOUNT_CONCURRENCY_CAP", wanted.get(CONCURRENCY) or shipped_limit)
        return 200, headers, json.dumps(wanted).encode()

    def transact_write_items(data: JsonObject) -> Any:
        answer = cancelled(conflicts, data.get("TransactItems") or []) if conflicts else None
        return answer or transact(data)

    replace(app, "_handle_admin_config_request", handle_admin_config_request)
    replace(dynamodb, "_transact_write_items", transact_write_items)


CORRECTIONS = (
    Correction(
        name="faults",
        service="DynamoDB, Lambda",
        aws=(
            "A transaction that meets another one on an item is cancelled with TransactionConflict. The functions of "
            "an account share a limit of concurrent executions."
        ),
        ministack="Transactions run one by one. The limit is fixed.",
        here=(
            "`POST /_localcloud/faults` sets both until the next request or stop: "
            '`{"transactionConflicts": {"a-table": 0.2}, "accountConcurrency": 50}`. The share is that of writes to '
            "the table in transactions."
        ),
        install=install,
    ),
)
