"""The commands on orders, and replay: what they show, refuse and change."""

from __future__ import annotations

import datetime
import json
from typing import Any

import boto3
import pytest
import typer

from orderctl.exits import Exit
from orderctl.stack.target import Target
from orderctl.ui import console, tables
from orders.domain.clock import timestamp_before
from tests.integration.world import REGION, World, an_order
from tests.unit.orderctl.conftest import ACCOUNT, QUEUE, Logs, Run, Shop
from tests.unit.orderctl.conftest import an_order as a_view
from tests.unit.orderctl.test_console import HOSTILE, obeyed_in

ORDER = "694e228d-8218-51d2-a18e-3e00fd0aa7a7"
PLAIN_HOSTILE = HOSTILE.encode(errors="ignore").decode()


# ---- submit ------------------------------------------------------------------------------------------------------


def test_a_submitted_order_says_what_to_type_next(shop: Shop, run: Run) -> None:
    code, shown, said = run("submit", "fulfilled", "--idempotency-key", "basket")
    (order_id,) = shop.orders
    assert (code, shown) == (0, f"202 accepted: order {order_id}\n")
    assert f"orderctl explain {order_id}" in said


def test_submitting_twice_with_a_key_is_one_order(shop: Shop, run: Run) -> None:
    run("submit", "fulfilled", "--idempotency-key", "basket")
    code, shown, _ = run("submit", "fulfilled", "--idempotency-key", "basket")
    as_json = json.loads(run("submit", "fulfilled", "--idempotency-key", "basket", "--json")[1])
    assert code == 0
    assert "the answer to an earlier request with this key" in shown
    assert as_json["replayed"] is True
    assert len(shop.orders) == 1


def test_without_a_key_each_submission_is_an_order(shop: Shop, run: Run) -> None:
    run("submit", "fulfilled")
    run("submit", "fulfilled")
    assert len(shop.orders) == 2


@pytest.mark.parametrize("value", ["", " "])
@pytest.mark.parametrize(
    "command",
    [
        ["submit", "--idempotency-key"],
        ["submit", "--stack"],
        ["submit", "--user"],
        ["orders", "--customer"],
        ["logs", "--order"],
        ["failures", "redrive", "--error", "x", "--order"],
    ],
)
def test_an_empty_value_is_no_value_left_out(shop: Shop, run: Run, command: list[str], value: str) -> None:
    code, _, said = run(*command, value)
    assert code == Exit.USAGE
    assert f"The value of {command[-1].replace('--user', '--username')} is empty." in said
    assert "leave the option out" in said
    assert not shop.orders


def test_a_refused_order_names_the_fields(shop: Shop, run: Run, tmp_path: Any) -> None:
    file = tmp_path / "order.json"
    file.write_text("{}")
    code, shown, said = run("submit", str(file))
    assert code == Exit.REFUSED
    assert "/currency: required" in said
    assert shown == ""
    assert not shop.orders


def test_an_order_that_does_not_end_in_time(shop: Shop, run: Run) -> None:
    code, _, said = run("submit", "fulfilled", "--wait", "--timeout", "1")
    assert code == Exit.NOT_AS_EXPECTED
    assert "is still PLACED after 1 s" in said
    assert "orderctl explain" in said


@pytest.mark.parametrize(("status", "code"), [("FULFILLED", 0), ("FAILED", Exit.NOT_AS_EXPECTED)])
def test_waiting_tells_how_it_ended(
    shop: Shop, run: Run, monkeypatch: pytest.MonkeyPatch, status: str, code: int
) -> None:
    monkeypatch.setattr("tests.unit.orderctl.conftest.an_order", lambda **fields: a_view(status=status, **fields))
    assert run("submit", "fulfilled", "--wait")[0] == code


# ---- cancel ------------------------------------------------------------------------------------------------------


def test_an_open_order_is_cancelled_once(world: World, shop: Shop, run: Run) -> None:
    world.store(an_order(order_id=ORDER))
    shop.orders[ORDER] = a_view(orderId=ORDER)

    first = run("cancel", "694e228d")
    second = run("cancel", ORDER, "--json")

    assert first == (0, f"Order {ORDER} is CANCELLED.\n", "")
    assert (second[0], json.loads(second[1])) == (0, {"orderId": ORDER, "status": "CANCELLED"})
    assert shop.cancellations == 1


