from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from measure import cost, template, usage
from measure.cost import Assumptions, Design, Prices
from orderctl.exits import Stop

PRICES = cost.load_prices()
COUNTED = cost.load_usage()
NOTHING_ASSUMED = Assumptions(duration_factor=1, cold_share=0, traced_share=0, log_storage_months=0, storage_months=0)


def an_order() -> dict[str, Any]:
    """Counts that are easy to work out by head."""
    return {
        "api": {"requests": 1, "responseBytes": 0},
        "functions": {
            "AcceptOrder": _function(1, 10, platform=100, application=200),
            "PublishEvents": _function(4, 40, platform=400, metrics=400),
            "NotifyCustomer": _function(2, 20, platform=200),
        },
        "workflow": {
            "executions": 1,
            "transitions": 5,
            "seconds": 0.25,
            "states": {},
            "calls": {},
            "logBytes": 2000,
        },
        "events": {"published": 4, "bytes": 0},
        "queues": {"FulfilmentQueue": 1, "NotificationsQueue": 2},
        "objects": {"puts": 1},
        "writeUnits": {"OrdersTable": 6},
        "readUnits": {"OrdersTable": 1},
        "stream": {"records": 4},
        "storage": {"orderBytes": 900},
    }


def _function(invocations: int, milliseconds: float, **log_bytes: int) -> dict[str, Any]:
    return {
        "invocations": invocations,
        "durationMs": milliseconds,
        "memoryMb": 512,
        "logBytes": log_bytes,
        "calls": {},
    }


def dollars(what: str, design: Design | None = None, assumptions: Assumptions = NOTHING_ASSUMED) -> float:
    lines = cost.bill(an_order(), PRICES, design or Design(), assumptions)
    return sum(line.per_million for line in lines if what in (line.service, line.what))


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("Step Functions", 1 + 0.3 * 64 / 1024 * 16.67),  # an execution, and three steps of 100 ms of 64 MB
        ("REST requests", 3.5),
        ("events", 4.0),
        ("SQS", 3.6),  # 3 messages x (send, receive, delete) x $0.40
        ("PUT requests", 5.0),
        ("OrdersTable: write units", 3.75),  # 6 x $0.625
        ("OrdersTable: read units", 0.125),
        ("PublishEvents: requests", 0.8),
        ("PublishEvents: GB-seconds", 0.04 * 0.5 * 13.3334),
    ],
)
def test_line_is_units_times_list_price(what: str, expected: float) -> None:
    assert dollars(what) == pytest.approx(expected)


def test_log_bytes_are_billed_by_the_gigabyte() -> None:
    assert dollars("CloudWatch Logs") == pytest.approx(1300 * 1_000_000 / 1024**3 * 0.5)


def test_durations_are_scaled_by_the_stated_factor_and_cold_starts_added() -> None:
    # GIVEN
    assumptions = Assumptions(duration_factor=3, cold_share=0.1, cold_start_ms=1000, traced_share=0)

    # WHEN
    found = dollars("AcceptOrder: GB-seconds", assumptions=assumptions)

    # THEN 10 ms x 3 and a tenth of a second, at half a GB
    assert found == pytest.approx((0.03 + 0.1) * 0.5 * 13.3334)


@pytest.mark.parametrize(
    ("design", "what", "expected"),
    [
        (Design(architecture="x86_64"), "PublishEvents: GB-seconds", 0.04 * 0.5 * 16.6667),
        (Design(api="http"), "API Gateway", 1.0),
        (Design(workflow="standard"), "Step Functions", 125.0),  # 5 x $25
        (Design(workflow_log="ALL"), "workflow: bytes", 2000 * 1_000_000 / 1024**3 * 0.5),
        (Design(stream_batch=10), "PublishEvents: requests", 0.08),
        (Design(queue_batch=10), "SQS", 3 * 1.2 * 0.4),
        (Design(receipts="table"), "S3", 0.0),
        (Design(receipts="table"), "ReceiptsTable: write units", 0.625),
        (Design(notified="all"), "NotificationsQueue: send, receive, delete", 4.8),
        (Design(log_level="WARNING"), "AcceptOrder: bytes", 100 * 1_000_000 / 1024**3 * 0.5),
        (Design(platform_logs=False), "AcceptOrder: bytes", 200 * 1_000_000 / 1024**3 * 0.5),
    ],
)
def test_what_if_changes_its_line(design: Design, what: str, expected: float) -> None:
    assert dollars(what, design) == pytest.approx(expected)


def test_another_design_leaves_the_counts_alone() -> None:
    # GIVEN
    counted = an_order()
    before = copy.deepcopy(counted)

    # WHEN
    cost.bill(counted, PRICES, Design(stream_batch=10, receipts="table", log_level="WARNING"), Assumptions())

    # THEN
    assert counted == before


