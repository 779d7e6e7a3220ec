"""Faults on request: DynamoDB API reference, "TransactWriteItems"; Lambda developer guide, "Concurrency"."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError

from conformance.support import LocalCloud, unique

SLOW = """
    import time

    def handler(event, context):
        time.sleep(2)
"""


def ask(cloud: LocalCloud, faults: Any) -> int:
    """Ask for faults and return the HTTP status of the answer."""
    request = urllib.request.Request(
        f"{cloud.endpoint}/_localcloud/faults", json.dumps(faults).encode(), method="POST"
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture
def table(cloud: LocalCloud) -> Iterator[str]:
    name = unique("table")
    cloud.client("dynamodb").create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
    )
    yield name
    ask(cloud, {})


def write(cloud: LocalCloud, table: str) -> None:
    cloud.client("dynamodb").transact_write_items(
        TransactItems=[{"Put": {"TableName": table, "Item": {"id": {"S": "1"}}}}]
    )


def test_transactions_conflict_until_they_are_asked_not_to(cloud: LocalCloud, table: str) -> None:
    # GIVEN each transaction on the table conflicts
    assert ask(cloud, {"transactionConflicts": {table: 1.0}}) == 200

    # THEN a transaction is cancelled as AWS documents, and writes nothing
    with pytest.raises(ClientError) as refused:
        write(cloud, table)
    assert refused.value.response["Error"]["Code"] == "TransactionCanceledException"
    assert refused.value.response["CancellationReasons"][0]["Code"] == "TransactionConflict"
    assert cloud.client("dynamodb").scan(TableName=table)["Count"] == 0

    # UNTIL that ends
    assert ask(cloud, {}) == 200
    write(cloud, table)


def test_an_account_has_as_many_executions_at_once_as_it_was_given(cloud: LocalCloud, table: str) -> None:
    # GIVEN an account with one
    function = cloud.function(SLOW)
    ask(cloud, {"accountConcurrency": 1})

    def outcome() -> str:
        try:
            cloud.client("lambda").invoke(FunctionName=function)
        except ClientError as error:
            return str(error.response["Error"]["Code"])
        return "done"

    # WHEN two invocations meet
    cloud.client("lambda")  # making a client is not thread-safe
    with ThreadPoolExecutor(2) as pool:
        met = list(pool.map(lambda _: outcome(), range(2)))

    # THEN one is throttled
    assert sorted(met) == ["TooManyRequestsException", "done"]


@pytest.mark.parametrize(
    "faults",
    [[], {"other": 1}, {"transactionConflicts": {"t": 2}}, {"transactionConflicts": 1}, {"accountConcurrency": 0}],
    ids=json.dumps,
)
def test_what_is_no_fault_is_refused(cloud: LocalCloud, faults: Any) -> None:
    assert ask(cloud, faults) == 400
