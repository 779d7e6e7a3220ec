"""AWS in memory for the commands: moto where it behaves as AWS, small fakes for the rest."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import boto3
import httpx
import msgspec
import pytest
from moto import mock_aws
from typer.testing import CliRunner

from orderctl import interrupts
from orderctl.main import app
from orderctl.stack import rest, signin
from orderctl.stack.target import Target
from orders.domain.clock import timestamp
from orders.inbox.record import Action, FailureRecord, FailureStatus, Kind, Redrive
from orders.storage.dynamodb import to_item
from tests.integration.world import REGION, World

ACCOUNT = "123456789012"
QUEUE = f"arn:aws:sqs:{REGION}:{ACCOUNT}:NotificationsQueue"
MACHINE = f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:order-express"
STACK = "orders-test"
COMPONENTS = (
    "AcceptOrder",
    "PublishEvents",
    "ValidateOrder",
    "ProcessPayment",
    "ShipOrder",
    "SweepOrders",
    "OrderWorkflow",
)


@dataclass
class Logs:
    """CloudWatch Logs: FilterLogEvents page by page."""

    most: int = 10_000
    groups: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    calls: int = 0

    class exceptions:  # noqa: N801 - as boto3 has it
        class ResourceNotFoundException(Exception):
            pass

    def add(self, component: str, at_ms: int, entry: dict[str, Any] | str) -> None:
        """Log an entry of a component."""
        message = entry if isinstance(entry, str) else json.dumps(entry)
        events = self.groups.setdefault(group_of(component), [])
        events.append({"timestamp": at_ms, "message": message, "logStreamName": "s", "eventId": f"{len(events)}"})

    def filter_log_events(
        self,
        *,
        logGroupName: str,  # noqa: N803
        filterPattern: str = "",  # noqa: N803
        startTime: int = 0,  # noqa: N803
        endTime: int = 2**62,  # noqa: N803
        nextToken: str = "0",  # noqa: N803
    ) -> dict[str, Any]:
        """One page of the events that hold the phrase, in the order of time."""
        self.calls += 1
        phrase = filterPattern.strip('"')
        known = sorted(self.groups.get(logGroupName, []), key=lambda event: event["timestamp"])
        fitting = [e for e in known if startTime <= e["timestamp"] <= endTime and phrase in e["message"]]
        first = int(nextToken)
        page = {"events": fitting[first : first + self.most]}
        if len(fitting) > first + self.most:
            return {**page, "nextToken": str(first + self.most)}
        return page


class Stacks:
    """CloudFormation with one stack's log groups."""

    def get_paginator(self, _: str) -> Any:
        """Return what pages list_stack_resources."""
        return self

    def paginate(self, **_: Any) -> list[dict[str, Any]]:
        """Return its one page."""
        return [
            {
                "StackResourceSummaries": [
                    {
                        "ResourceType": "AWS::Logs::LogGroup",
                        "LogicalResourceId": f"{component}Logs",
                        "PhysicalResourceId": group_of(component),
                    }
                    for component in COMPONENTS
                ]
            }
        ]


def group_of(component: str) -> str:
    return f"/test/{component}"


@pytest.fixture
def world() -> Iterator[World]:
    with mock_aws():
        yield World()


@pytest.fixture
def logs() -> Logs:
    return Logs()


