"""What every function owes to who operates it: traces without contents, log lines with a name, numbers for alarms."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from orders.domain.order import Status
from tests.integration.test_samples import FUNCTIONS, outcome, shop
from tests.integration.world import World, an_order, function, invoke, sample

__all__ = ["shop"]  # a fixture

Logs = Callable[[], list[dict[str, Any]]]
GOOD = {
    "accept_order": "accepted",
    "cancel_shipment": "called-off",
    "capture_failure": "rule-target",
    "heal_failures": "scheduled",
    "issue_receipt": "order-fulfilled",
    "notify_customer": "order-fulfilled",
    "process_payment": "charged",
    "publish_events": "order-placed",
    "query_orders": "get-order",
    "refund_payment": "order-cancelled",
    "ship_order": "order-paid",
    "sweep_orders": "scheduled",
    "validate_order": "order-placed",
}


def test_every_function_is_looked_at() -> None:
    assert sorted(GOOD) == FUNCTIONS


# ---- Traces


class Segment:
    def __init__(self) -> None:
        self.annotations: dict[str, Any] = {}
        self.metadata: list[Any] = []

    def put_annotation(self, key: str, value: Any) -> None:
        self.annotations[key] = value

    def put_metadata(self, **metadata: Any) -> None:
        self.metadata.append(metadata)


class Traces:
    """X-Ray; keeps the segments by name."""

    def __init__(self) -> None:
        self.segments: dict[str, Segment] = {}

    @contextmanager
    def in_subsegment(self, name: str) -> Iterator[Segment]:
        self.segments[name] = Segment()
        yield self.segments[name]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_invocation_is_traced_without_what_it_answered(
    shop: World, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    traces = Traces()
    monkeypatch.setattr(function(name).tracer, "provider", traces)

    outcome(f"{name}/{GOOD[name]}")

    segment = traces.segments["## handler"]
    assert segment.annotations["Service"] == "orders"
    assert segment.metadata == []


# ---- Log lines


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_log_line_names_function_and_invocation_but_nothing_that_never_changes(
    shop: World, logs: Logs, name: str
) -> None:
    outcome(f"{name}/{GOOD[name]}")
    function(name).logger.info("afterwards")

    for line in logs():
        assert (line["function_name"], line["service"]) == ("function", "orders")
        assert line["function_request_id"] == "0e5a0b0c-6f3f-4a4e-8f5e-1c2d3e4f5a6b"
        assert not {"function_arn", "function_memory_size"} & line.keys()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_log_line_bears_nothing_of_the_invocation_before(shop: World, logs: Logs, name: str) -> None:
    function(name).logger.append_keys(of_the_one_before="x")

    outcome(f"{name}/{GOOD[name]}")
    function(name).logger.info("afterwards")

    assert not [line for line in logs() if "of_the_one_before" in line]


NAMED = {
    "accept_order": ("order_id", "correlation_id"),
    "cancel_shipment": ("order_id", "correlation_id"),
    "issue_receipt": ("order_id", "correlation_id"),
    "process_payment": ("order_id", "correlation_id", "attempt"),
    "query_orders": ("order_id", "correlation_id"),
    "refund_payment": ("order_id", "correlation_id"),
    "validate_order": ("order_id", "correlation_id"),
}


@pytest.mark.parametrize("name", NAMED)
def test_a_log_line_of_an_order_says_which_and_in_which_context(shop: World, logs: Logs, name: str) -> None:
    outcome(f"{name}/{GOOD[name]}")
    function(name).logger.info("afterwards")

    last = logs()[-1]
    assert [key for key in NAMED[name] if last.get(key) in (None, "")] == []


def test_what_json_cannot_say_is_logged_as_text(world: World, logs: Logs) -> None:
    function("accept_order").logger.info("odd", extra={"what": {1, 2}, "error": ValueError("x")})

    (line,) = logs()
    assert line["error"] == "x"


# ---- Numbers


def counted(capsys: pytest.CaptureFixture[str]) -> dict[str, list[float]]:
    """The metrics in what was printed."""
    found: dict[str, list[float]] = {}
    for text in capsys.readouterr().out.splitlines():
        line = json.loads(text) if text.startswith("{") else {}
        for metrics in line.get("_aws", {}).get("CloudWatchMetrics", []):
            assert (metrics["Namespace"], line["service"]) == ("OrderPipeline", "orders")
            for metric in metrics["Metrics"]:
                assert metric["Unit"] == "Count"
                found.setdefault(metric["Name"], []).extend(line[metric["Name"]])
    return found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accept_order/accepted", {"OrderReplayed": [1]}),
        ("accept_order/bad-fields", {"RequestRefused": [1]}),
        ("capture_failure/rule-target", {"FailureCaptured": [1]}),
        (
            "heal_failures/scheduled",
            {"FailuresForHumans": [0]},
        ),
        ("issue_receipt/order-fulfilled", {"ReceiptIssued": [1]}),
        ("notify_customer/order-fulfilled", {"MailSent": [1]}),
        ("process_payment/charged", {"OrderPaid": [1]}),
        ("publish_events/order-placed", {"EventsPublished": [1]}),
        ("publish_events/unreadable", {"RecordsParked": [1], "EventsPublished": [0]}),
        ("ship_order/order-paid", {"OrderShipped": [1]}),
        ("sweep_orders/scheduled", {"OrdersRestarted": [0]}),
    ],
)
def test_what_was_done_is_counted(
    shop: World, capsys: pytest.CaptureFixture[str], name: str, expected: dict[str, list[float]]
) -> None:
    capsys.readouterr()
    outcome(name)
    assert counted(capsys) == expected


def test_a_new_order_is_counted_as_accepted(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    invoke("accept_order", sample("accept_order/accepted"))
    assert counted(capsys) == {"OrderAccepted": [1]}


def test_a_cancellation_is_counted(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    order = world.store(an_order())
    event = sample("query_orders/cancel-too-late")
    path = f"/orders/{order.order_id}/cancel"
    event["path"], event["requestContext"]["path"] = path, f"/v1{path}"
    event["requestContext"]["authorizer"]["claims"]["sub"] = order.customer_id

    assert invoke("query_orders", event)["statusCode"] == 202

    assert counted(capsys) == {"OrderCancelled": [1]}


def test_a_refund_is_counted_once_it_is_one(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    order = world.store(an_order(status=Status.CANCELLED))
    function("process_payment")._provider.charge(order.order_id, 1, "EUR", "tok_visa")
    ids = {"customerId": order.customer_id, "orderId": order.order_id, "correlationId": "c"}

    invoke("refund_payment", ids)
    assert counted(capsys) == {"PaymentRefunded": [1]}

    invoke("refund_payment", {**ids, "orderId": "another"})
    assert counted(capsys) == {}


def test_an_attempt_to_charge_that_fails_is_counted(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    event = {**sample("process_payment/charged"), "paymentMethod": "tok_provider_down_1", "orderId": "another"}

    with pytest.raises(Exception, match="503"):
        invoke("process_payment", event)

    assert counted(capsys) == {"PaymentAttemptFailed": [1]}


# ---- Services


@pytest.mark.parametrize(
    ("name", "attribute", "service"),
    [
        ("capture_failure", "_sqs", "sqs"),
        ("capture_failure", "_streams", "dynamodb-streams"),
        ("issue_receipt", "_s3", "s3"),
        ("notify_customer", "_sqs", "sqs"),
        ("publish_events", "_events", "eventbridge"),
        ("publish_events", "_sqs", "sqs"),
        ("ship_order", "_sqs", "sqs"),
        ("sweep_orders", "_workflows", "sfn"),
    ],
)
def test_each_function_talks_to_the_service_that_it_means(name: str, attribute: str, service: str) -> None:
    client = getattr(function(name), attribute)
    assert client.meta.service_model.service_id.hyphenize() == service


@pytest.mark.parametrize("name", ["capture_failure", "heal_failures", "sweep_orders"])
def test_the_inbox_has_table_and_bucket(name: str) -> None:
    inbox = function(name)._failures
    services = [client.meta.service_model.service_id.hyphenize() for client in (inbox._client, inbox._s3)]
    assert services == ["dynamodb", "s3"]


# ---- Before the snapshot


def test_priming_goes_the_way_of_a_real_order_in_the_name_of_nobody(world: World) -> None:
    # GIVEN a DynamoDB in memory, which answers before priming's own answer does
    function("accept_order")._prime()

    (item,) = world.items("OrdersTable")
    known = {name: item[name] for name in ("customerId", "correlationId", "requestHash", "status", "lines")}
    assert known == {
        "customerId": "-",
        "correlationId": "-",
        "requestHash": "-",
        "status": "PLACED",
        "lines": [{"sku": "0", "quantity": 1}],
    }
    assert "email" not in item