@pytest.mark.parametrize(
    ("executions", "seconds", "billed"), [(1, 0.05, 0.1), (1, 0.051, 0.2), (2, 0.08, 0.2), (0, 0, 0)]
)
def test_each_execution_is_billed_by_its_doubled_duration_in_steps_of_100_ms(
    executions: int, seconds: float, billed: float
) -> None:
    # GIVEN
    counted = an_order()
    counted["workflow"] |= {"executions": executions, "seconds": seconds}

    # WHEN
    lines = cost.bill(counted, PRICES, Design(), Assumptions(duration_factor=2))

    # THEN
    found = sum(line.units for line in lines if line.what == "GB-seconds")
    assert found == pytest.approx(billed * 64 / 1024)


def test_a_million_clean_orders_cost_at_most_46_dollars() -> None:
    assert cost.report(COUNTED, PRICES, "clean", None)["perMillionOrders"] <= 46


@pytest.mark.parametrize("by", ["service", "choice"])
def test_splits_add_up_to_the_whole(by: Any) -> None:
    lines = cost.bill(an_order(), PRICES, Design(), Assumptions())

    assert sum(cost.split(lines, by).values()) == pytest.approx(cost.total(lines))


def test_profile_is_the_weighted_mean_of_its_orders() -> None:
    # GIVEN
    counted = {
        "journeys": {"fulfilled": {"a": {"b": 10, "memoryMb": 512}}, "declined": {"a": {"c": 4, "memoryMb": 512}}}
    }

    # WHEN
    cost.PROFILES["half"] = {"fulfilled": 0.5, "declined": 0.5}
    try:
        average = cost.of_profile(counted, "half")
    finally:
        del cost.PROFILES["half"]

    # THEN
    assert average == {"a": {"b": 5, "c": 2, "memoryMb": 512}}


def test_unknown_profile_is_refused_with_the_known_ones() -> None:
    with pytest.raises(Stop) as refused:
        cost.of_profile(COUNTED, "nonsense")

    assert "clean" in refused.value.next_step


def test_bill_of_a_month_adds_what_is_due_without_orders() -> None:
    # WHEN
    found = cost.report(COUNTED, PRICES, "clean", 2_000_000)

    # THEN
    fixed = sum(found["fixedPerMonth"].values())
    assert found["perMonth"] == pytest.approx(2 * found["perMillionOrders"] + fixed, abs=0.1)


def test_every_profile_has_been_counted() -> None:
    for profile in cost.PROFILES:
        assert cost.report(COUNTED, PRICES, profile, None)["perMillionOrders"] > 0


def test_accepting_and_reading_an_order_take_one_call_each() -> None:
    assert COUNTED["journeys"]["fulfilled"]["functions"]["AcceptOrder"]["calls"] == {"dynamodb:PutItem": 1.0}
    assert COUNTED["read"]["functions"]["QueryOrders"]["calls"] == {"dynamodb:GetItem": 1.0}


def test_every_price_names_its_source() -> None:
    for name, entry in PRICES.table.items():
        assert entry["source"].startswith("https://aws.amazon.com/"), name
        assert entry["unit"], name


def test_free_units_cost_nothing() -> None:
    assert Prices("r", "d", {"x": {"perMillion": 0.0}}).unit("x") == 0


@pytest.mark.parametrize(("size", "units"), [(0, 1), (1, 1), (1024, 1), (1025, 2), (400 * 1024, 400)])
def test_write_units_are_kilobytes_begun(size: int, units: int) -> None:
    assert usage.write_units(size) == units


@pytest.mark.parametrize(
    ("size", "consistent", "units"),
    [(1, True, 1), (4096, True, 1), (4097, True, 2), (4097, False, 1), (1, False, 0.5)],
)
def test_read_units_are_four_kilobytes_begun(size: int, consistent: bool, units: float) -> None:
    assert usage.read_units(size, consistent=consistent) == units


def test_item_size_counts_names_and_values() -> None:
    # GIVEN 2 + 3 bytes, 1 + 2, 1 + a list of 3 + (1 + 1), 1 + a map of 3 + 1 + (1 + 1)
    item = {"id": {"S": "abc"}, "n": {"N": "12"}, "l": {"L": [{"S": "x"}]}, "m": {"M": {"k": {"S": "v"}}}}

    # THEN
    assert usage.item_bytes(item) == 5 + 3 + 6 + 7


AN_ORDER = {
    "customerId": {"S": "c"},
    "orderId": {"S": "o"},
    "placedAt": {"S": "t"},
    "openShard": {"S": "03"},
    "status": {"S": "PLACED"},
    "updatedAt": {"S": "t"},
}