@pytest.fixture
def target(world: World, logs: Logs, monkeypatch: pytest.MonkeyPatch) -> Target:
    """A stack in memory, which every command takes for the one that was named."""
    queues = {
        f"{name}Url": f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{name}"
        for name in ("FulfilmentQueue", "NotificationsQueue", "FailuresQueue")
    }
    outputs = {
        "FailuresTable": "FailuresTable",
        "FailedPayloadsBucket": "failed-payloads-bucket",
        "OrdersTable": "OrdersTable",
        "CatalogueTable": "CatalogueTable",
        "FulfilmentQueueArn": QUEUE.replace("Notifications", "Fulfilment"),
        "EventBusName": f"{STACK}-orders",
        "StateMachineArn": MACHINE,
        "SweepOrdersFunction": "sweep-orders",
        "PublishEventsFunction": "publish-events",
        "SelfHealing": "true",
        **queues,
    }
    found = Target(f"stack {STACK}", outputs, "https://api.test/v1", boto3.session.Session(region_name=REGION))
    found._clients.update(logs=logs, cloudformation=Stacks())
    monkeypatch.setattr("orderctl.stack.target.choose", lambda *_: found)
    return found


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command; returns exit code, stdout and stderr."""
    monkeypatch.setattr(interrupts, "install", lambda: None)  # the test run keeps its own signal handlers
    for name in ("ORDERCTL_USERNAME", "ORDERCTL_PASSWORD", "ORDERCTL_STACK", "ORDERCTL_NAME"):
        monkeypatch.delenv(name, raising=False)

    def invoke(*arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, list(arguments))
        return result.exit_code, result.stdout, result.stderr

    return invoke


def store_failure(world: World, failure_id: str = "3f0c9a1b" + "0" * 12, **changes: Any) -> str:
    """Store a failure; returns its id."""
    record = FailureRecord(
        failure_id=failure_id,
        kind=Kind.QUEUE,
        component="NotificationsQueue",
        resource_arn=QUEUE,
        error_name="MailRefused",
        error_message="no",
        occurrence="message-1",
        redrive=Redrive(Action.SEND, QUEUE),
        payload="the mail",
        status=FailureStatus.NEW,
        first_seen_at=timestamp(),
        last_seen_at=timestamp(),
    )
    record = msgspec.structs.replace(record, **changes)
    world.dynamodb.put_item(TableName="FailuresTable", Item=to_item(msgspec.to_builtins(record)))
    return record.failure_id


class Shop:
    """The REST API: orders by idempotency key, cancelled until they are paid."""

    def __init__(self) -> None:
        self.by_key: dict[str, str] = {}
        self.orders: dict[str, dict[str, Any]] = {}
        self.cancellations = 0

    def answer(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        match request.method, request.url.path.removeprefix("/v1").split("/")[1:]:
            case "POST", ["orders"]:
                return self._accept(request)
            case "POST", ["orders", order_id, "cancel"]:
                return self._cancel(order_id)
            case "GET", ["orders", order_id]:
                return httpx.Response(200, json=self.orders[order_id])
            case "GET", ["orders"]:
                limit = int(request.url.params["limit"])
                return httpx.Response(200, json={"orders": list(self.orders.values())[:limit]})
        return httpx.Response(404, json={"detail": "nothing here"})

    def _accept(self, request: httpx.Request) -> httpx.Response:
        try:
            body = json.loads(request.content)
        except ValueError:
            return httpx.Response(400, json={"detail": "the body is no JSON"})
        if "currency" not in body:
            errors = [{"pointer": "/currency", "detail": "required"}]
            return httpx.Response(422, json={"detail": "fields can't be accepted", "errors": errors})
        key = request.headers["Idempotency-Key"]
        known = key in self.by_key
        order_id = self.by_key.setdefault(key, f"{len(self.by_key):08x}-8837-5660-bdcc-55f6d2f706b0")
        if not known:
            self.orders[order_id] = an_order(orderId=order_id)
        headers = {"Idempotency-Replayed": "true"} if known else {}
        return httpx.Response(202, json={"orderId": order_id, "status": "PLACED"}, headers=headers)

    def _cancel(self, order_id: str) -> httpx.Response:
        order = self.orders.get(order_id)
        if order is None:
            return httpx.Response(404, json={"detail": "you have no such order"})
        if order["status"] not in {"PLACED", "RESERVED", "CANCELLED"}:
            detail = f"the order is {order['status']}: it is too late to cancel it"
            return httpx.Response(409, json={"detail": detail})
        if order["status"] != "CANCELLED":
            self.cancellations += 1
            order["status"] = "CANCELLED"
        return httpx.Response(202, json={"orderId": order_id, "status": "CANCELLED"})


def an_order(**changes: Any) -> dict[str, Any]:
    """An order as the API shows it."""
    now = timestamp()
    return {
        "orderId": "694e228d-8218-51d2-a18e-3e00fd0aa7a7",
        "status": "PLACED",
        "placedAt": now,
        "updatedAt": now,
        "currency": "EUR",
        "lines": [{"sku": "TEA-ASSAM-250", "quantity": 1}],
        "shippingAddress": {"name": "Ada", "line1": "1", "city": "London", "postalCode": "W1", "country": "GB"},
        "correlationId": "c",
        "timeline": [{"at": now, "what": "PLACED"}],
        **changes,
    }


class Tokens:
    """A customer who is signed in."""

    username = "ada@example.com"

    def current(self) -> str:
        """Return the token."""
        return "token"


@pytest.fixture
def shop(target: Target, monkeypatch: pytest.MonkeyPatch) -> Shop:
    found = Shop()
    monkeypatch.setattr(rest, "_transport", lambda _: httpx.MockTransport(found.answer))
    monkeypatch.setattr(signin, "token_source", lambda *_: Tokens())
    return found