def test_a_paid_order_is_not_cancelled(shop: Shop, run: Run) -> None:
    shop.orders[ORDER] = a_view(orderId=ORDER, status="PAID")
    code, shown, said = run("cancel", ORDER)
    assert (code, shown) == (Exit.REFUSED, "")
    assert "too late to cancel" in said
    assert f"orderctl explain {ORDER}" in said
    assert shop.orders[ORDER]["status"] == "PAID"


def test_somebody_elses_order_is_not_cancelled(shop: Shop, run: Run) -> None:
    code, _, said = run("cancel", ORDER)
    assert code == Exit.REFUSED
    assert "no such order" in said
    assert "orderctl orders" in said


# ---- order, orders -----------------------------------------------------------------------------------------------


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console.out, "width", 80)


def test_eighty_columns_show_whole_ids_of_ended_orders(shop: Shop, run: Run, narrow: None) -> None:
    shop.orders[ORDER] = a_view(
        orderId=ORDER,
        status="FAILED",
        total=123_456_789,
        reason={"code": "PaymentDeclined", "message": "no"},
        placedAt=timestamp_before(185),
    )
    code, shown, _ = run("orders")
    assert code == 0
    assert ORDER in shown
    assert "3 min" in shown
    assert "PaymentDeclined" in shown
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_open_orders_have_short_ids_and_a_count(world: World, target: Target, run: Run, narrow: None) -> None:
    for number in range(5):
        world.store(an_order(order_id=f"{number:08x}-8218-51d2-a18e-3e00fd0aa7a7"))
    code, shown, _ = run("orders", "--open", "--limit", "3")
    assert code == 0
    assert "00000001  " in shown
    assert "-8218-" not in shown
    assert "3 of 5 orders" in shown


def test_a_customers_orders_are_counted(world: World, target: Target, run: Run) -> None:
    for number in range(3):
        world.store(an_order(order_id=f"{number:08x}-8218-51d2-a18e-3e00fd0aa7a7", customer_id="ada"))
    assert "2 of 3 orders" in run("orders", "--customer", "ada", "--limit", "2")[1]
    assert " of " not in run("orders", "--customer", "ada")[1]


def test_more_orders_than_the_limit(shop: Shop, run: Run) -> None:
    for _ in range(3):
        run("submit", "fulfilled")
    assert "2 of more than 2 orders" in run("orders", "--limit", "2")[1]
    assert len(json.loads(run("orders", "--limit", "2", "--json")[1])) == 2
    assert " of " not in run("orders", "--limit", "3")[1]


def test_a_hostile_order_reaches_no_terminal(world: World, shop: Shop, run: Run, narrow: None) -> None:
    order = an_order(order_id=ORDER, correlation_id=PLAIN_HOSTILE, email=PLAIN_HOSTILE)
    world.store(order)
    hostile = {"name": PLAIN_HOSTILE, "line1": PLAIN_HOSTILE, "city": "x", "postalCode": "x", "country": "GB"}
    world.dynamodb.update_item(
        TableName="OrdersTable",
        Key={"customerId": {"S": order.customer_id}, "orderId": {"S": ORDER}},
        UpdateExpression="SET shippingAddress = :address, reason = :reason, #lines[0].sku = :text, "
        "timeline[0].detail = :text",
        ExpressionAttributeNames={"#lines": "lines"},
        ExpressionAttributeValues={
            ":address": {"M": {name: {"S": value} for name, value in hostile.items()}},
            ":reason": {"M": {"code": {"S": PLAIN_HOSTILE}, "message": {"S": PLAIN_HOSTILE}}},
            ":text": {"S": PLAIN_HOSTILE},
        },
    )
    for command in (
        ["order", ORDER],
        ["order", ORDER, "--json"],
        ["orders", "--open"],
        ["orders", "--open", "--json"],
    ):
        code, shown, said = run(*command)
        assert code == 0
        assert not obeyed_in(shown + said), command
    found = json.loads(run("order", ORDER, "--json")[1])
    assert found["shippingAddress"]["line1"] == PLAIN_HOSTILE


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (119, "119 s"), (185, "3 min"), (7100, "118 min"), (7300, "2 h"), (180_000, "2 d"), (-5, "0 s")],
)
def test_ages(seconds: float, said: str) -> None:
    assert tables.age(timestamp_before(seconds)) == said


@pytest.mark.parametrize(
    ("ids", "short"),
    [
        ([], {}),
        (["a" * 20], {"a" * 20: "a" * 8}),
        (["a" * 10 + "b", "a" * 10 + "c"], {"a" * 10 + "b": "a" * 10 + "b", "a" * 10 + "c": "a" * 10 + "c"}),
        (["abc", "abcd"], {"abc": "abc", "abcd": "abcd"}),
    ],
)
def test_short_ids(ids: list[str], short: dict[str, str]) -> None:
    assert tables.short_ids(ids) == short