def test_new_order_is_written_to_the_table_and_each_index() -> None:
    assert usage.order_write_units(None, AN_ORDER, transactional=False) == {
        "OrdersTable": 1,
        "newest-first": 1,
        "by-order-id": 1,
        "open-by-shard": 1,
    }


def test_change_of_status_in_a_transaction_takes_two_units_and_one_of_the_index_that_has_the_status() -> None:
    after = {**AN_ORDER, "status": {"S": "RESERVED"}}

    assert usage.order_write_units(AN_ORDER, after, transactional=True) == {"OrdersTable": 2, "open-by-shard": 1}


def test_change_of_what_no_index_has_writes_no_index() -> None:
    after = {**AN_ORDER, "timeline": {"L": []}}

    assert usage.order_write_units(AN_ORDER, after, transactional=False) == {"OrdersTable": 1}


def test_end_of_an_order_removes_it_from_the_open_orders() -> None:
    after = {name: value for name, value in AN_ORDER.items() if name != "openShard"}

    assert usage.order_write_units(AN_ORDER, after, transactional=True) == {"OrdersTable": 2, "open-by-shard": 1}


@pytest.mark.parametrize(
    ("before", "after", "units"),
    [
        ({}, {"key": {"S": "a"}}, 1),
        ({"key": {"S": "a"}}, {}, 1),
        ({"key": {"S": "a"}}, {"key": {"S": "a"}}, 0),
        ({"key": {"S": "a"}}, {"key": {"S": "b"}}, 2),
        ({"key": {"S": "a"}}, {"key": {"S": "a"}, "note": {"S": "x" * 1024}}, 2),
    ],
)
def test_an_index_takes_a_unit_for_each_kilobyte_of_an_entry_that_is_put_or_removed(
    before: dict[str, Any], after: dict[str, Any], units: int
) -> None:
    assert usage.index_write_units(before, after, template.Index(("key",), None)) == units


def logged(number: int, kind: str, at: int, execution: str = "e1", **details: Any) -> dict[str, Any]:
    return {
        "id": str(number),
        "type": kind,
        "details": details,
        "event_timestamp": str(at),
        "execution_arn": execution,
    }


def test_the_workflow_s_log_tells_its_states_calls_and_durations() -> None:
    # GIVEN two executions, the first with a retry and a choice
    write = {"Update": {"TableName": "orders-local-CatalogueTable-1A2B3C4D5E6F"}}
    lines = [
        logged(1, "ExecutionStarted", 1000, input="{}"),
        logged(2, "TaskStateEntered", 1000, name="Reserve"),
        logged(3, "TaskScheduled", 1000, resourceType="lambda", resource="invoke", parameters="{}"),
        logged(
            4,
            "TaskScheduled",
            1040,
            resourceType="aws-sdk:dynamodb",
            resource="transactWriteItems",
            parameters=json.dumps({"TransactItems": [write]}),
        ),
        logged(5, "ChoiceStateEntered", 1060, name="Where"),
        logged(6, "ExecutionSucceeded", 1070, output="{}"),
        logged(1, "ExecutionStarted", 1100, execution="e2"),
        logged(2, "ExecutionSucceeded", 1110, execution="e2"),
    ]

    # WHEN
    found = usage.workflow_usage(lines)

    # THEN
    assert found["executions"] == 2
    assert found["states"] == {"Reserve": 2, "Where": 1}
    assert found["transitions"] == 3
    assert found["calls"] == {"lambda:invoke": 1, "dynamodb:transactWriteItems": 1}
    assert found["seconds"] == pytest.approx(0.08)
    assert found["writeUnits"] == {"CatalogueTable": 2}
    # and the bytes are those of a log without execution data
    bare = [
        {**line, "details": {k: v for k, v in line["details"].items() if k in {"name", "resource", "resourceType"}}}
        for line in lines
    ]
    assert found["logBytes"] == sum(len(json.dumps(line, separators=(",", ":"))) + 26 for line in bare)


def test_every_schedule_is_in_the_bill_of_a_month() -> None:
    assert template.runs_a_month().keys() == {
        schedule["Target"]["Arn"].partition(".")[0]
        for schedule in template.of_type("AWS::Scheduler::Schedule").values()
    }


def test_mean_counts_what_is_missing_as_none_and_takes_the_median_duration() -> None:
    # GIVEN
    counts = [
        {"calls": {"put": 1}, "durationMs": 10},
        {"calls": {"put": 1, "get": 1}, "durationMs": 11},
        {"calls": {"put": 1}, "durationMs": 900},
    ]

    # THEN
    assert usage.mean(counts) == {"calls": {"put": 1, "get": 0.333}, "durationMs": 11}
