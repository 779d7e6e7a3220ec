"""What a smoke refuses, what it notices, and that nothing of it stays."""

from __future__ import annotations

import base64
import datetime
import json
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from botocore.exceptions import ClientError

from orderctl.demo.stories import STORIES
from orderctl.exits import Exit, Interrupted, Stop
from orderctl.smoke import evidence, orders, removal, running
from orderctl.smoke.running import Smoke
from orderctl.stack import signin, throwaway
from orderctl.stack.description import Description, Resource
from orderctl.stack.target import Target
from orders.domain.order import Order, Status
from orders.domain.request import OrderRequest
from orders.inbox.record import FailureStatus
from tests.integration.world import World, an_order
from tests.unit.orderctl.conftest import Logs, Run, group_of, store_failure
from tests.unit.orderctl.test_doctor import Answers

RUN = "1f2e3d4c"
CUSTOMER = "3c0d64d8-0000-4000-8000-000000000001"


@dataclass
class Cognito:
    """The user pool: users' e-mail addresses."""

    users: set[str] = field(default_factory=set)

    class exceptions:  # noqa: N801 - as boto3 has it
        class UserNotFoundException(Exception):
            pass

        class UsernameExistsException(Exception):
            pass

    def admin_create_user(self, *, Username: str, **_: Any) -> None:  # noqa: N803
        self.users.add(Username)

    def admin_set_user_password(self, **_: Any) -> None:
        pass

    def admin_get_user(self, *, Username: str, **_: Any) -> dict[str, Any]:  # noqa: N803
        if Username not in self.users:
            raise self.exceptions.UserNotFoundException
        return {"UserAttributes": [{"Name": "email", "Value": Username}, {"Name": "sub", "Value": CUSTOMER}]}

    def admin_delete_user(self, *, Username: str, **_: Any) -> None:  # noqa: N803
        self.users.remove(Username)


@pytest.fixture
def cognito(target: Target) -> Cognito:
    found = Cognito({throwaway.address(RUN)})
    names = ("PaymentsTable", "ShipmentsTable")
    target.outputs.update({name: name for name in names}, ReceiptsBucket="receipts-bucket", UserPoolId="pool")
    target._clients["cognito-idp"] = found
    return found


def stored(world: World, order_id: str, status: Status, customer: str = CUSTOMER) -> Order:
    order = an_order(order_id=order_id, customer_id=customer, status=status)
    if status is Status.FULFILLED:
        order.open_shard = None
    return world.store(order)


def everything(world: World) -> dict[str, int]:
    tables = ("OrdersTable", "PaymentsTable", "ShipmentsTable", "FailuresTable", "CatalogueTable")
    objects = {
        bucket: world.s3.list_objects_v2(Bucket=bucket).get("KeyCount", 0)
        for bucket in ("receipts-bucket", "failed-payloads-bucket")
    }
    return {table: len(world.items(table)) for table in tables} | objects


def receipt(world: World, order: Order) -> None:
    key = f"receipts/{order.customer_id}/{order.order_id}.json"
    world.s3.put_object(Bucket="receipts-bucket", Key=key, Body=b"{}")


def a_whole_run(world: World, target: Target) -> None:
    """Store what a run leaves in every table and bucket."""
    orders.put_products(target, orders.journeys(RUN))
    fulfilled = stored(world, "a" * 36, Status.FULFILLED)
    receipt(world, fulfilled)
    world.put("PaymentsTable", idempotencyKey=fulfilled.order_id, status="CHARGED")
    world.put("ShipmentsTable", orderId=fulfilled.order_id)
    stored(world, "b" * 36, Status.FAILED)
    world.s3.put_object(Bucket="failed-payloads-bucket", Key="payloads/x", Body=b"x")
    store_failure(world, order_id=fulfilled.order_id, payload=None, payload_key="payloads/x")


# ---- removal -----------------------------------------------------------------------------------------------------