# ---- open, version, completion -----------------------------------------------------------------------------------


def test_open_prints_the_url_and_starts_no_browser_without_a_terminal(
    target: Target, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(typer, "launch", lambda _: pytest.fail("a browser"))
    assert run("open") == (0, "https://api.test/v1/openapi.json\n", "")
    assert json.loads(run("open", "--json")[1]) == {"url": "https://api.test/v1/openapi.json"}


def test_the_version(run: Run) -> None:
    assert run("--version") == (0, "orderctl 1.0.0\n", "")


@pytest.mark.parametrize("command", ["cancel", "logs", "open", "explain", "replay"])
def test_each_command_explains_itself_with_examples(run: Run, command: str) -> None:
    code, shown, _ = run(command, "--help")
    assert code == 0
    assert f"orderctl {command}" in shown.split("Examples:")[1]
    assert "--json" in shown


# ---- replay ------------------------------------------------------------------------------------------------------


@pytest.fixture
def bus(target: Target, logs: Logs) -> Target:
    """The stack with an archive, a rule that sends everything to a queue, and three events that were published."""
    events = boto3.session.Session(region_name=REGION).client("events")
    arn = f"arn:aws:events:{REGION}:{ACCOUNT}:event-bus/OrdersBus"
    target.outputs.update(EventBusArn=arn, EventBusName="OrdersBus")
    events.create_archive(ArchiveName="archive", EventSourceArn=arn)
    events.put_rule(Name="EverythingRule", EventBusName="OrdersBus", EventPattern='{"source": ["orders"]}')
    events.put_targets(Rule="EverythingRule", EventBusName="OrdersBus", Targets=[{"Id": "1", "Arn": QUEUE}])
    for _ in range(3):
        events.put_events(
            Entries=[{"EventBusName": "OrdersBus", "Source": "orders", "DetailType": "OrderPlaced", "Detail": "{}"}]
        )
        now_ms = int(datetime.datetime.now(datetime.UTC).timestamp() * 1000)
        logs.add("PublishEvents", now_ms, {"level": "INFO", "message": "event published"})
        logs.add("PublishEvents", now_ms, {"level": "WARNING", "message": "event not taken"})
    logs.add("PublishEvents", 0, {"level": "INFO", "message": "event published"})  # long before
    return target


def hours(number: float) -> str:
    return (datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=number)).isoformat()


def replays(target: Target) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = target.client("events").list_replays()["Replays"]
    return found


def test_a_dry_run_of_a_replay_counts_and_sends_nothing(bus: Target, run: Run) -> None:
    code, shown, _ = run("replay", "--from", hours(-1), "--to", hours(1), "--dry-run")
    as_json = json.loads(run("replay", "--from", hours(-1), "--to", hours(1), "--dry-run", "--json")[1])
    assert code == 0
    assert "to: EverythingRule." in shown
    assert "holds 3 events of that time; each rule gets those that match its pattern" in shown
    assert as_json["archivedEvents"] == 3
    assert replays(bus) == []


def test_a_replay_says_how_many_events_it_had(world: World, bus: Target, run: Run) -> None:
    world.messages("NotificationsQueue")
    code, shown, _ = run("replay", "--from", hours(-1), "--to", hours(1))
    assert code == 0
    assert "COMPLETED. The archive holds 3 events of that time" in shown
    assert len(replays(bus)) == 1


def test_a_replay_as_json(bus: Target, run: Run) -> None:
    found = json.loads(run("replay", "--from", hours(-1), "--to", hours(1), "--rule", "everything", "--json")[1])
    assert (found["state"], found["archivedEvents"], found["rules"]) == ("COMPLETED", 3, ["EverythingRule"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--from", "yesterday", "--to", "2026-11-20T10:00Z"],
        ["--from", "2026-11-20T10:00Z", "--to", "2026-11-20T09:00Z"],
        ["--from", "2999-11-20T10:00Z", "--to", "2999-11-20T11:00Z"],
        ["--from", "2026-11-20T09:00Z", "--to", "2026-11-20T10:00Z", "--rule", "no-such-rule"],
    ],
)
def test_a_replay_that_makes_no_sense_starts_nothing(bus: Target, run: Run, arguments: list[str]) -> None:
    assert run("replay", *arguments)[0] == Exit.USAGE
    assert replays(bus) == []
