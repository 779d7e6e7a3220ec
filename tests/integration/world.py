"""The resources that the functions use, in memory, with the keys and indexes of the real template."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import msgspec

from orders.domain.order import Order, place
from orders.domain.request import OrderRequest
from orders.storage.dynamodb import from_item, to_item
from orders.storage.orders import OrdersTable, open_shard_of
from tests.template.cloudformation import load_raw

REGION = "us-east-1"
QUEUES = "https://sqs.us-east-1.amazonaws.com/123456789012"
EVENTS = Path(__file__).parents[2] / "events"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": REGION,
    "POWERTOOLS_TRACE_DISABLED": "true",
    "POWERTOOLS_SERVICE_NAME": "orders",
    "POWERTOOLS_METRICS_NAMESPACE": "OrderPipeline",
    "LOG_LEVEL": "INFO",
    "ORDERS_TABLE": "OrdersTable",
    "CATALOGUE_TABLE": "CatalogueTable",
    "PAYMENTS_TABLE": "PaymentsTable",
    "SHIPMENTS_TABLE": "ShipmentsTable",
    "FAILURES_TABLE": "FailuresTable",
    "IDEMPOTENCY_TABLE": "IdempotencyTable",
    "EVENT_BUS_NAME": "OrdersBus",
    "FULFILMENT_QUEUE_URL": f"{QUEUES}/FulfilmentQueue",
    "NOTIFICATIONS_QUEUE_URL": f"{QUEUES}/NotificationsQueue",
    "FAILURES_QUEUE_URL": f"{QUEUES}/FailuresQueue",
    "RECEIPTS_BUCKET": "receipts-bucket",
    "FAILED_PAYLOADS_BUCKET": "failed-payloads-bucket",
    "PAYMENT_PROVIDER": "simulated",
    "WAREHOUSE": "simulated",
    "MAILER": "simulated",
    "FULFILMENT_QUEUE_ARN": "arn:aws:sqs:us-east-1:123456789012:FulfilmentQueue",
    "STATE_MACHINE_ARN": "arn:aws:states:us-east-1:123456789012:stateMachine:order-workflow",
    "ORDER_PROMISE_SECONDS": "600",
    "WAREHOUSE_PROMISE_SECONDS": "1800",
    "RESERVATION_EXPIRY_SECONDS": "86400",
    "SWEEP_RESTARTS": "100",
    "BEHIND_ALARMS": "EventsLateAlarm,FailureCaptureLateAlarm",
    "FULFILMENT_BEHIND_ALARM": "FulfilmentLateAlarm",
}


@cache
def _tables() -> dict[str, dict[str, Any]]:
    resources: dict[str, dict[str, Any]] = load_raw()["Resources"]
    wanted = ("AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes", "BillingMode")
    tables = {
        name: {key: value for key, value in resource["Properties"].items() if key in wanted}
        for name, resource in resources.items()
        if resource["Type"] == "AWS::DynamoDB::Table"
    }
    for properties in tables.values():
        if indexes := properties.get("GlobalSecondaryIndexes"):
            # An index under a condition is there for the update from 1.0.0 only. moto takes no warm throughput.
            properties["GlobalSecondaryIndexes"] = [
                {name: value for name, value in index.items() if name != "WarmThroughput"}
                for index in indexes
                if "IndexName" in index
            ]
    return tables


@cache
def _client(service: str) -> Any:
    """One for all tests: making it takes longer than most of them."""
    return boto3.session.Session().client(service)  # type: ignore[call-overload]


@dataclass
class LambdaContext:
    """What Powertools reads of a function's context."""

    function_name: str = "function"
    memory_limit_in_mb: int = 512
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:123456789012:function:function"
    aws_request_id: str = "0e5a0b0c-6f3f-4a4e-8f5e-1c2d3e4f5a6b"

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


class World:
    """The resources, made anew for each test, and what a test asks of them."""

    def __init__(self) -> None:
        self.dynamodb, self.sqs, self.s3 = _client("dynamodb"), _client("sqs"), _client("s3")
        for name, properties in _tables().items():
            self.dynamodb.create_table(TableName=name, **properties)
        for queue in ("FulfilmentQueue", "NotificationsQueue", "FailuresQueue"):
            self.sqs.create_queue(QueueName=queue)
        for bucket in ("receipts-bucket", "failed-payloads-bucket"):
            self.s3.create_bucket(Bucket=bucket)
        _client("events").create_event_bus(Name="OrdersBus")
        self.orders = OrdersTable(self.dynamodb, "OrdersTable", "CatalogueTable")

    def items(self, table: str) -> list[dict[str, Any]]:
        """All that a table holds."""
        return [from_item(item) for item in self.dynamodb.scan(TableName=table)["Items"]]

    def put(self, table: str, **fields: Any) -> None:
        """Put an item."""
        self.dynamodb.put_item(TableName=table, Item=to_item(fields))

    def store(self, order: Order) -> Order:
        """Put an order as it is."""
        self.dynamodb.put_item(TableName="OrdersTable", Item=to_item(msgspec.to_builtins(order)))
        return order

    def order(self, order: Order) -> Order:
        """The order as it is now."""
        found = self.orders.get(order.customer_id, order.order_id, consistent=True)
        assert found is not None
        return found

    def messages(self, queue: str) -> list[str]:
        """The bodies of the messages in a queue."""
        answer = self.sqs.receive_message(
            QueueUrl=f"{QUEUES}/{queue}", MaxNumberOfMessages=10, VisibilityTimeout=0, WaitTimeSeconds=0
        )
        return [message["Body"] for message in answer.get("Messages", [])]


def function(name: str) -> Any:
    """The module of a function; to be imported when the environment is set."""
    return importlib.import_module(f"orders.functions.{name}")


def invoke(name: str, event: Any) -> Any:
    """Run a function's handler."""
    return function(name).handler(event, LambdaContext())


def sample(name: str) -> dict[str, Any]:
    """A sample event, such as `accept_order/accepted`."""
    event: dict[str, Any] = json.loads((EVENTS / f"{name}.json").read_text())
    return event


def an_order(**changes: Any) -> Order:
    """A PLACED order of two assam teas and a cup, as the samples know it; `changes` to its fields."""
    body = json.loads(sample("accept_order/accepted")["body"])
    order = place(
        msgspec.convert(body, OrderRequest),
        customer_id=changes.pop("customer_id", "5b6a0f7e-4c0d-4f7a-9e6b-2d8f1c3a7b90"),
        email=changes.pop("email", "ada@example.com"),
        order_id=changes.pop("order_id", "694e228d-8218-51d2-a18e-3e00fd0aa7a7"),
        correlation_id=changes.pop("correlation_id", "correlation-1"),
        request_hash=changes.pop("request_hash", "hash"),
    )
    order.open_shard = open_shard_of(order.order_id)
    return msgspec.structs.replace(order, **changes)