def test_everything_of_a_run_is_removed_and_nothing_else(world: World, target: Target, cognito: Cognito) -> None:
    # GIVEN what a run made, beside somebody else's order, receipt, payment, failure and product
    theirs = stored(world, "c" * 36, Status.FULFILLED, customer="somebody-else")
    receipt(world, theirs)
    world.put("PaymentsTable", idempotencyKey=theirs.order_id, status="CHARGED")
    world.put("CatalogueTable", sku="TEA")
    store_failure(world, "7" * 20, order_id=theirs.order_id)
    before = everything(world)
    a_whole_run(world, target)

    # WHEN it is removed
    removed = removal.remove(target, RUN, 0)

    # THEN theirs is left
    assert everything(world) == before
    assert cognito.users == set()
    assert removed.left == []
    assert removed.counts == {
        "failures": 1,
        "receipts": 1,
        "payments": 1,
        "shipments": 1,
        "orders": 2,
        "products": len(orders.products(RUN)),
        "customers": 1,
    }

    # WHEN it is removed again, THEN there is nothing to do
    assert removal.remove(target, RUN, 0).counts == {}


def test_an_open_order_is_given_up_and_stays_until_it_is_undone(
    world: World, target: Target, cognito: Cognito
) -> None:
    orders.put_products(target, orders.journeys(RUN))
    order = stored(world, "a" * 36, Status.RESERVED)

    # WHEN nobody undoes it in time
    removed = removal.remove(target, RUN, 0)

    # THEN its workflow still finds order, product and customer, and the removal says so
    assert world.order(order).status is Status.FAILING
    assert len(world.items("CatalogueTable")) == len(orders.products(RUN))
    assert cognito.users
    assert removed.left == [f"order {order.order_id} is still FAILING, and stays with its customer"]

    # WHEN it has ended
    stored(world, order.order_id, Status.FAILED)
    assert removal.remove(target, RUN, 0).left == []
    assert world.items("OrdersTable") == world.items("CatalogueTable") == []


@pytest.mark.parametrize(
    ("failure", "stays"), [(None, True), (FailureStatus.REDRIVEN, True), (FailureStatus.NEW, False)]
)
def test_an_order_whose_receipt_is_being_written_stays(
    world: World, target: Target, cognito: Cognito, failure: FailureStatus | None, stays: bool
) -> None:
    order = stored(world, "a" * 36, Status.FULFILLED)
    if failure:
        store_failure(world, order_id=order.order_id, status=failure)
    assert bool(removal.remove(target, RUN, 0).left) is stays


def test_products_without_a_customer_are_removed(world: World, target: Target, cognito: Cognito) -> None:
    cognito.users.clear()
    orders.put_products(target, orders.journeys(RUN))
    removal.remove(target, RUN, 0)
    assert world.items("CatalogueTable") == []


# ---- orders ------------------------------------------------------------------------------------------------------


def test_each_order_has_products_of_its_own_that_the_api_accepts() -> None:
    found = orders.journeys(RUN)
    assert {each.story.sample for each in found} == {each.sample for each in STORIES} | {"cancelled"}
    codes = orders.products(RUN)
    assert len(codes) == len(set(codes))
    for journey in found:
        msgspec.json.decode(json.dumps(journey.request), type=OrderRequest)


def test_what_killed_smokes_left_behind_is_known_by_their_customers(target: Target) -> None:
    def user(email: str) -> dict[str, Any]:
        created = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.UTC)
        return {"Attributes": [{"Name": "email", "Value": email}], "UserCreateDate": created}

    pool = Answers(list_users={"Users": [user("smoke-1f2e@example.com"), user("smoke-shop@mail.test")]})
    target._clients["cognito-idp"] = pool
    target.outputs["UserPoolId"] = "pool"
    assert throwaway.left_behind(target) == [throwaway.Left("1f2e", "2026-01-31T12:00:00.000Z")]
    assert pool.asked[0][1]["Filter"] == 'email ^= "smoke-"'


# ---- the guard ---------------------------------------------------------------------------------------------------


def described(environment: str | None, *resources: Resource) -> Description:
    parameters = {} if environment is None else {"Environment": environment}
    return Description("orders-test", "UPDATE_COMPLETE", parameters, {}, resources)


@pytest.mark.parametrize(
    ("environment", "provider", "refused"),
    [
        ("prod", "stripe", True),
        (None, "stripe", True),
        ("prod", "simulated", False),
        ("dev", "stripe", False),
    ],
)
def test_prod_with_real_providers_is_refused(
    target: Target, environment: str | None, provider: str, refused: bool
) -> None:
    variables = {"PAYMENT_PROVIDER": provider, "MAILER": "simulated", "LOG_LEVEL": "INFO"}
    target._clients["lambda"] = Answers(get_function_configuration={"Environment": {"Variables": variables}})
    stack = described(environment, Resource("F", "AWS::Lambda::Function", "f"))
    if not refused:
        running.refuse_real_providers(target, stack)
        return
    with pytest.raises(Stop, match="PAYMENT_PROVIDER=stripe") as stop:
        running.refuse_real_providers(target, stack)
    assert "--charge-real-providers" in stop.value.next_step


# ---- the steps ---------------------------------------------------------------------------------------------------


@pytest.fixture
def steps(target: Target, cognito: Cognito, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack that is described, and customers who can sign in."""
    monkeypatch.setattr(running, "describe", lambda _: described("dev"))
    monkeypatch.setattr(signin, "sign_in", lambda *_: token())
    monkeypatch.setattr(removal, "END_S", 0.0)
    target.outputs["UserPoolClientId"] = "client"


def token() -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"exp": time.time() + 3600, "sub": CUSTOMER}).encode()).decode()
    return f"x.{claims.rstrip('=')}.x"


DENIED = ClientError({"Error": {"Code": "AccessDenied", "Message": "not you"}}, "PutItem")


@pytest.mark.usefixtures("steps")
@pytest.mark.parametrize("error", [Stop(Exit.REFUSED, "the API answered 500"), KeyError("Item"), DENIED])
def test_a_step_that_can_not_be_made_ends_the_smoke_and_everything_is_removed(
    world: World, target: Target, cognito: Cognito, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any) -> None:
        stored(world, "b" * 36, Status.FAILED)
        raise error

    monkeypatch.setattr(orders, "send", fail)
    smoke = Smoke(RUN)
    running.run(target, smoke)

    assert [step.title for step in smoke.steps if step.problems] == ["orders end as they should"]
    assert not smoke.ok
    assert cognito.users == set()
    assert world.items("OrdersTable") == world.items("CatalogueTable") == []


@pytest.mark.usefixtures("steps")
def test_an_interruption_removes_everything_and_says_so(
    run: Run, world: World, target: Target, cognito: Cognito, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN Ctrl-C while the orders are sent
    def interrupt(*_: Any) -> None:
        stored(world, "b" * 36, Status.FAILED)
        raise Interrupted

    monkeypatch.setattr(orders, "send", interrupt)
    monkeypatch.setattr(running, "new_run", lambda: RUN)
    code, stdout, stderr = run("smoke", "--json")

    # THEN the command ends as interrupted, with nothing left behind and a report of that
    assert code == Exit.INTERRUPTED
    assert cognito.users == set()
    assert world.items("OrdersTable") == world.items("CatalogueTable") == []
    report = json.loads(stdout)
    assert report["removed"]["orders"] == 1
    assert [step["problems"] for step in report["steps"] if step["problems"]] == [["interrupted"]]
    # What to do after a SIGKILL is said before the first step.
    assert f"smoke --remove {RUN}" in stderr


@pytest.mark.usefixtures("steps")
def test_a_removal_that_fails_is_no_success(
    target: Target, cognito: Cognito, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise DENIED

    monkeypatch.setattr(removal, "remove", fail)
    smoke = Smoke(RUN)
    running.remove_only(target, smoke)
    assert not smoke.ok


def test_only_removing_says_what_stays(
    run: Run, world: World, target: Target, cognito: Cognito, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(world, "a" * 36, Status.PAID)
    monkeypatch.setattr(removal.remove, "__defaults__", (0.0,))
    code, stdout, _ = run("smoke", "--remove", RUN, "--json")
    assert code == 5
    assert "still FAILING" in json.loads(stdout)["left"][0]
    code, stdout, _ = run("smoke", "--remove", RUN)
    assert code == 5
    assert "Left behind: order" in stdout


def test_the_cost_counts_orders_requests_and_calls() -> None:
    smoke = Smoke(RUN, orders=10, requests=100, calls=1000)
    assert smoke.usd == pytest.approx(0.001 + 0.00035 + 0.01)


def test_every_call_to_aws_is_counted(world: World, target: Target) -> None:
    smoke = Smoke(RUN)
    target.session.events.register("before-call.*", running._counter(smoke))
    client = target.session.client("dynamodb")
    client.list_tables()
    client.list_tables()
    assert smoke.calls == 2


# ---- evidence ----------------------------------------------------------------------------------------------------


def functions(*names: str) -> Description:
    return described("dev", *(Resource(name, "AWS::Lambda::Function", name) for name in names))


def test_a_function_without_a_log_line_has_not_run(target: Target, logs: Logs) -> None:
    target._clients["lambda"] = Answers(
        get_function_configuration=lambda FunctionName: {"LoggingConfig": {"LogGroup": group_of(FunctionName)}}  # noqa: N803
    )
    logs.add("Ran", 1000, "START RequestId: 1")
    logs.add("RanBefore", 999, "START RequestId: 1")
    logs.add("Refused", 1000, {"message": "User: ada is not authorized to perform: dynamodb:Query"})
    found = evidence.functions_that_ran(target, functions("Ran", "RanBefore", "Refused"), 1000, 0)
    assert len(found) == 2
    assert found[0].startswith("RanBefore has not run")
    assert found[1].startswith("Refused lacks a permission")


def test_a_scheduled_function_runs_as_its_schedule_says(target: Target) -> None:
    def invoke(FunctionName: str, Payload: bytes) -> dict[str, Any]:  # noqa: N803
        assert (FunctionName, Payload) == ("arn:sweep", b'{"a": 1}')
        return {"FunctionError": "Unhandled", "Payload": Body(b'{"errorMessage": "no"}')}

    target._clients["scheduler"] = Answers(get_schedule={"Target": {"Arn": "arn:sweep", "Input": '{"a": 1}'}})
    target._clients["lambda"] = Answers(invoke=invoke)
    stack = described("dev", Resource("SweepSchedule", "AWS::Scheduler::Schedule", "s"))
    (problem,) = evidence.run_schedules(target, stack)
    assert "SweepSchedule" in problem
    assert "no" in problem


@dataclass
class Body:
    """The payload of an answer."""

    content: bytes

    def read(self) -> bytes:
        return self.content


def alarm(namespace: str, metric: str) -> dict[str, Any]:
    return {"AlarmName": "a", "Namespace": namespace, "MetricName": metric, "Dimensions": []}


@pytest.mark.parametrize(
    ("namespace", "metric", "has_value", "found"),
    [
        ("OrderPipeline", "FailureCaptured", True, ""),
        ("OrderPipeline", "FailureCaptured", False, "problem"),
        ("AWS/Lambda", "Invocations", False, "problem"),
        ("AWS/SQS", "ApproximateAgeOfOldestMessage", False, "note"),
        ("AWS/Events", "FailedInvocations", False, "note"),
    ],
)
def test_an_alarm_on_a_metric_that_nobody_writes_is_found(
    target: Target, namespace: str, metric: str, has_value: bool, found: str
) -> None:
    target._clients["cloudwatch"] = Answers(
        describe_alarms={"MetricAlarms": [alarm(namespace, metric)]},
        get_metric_statistics={"Datapoints": [{"SampleCount": 1.0}] if has_value else []},
    )
    stack = described("dev", Resource("A", "AWS::CloudWatch::Alarm", "a"))
    problems, notes = evidence.metrics_of_alarms(target, stack, 1000, 0)
    assert (len(problems), len(notes)) == (found == "problem", found == "note")
