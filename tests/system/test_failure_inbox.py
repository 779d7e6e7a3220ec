"""Each sink broken for real: the failure is seen, understood, sent on its way again, once.

On a local cloud of its own, because what is broken here would break other tests.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from typer.testing import CliRunner

from orderctl import interrupts, lifecycle
from orderctl.cloud import server_process
from orderctl.cloud.state import Cloud
from orderctl.demo import samples
from orderctl.main import app
from orderctl.stack import records
from orderctl.stack.records import Payment, Stock
from orderctl.stack.rest import OrdersApi
from orderctl.stack.signin import token_source
from orderctl.stack.target import Target, of_state
from orders.domain.order import Order
from orders.storage.dynamodb import from_item, to_item
from tests.support import eventually


@pytest.fixture(scope="module")
def cloud(request: pytest.FixtureRequest) -> Iterator[Target]:
    mine = Cloud(f"test-inbox-{os.getpid()}")
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        state, _ = lifecycle.up(mine, server_process.free_port())
    failed_before = request.session.testsfailed
    yield of_state(state)
    lifecycle.down(mine)
    if request.session.testsfailed == failed_before:
        shutil.rmtree(mine.directory)


@pytest.fixture(scope="module")
def api(cloud: Target) -> Iterator[OrdersApi]:
    with OrdersApi(cloud.api_url, token_source(cloud, f"{uuid.uuid4()}@example.com", None)) as customer_api:
        yield customer_api


class Inbox:
    """The commands of the operator, as the operator types them, and what a test looks at besides."""

    def __init__(self, cloud: Target) -> None:
        self.cloud = cloud

    def run(self, *arguments: str, code: int = 0) -> Any:
        """Run orderctl with --json; its exit code must be `code`. Returns what it says."""
        assert self.cloud.local is not None
        handlers = {number: signal.getsignal(number) for number in interrupts.SIGNALS}
        try:
            done = CliRunner().invoke(app, [*arguments, "--name", self.cloud.local.name, "--json"])
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        assert done.exit_code == code, done.stderr
        return json.loads(done.stdout) if done.stdout else done.stderr

    def failures(self, **wanted: str) -> list[dict[str, Any]]:
        """The failures with these fields, complete, whatever their status."""
        items = self.cloud.client("dynamodb").scan(TableName=self.cloud.output("FailuresTable"))["Items"]
        found = (from_item(item) for item in items)
        return [each for each in found if all(each.get(name) == value for name, value in wanted.items())]

    def wait_for(self, **wanted: str) -> dict[str, Any]:
        """The one failure with these fields, once it is there."""
        eventually(lambda: self.failures(**wanted), f"a failure {wanted}, not {self.failures()}")
        (failure,) = self.failures(**wanted)
        return failure

    def redrive(self, failure: dict[str, Any]) -> None:
        """Look at it dry, then for real, then once more, which must be refused."""
        failure_id = failure["failureId"]
        (plan,) = self.run("failures", "redrive", failure_id, "--dry-run")
        assert plan["failureId"] == failure_id
        outcome = self.run("failures", "redrive", failure_id, "--wait", "0")
        assert outcome["redriven"] + outcome["resolved"] == 1
        again = self.run("failures", "redrive", failure_id, "--wait", "0", code=4)
        assert again["refused"] == 1

    def sentence(self, order_id: str) -> str:
        page = self.run("explain", order_id)
        return str(page["sentence"])

    def events(self, order_id: str) -> list[str]:
        return [event["what"] for event in self.run("explain", order_id)["events"]]

    def sweep(self, **request: float) -> dict[str, Any]:
        answer = self.cloud.client("lambda").invoke(
            FunctionName=self.cloud.output("SweepOrdersFunction"), Payload=json.dumps(request)
        )
        assert "FunctionError" not in answer
        swept: dict[str, Any] = json.loads(answer["Payload"].read())
        return swept


@pytest.fixture(scope="module")
def inbox(cloud: Target) -> Inbox:
    """The inbox, of which nothing heals by itself: the tests are the operators."""
    found = Inbox(cloud)
    found.run("failures", "hold", "--all")
    return found


def place(api: OrdersApi, sample: str = "fulfilled", **fields: Any) -> str:
    """Place an order; returns its id."""
    answer = api.submit(json.dumps({**samples.sample(sample), **fields}), str(uuid.uuid4()))
    assert answer.status_code == 202, answer.text
    return str(answer.json()["orderId"])


def an_address(postal_code: str) -> dict[str, Any]:
    return {**samples.sample("fulfilled")["shippingAddress"], "postalCode": postal_code}


def ends(cloud: Target, order_id: str, status: str) -> Order:
    """The order, once it has this status."""

    def look() -> Order | None:
        order = records.find_order(cloud, order_id)
        return order if isinstance(order, Order) and order.status == status else None

    found: Order = eventually(look, f"{order_id} becomes {status}, not {records.find_order(cloud, order_id)}")
    return found


def charges(cloud: Target, order_id: str) -> int:
    return (records.payment_of(cloud, order_id) or Payment()).charges


def resource(cloud: Target, logical_id: str) -> str:
    """The physical name of a resource of the stack."""
    found = cloud.client("cloudformation").list_stack_resources(
        StackName=cloud.output("EventBusName").removesuffix("-orders")
    )["StackResourceSummaries"]
    return next(str(each["PhysicalResourceId"]) for each in found if each["LogicalResourceId"] == logical_id)


def receipt_exists(cloud: Target, order_id: str) -> bool:
    listed = cloud.client("s3").list_objects_v2(Bucket=cloud.output("ReceiptsBucket")).get("Contents", [])
    return any(order_id in each["Key"] for each in listed)


@pytest.fixture(scope="module")
def under_way(cloud: Target, api: OrdersApi, inbox: Inbox) -> dict[str, str]:
    """Orders that take half a minute to fail, so that they fail while other tests run."""
    placed = {
        "warehouse": place(api, shippingAddress=an_address("TEST-DOWN-5")),
        "provider": place(api, paymentMethod="tok_provider_down_6"),
        "hopeless": place(api, paymentMethod="tok_provider_down_99"),
    }
    ends(cloud, placed["warehouse"], "PAID")
    for name in ("provider", "hopeless"):
        ends(cloud, placed[name], "RESERVED")
    return placed


def test_a_function_that_raises(cloud: Target, api: OrdersApi, inbox: Inbox, under_way: dict[str, str]) -> None:
    # GIVEN an order whose receipt can't be written
    order_id = place(api, paymentMethod="tok_receipt_down_3")
    order = ends(cloud, order_id, "FULFILLED")

    # THEN the receipt is in the inbox, with its cause and the whole event
    failure = inbox.wait_for(orderId=order_id, kind="function")
    assert (failure["component"], failure["errorName"]) == ("IssueReceiptFunction", "PaymentProviderError")
    assert (failure["attempts"], failure["correlationId"]) == (3, order.correlation_id)
    assert json.loads(failure["payload"])["detail"]["data"]["status"] == "FULFILLED"
    assert "issue_receipt" in "".join(failure["stackTrace"])
    assert failure["failureId"] in inbox.sentence(order_id)

    # WHEN it is sent on its way again
    inbox.redrive(failure)

    # THEN there is a receipt, and the sweep closes the failure
    eventually(lambda: receipt_exists(cloud, order_id), "the receipt")
    inbox.sweep(quietSeconds=0)
    assert inbox.wait_for(orderId=order_id)["status"] == "RESOLVED"
    assert inbox.sentence(order_id).endswith("paid and shipped.")


@contextmanager
def without_permission(cloud: Target, role: str, policy: str) -> Iterator[None]:
    """Take a role's policy away for a while."""
    iam = cloud.session.client("iam", endpoint_url=cloud.endpoint)
    document = iam.get_role_policy(RoleName=role, PolicyName=policy)["PolicyDocument"]
    iam.delete_role_policy(RoleName=role, PolicyName=policy)
    try:
        yield
    finally:
        iam.put_role_policy(RoleName=role, PolicyName=policy, PolicyDocument=json.dumps(document))


def test_a_denied_permission(cloud: Target, api: OrdersApi, inbox: Inbox, under_way: dict[str, str]) -> None:
    # GIVEN a rule that may not start the workflow
    with without_permission(cloud, resource(cloud, "OrderWorkRuleRole"), "start-workflow"):
        order_id = place(api)

        # THEN the event is in the inbox, whole
        failure = inbox.wait_for(orderId=order_id, kind="rule-target")
    assert failure["resourceArn"] == cloud.output("StateMachineArn")
    assert failure["errorName"] == "NO_PERMISSIONS"
    assert json.loads(failure["payload"])["detail-type"] == "OrderPlaced"
    assert f"orderctl failures redrive {failure['failureId']}" in inbox.sentence(order_id)

    # WHEN the permission is back and the event is sent again
    inbox.redrive(failure)

    # THEN the order is fulfilled and the failure over
    ends(cloud, order_id, "FULFILLED")
    inbox.sweep()
    assert inbox.wait_for(orderId=order_id)["status"] == "RESOLVED"
    assert charges(cloud, order_id) == 1


def test_a_discarded_order_is_never_started_again(cloud: Target, api: OrdersApi, inbox: Inbox) -> None:
    # GIVEN an order whose event could not start its workflow
    with without_permission(cloud, resource(cloud, "OrderWorkRuleRole"), "start-workflow"):
        order_id = place(api)
        failure = inbox.wait_for(orderId=order_id, kind="rule-target", status="NEW")

    # WHEN an operator discards the failure
    (said,) = inbox.run("failures", "discard", failure["failureId"], "--reason", "never mind")

    # THEN the order is undone, and whatever takes it up again leaves it so
    assert "nothing stays charged or reserved" in said["detail"]
    cloud.client("stepfunctions").start_execution(
        stateMachineArn=cloud.output("StateMachineArn"), input=json.dumps(json.loads(failure["payload"])["detail"])
    )
    eventually(lambda: "took the order up, FAILED" in inbox.events(order_id), "a late duplicate to take the order up")
    inbox.run("failures", "redrive", failure["failureId"], code=4)
    order = ends(cloud, order_id, "FAILED")
    assert order.reason is not None
    assert (order.reason.code, charges(cloud, order_id)) == ("Discarded", 0)


@contextmanager
def without_queue(cloud: Target, url: str) -> Iterator[None]:
    """Delete a queue for a while."""
    sqs = cloud.client("sqs")
    kept = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    settings = {
        name: kept[name] for name in ("VisibilityTimeout", "MessageRetentionPeriod", "RedrivePolicy", "Policy")
    }
    sqs.delete_queue(QueueUrl=url)
    try:
        yield
    finally:
        sqs.create_queue(QueueName=url.rsplit("/", 1)[1], Attributes=settings)


def test_a_target_that_was_deleted(cloud: Target, api: OrdersApi, inbox: Inbox, under_way: dict[str, str]) -> None:
    # GIVEN no queue for notifications while an order goes its way
    with without_queue(cloud, cloud.output("NotificationsQueueUrl")):
        order_id = place(api)
        ends(cloud, order_id, "FULFILLED")
        eventually(lambda: len(inbox.failures(orderId=order_id, kind="rule-target")) == 2, "two lost events")

    # THEN each event of it is in the inbox
    lost = inbox.failures(orderId=order_id, kind="rule-target")
    assert {failure["errorName"] for failure in lost} == {"NO_RESOURCE"}
    assert {json.loads(failure["payload"])["detail-type"] for failure in lost} == {"OrderPlaced", "OrderFulfilled"}
    assert "NotificationsQueue" in inbox.sentence(order_id)

    # WHEN the queue is back and they are sent again
    before = mails(cloud, order_id)
    outcome = inbox.run("failures", "redrive", "--order", order_id, "--wait", "0")
    assert outcome["redriven"] == 2

    # THEN the customer gets the mails of an order placed and shipped, and no more for being sent once more
    assert before == 0
    eventually(lambda: mails(cloud, order_id) == 2, "two mails")
    inbox.run("failures", "redrive", *(failure["failureId"] for failure in lost), "--again", "--wait", "0")
    eventually(lambda: queue_is_empty(cloud, "NotificationsQueueUrl"), "the queue to drain")
    assert mails(cloud, order_id) == 2


def mails(cloud: Target, order_id: str) -> int:
    """How many mails the customer got, by the log."""
    events = cloud.client("logs").filter_log_events(
        logGroupName=resource(cloud, "NotifyCustomerLogs"), filterPattern=f'"{order_id}"'
    )["events"]
    return sum('"mail sent"' in event["message"] for event in events)


def queue_is_empty(cloud: Target, output: str) -> bool:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    counted = cloud.client("sqs").get_queue_attributes(QueueUrl=cloud.output(output), AttributeNames=names)
    return all(int(counted["Attributes"][name]) == 0 for name in names)


@contextmanager
def time_out(cloud: Target, seconds: int) -> Iterator[None]:
    """Give the workflow less time for a while."""
    states, arn = cloud.client("stepfunctions"), cloud.output("StateMachineArn")
    definition = states.describe_state_machine(stateMachineArn=arn)["definition"]
    hasty = {**json.loads(definition), "TimeoutSeconds": seconds}
    states.update_state_machine(stateMachineArn=arn, definition=json.dumps(hasty))
    try:
        yield
    finally:
        states.update_state_machine(stateMachineArn=arn, definition=definition)


def test_a_workflow_that_dies_without_a_word_is_found_by_the_sweep(
    cloud: Target, api: OrdersApi, inbox: Inbox, under_way: dict[str, str]
) -> None:
    # GIVEN no other order that the sweep would take for lost: those under way are in the inbox, which it leaves alone
    for stuck in under_way.values():
        inbox.wait_for(orderId=stuck)

    # AND a workflow with too little time for a slow payment, and too little to report it
    with time_out(cloud, 4):
        order_id = place(api, paymentMethod="tok_slow_6")
        eventually(lambda: any(what.startswith("timed out") for what in inbox.events(order_id)), "a time-out")

    # THEN nobody knows, and the sentence says who will find it; the payment may have ended well meanwhile
    assert inbox.failures(orderId=order_id) == []
    said = inbox.sentence(order_id)
    assert said.startswith("Nobody is at work on it: its last workflow has failed, the order is ")
    assert "the sweep restarts it in about " in said

    # WHEN the sweep finds it
    assert inbox.sweep(promiseSeconds=0.1)["restarted"] == 1

    # THEN it continues from there, and charges once
    order = ends(cloud, order_id, "FULFILLED")
    assert [entry.what for entry in order.timeline].count("RESERVED") == 1
    assert charges(cloud, order_id) == 1


def test_a_stream_record_that_cannot_be_read(
    cloud: Target, api: OrdersApi, inbox: Inbox, under_way: dict[str, str]
) -> None:
    # GIVEN an order that somebody wrote into the table without its lines
    dynamodb, table = cloud.client("dynamodb"), cloud.output("OrdersTable")
    whole = stored_order(cloud, records.as_json(ends(cloud, place(api), "FULFILLED")))
    broken = {name: value for name, value in whole.items() if name != "lines"}
    dynamodb.put_item(TableName=table, Item=to_item(broken))

    # THEN the whole record is in the inbox, and blocks nobody
    failure = inbox.wait_for(orderId=whole["orderId"], kind="stream")
    assert (failure["component"], failure["errorName"]) == ("OrdersTable", "ValidationError")
    assert "lines" in failure["errorMessage"]
    assert json.loads(failure["payload"])["dynamodb"]["NewImage"] == to_item(broken)
    ends(cloud, place(api), "FULFILLED")

    # WHEN it is sent again without a repair, THEN the operator is told so, and it stays as it was
    said = inbox.run("failures", "redrive", failure["failureId"], "--wait", "0", code=5)
    assert "still can't read it" in said["outcomes"][0]["detail"]
    again = inbox.wait_for(failureId=failure["failureId"])
    assert (again["status"], again["count"]) == ("NEW", 1)

    # WHEN the order is mended
    dynamodb.put_item(TableName=table, Item=to_item(whole))
    inbox.redrive(failure)

    # THEN its event is published and it goes its way
    ends(cloud, whole["orderId"], "FULFILLED")
    assert inbox.wait_for(failureId=failure["failureId"])["status"] == "RESOLVED"


def stored_order(cloud: Target, like: dict[str, Any]) -> dict[str, Any]:
    """A PLACED order that nobody has seen yet, like another one."""
    order_id = str(uuid.uuid4())
    ended = {"total", "paymentId", "shipmentId", "lines"}
    return {
        **{name: value for name, value in like.items() if name not in ended},
        "orderId": order_id,
        "status": "PLACED",
        "version": 1,
        "correlationId": order_id,
        "openShard": "00",
        "lines": [{"sku": line["sku"], "quantity": line["quantity"]} for line in like["lines"]],
        "timeline": like["timeline"][:1],
    }


@contextmanager
def broken_publisher(cloud: Target) -> Iterator[None]:
    """Take from publish_events what it can't start without, for a while, and its patience."""
    functions, name = cloud.client("lambda"), cloud.output("PublishEventsFunction")
    environment = functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
    (mapping,) = functions.list_event_source_mappings(FunctionName=name)["EventSourceMappings"]
    crippled = {key: value for key, value in environment.items() if key != "EVENT_BUS_NAME"}
    functions.update_event_source_mapping(UUID=mapping["UUID"], MaximumRetryAttempts=1)
    functions.update_function_configuration(FunctionName=name, Environment={"Variables": crippled})
    try:
        yield
    finally:
        functions.update_function_configuration(FunctionName=name, Environment={"Variables": environment})
        functions.update_event_source_mapping(
            UUID=mapping["UUID"], MaximumRetryAttempts=mapping["MaximumRetryAttempts"]
        )


def test_a_publisher_that_fails(cloud: Target, api: OrdersApi, inbox: Inbox, under_way: dict[str, str]) -> None:
    # GIVEN an outbox that can't publish, and gives up
    with broken_publisher(cloud):
        order_id = place(api)

        # THEN the record that it points to is in the inbox, whole
        failure = inbox.wait_for(orderId=order_id, kind="stream")
    assert failure["errorName"] == "RetryAttemptsExhausted"
    assert json.loads(failure["payload"])["dynamodb"]["NewImage"]["orderId"] == {"S": order_id}

    # WHEN the function works again
    inbox.redrive(failure)

    # THEN the order goes its way
    ends(cloud, order_id, "FULFILLED")
    assert charges(cloud, order_id) == 1


def test_a_message_that_nobody_can_classify(cloud: Target, inbox: Inbox) -> None:
    # GIVEN text on the failures queue
    text = f"garbage {uuid.uuid4()} \u00fc\u20ac"
    cloud.client("sqs").send_message(QueueUrl=cloud.output("FailuresQueueUrl"), MessageBody=text)

    # THEN it is kept as it is, and says that its destination is unknown
    failure = inbox.wait_for(payload=text)
    assert failure["kind"] == "unknown"
    outcome = inbox.run("failures", "redrive", failure["failureId"], "--wait", "0", code=5)
    assert "destination is unknown" in outcome["outcomes"][0]["detail"]

    # WHEN it is discarded
    inbox.run("failures", "discard", failure["failureId"], "--reason", "only a test")

    # THEN it stays for 90 days, and is not discarded twice
    discarded = inbox.wait_for(payload=text)
    assert (discarded["status"], discarded["history"][-1]["detail"]) == ("DISCARDED", "only a test")
    assert discarded["expiresAt"] > time.time() + 89 * 86400
    inbox.run("failures", "discard", failure["failureId"], "--reason", "again", code=4)


def test_a_payload_that_no_item_can_hold(cloud: Target, inbox: Inbox) -> None:
    # GIVEN a message close to SQS's limit of 1 MiB
    text = f"{uuid.uuid4()} " + "x" * 900_000
    cloud.client("sqs").send_message(QueueUrl=cloud.output("FailuresQueueUrl"), MessageBody=text)

    # THEN it is shown whole
    failure = eventually(lambda: [each for each in inbox.failures(kind="unknown") if "payloadKey" in each])[0]
    assert inbox.run("failures", "show", failure["failureId"])["payload"] == text


@contextmanager
def without_rule(cloud: Target, logical_id: str) -> Iterator[None]:
    """Disable a rule of the bus for a while: what it should deliver is lost without a trace."""
    events = cloud.client("events")
    name, bus = resource(cloud, logical_id).rsplit("|", 1)[-1], cloud.output("EventBusName")
    events.disable_rule(Name=name, EventBusName=bus)
    try:
        yield
    finally:
        events.enable_rule(Name=name, EventBusName=bus)


def test_an_event_lost_out_of_sight_is_found_by_the_sweep(
    cloud: Target, api: OrdersApi, inbox: Inbox, under_way: dict[str, str]
) -> None:
    # GIVEN no other order that the sweep would take for lost: those under way are in the inbox, which it leaves alone
    for stuck in under_way.values():
        inbox.wait_for(orderId=stuck)

    # AND an order whose event nobody got
    with without_rule(cloud, "OrderWorkRule"):
        order_id = place(api)
        eventually(lambda: mails(cloud, order_id) == 1, "the event to be on the bus")
    assert "not started a workflow yet" in inbox.sentence(order_id)

    # WHEN the sweep finds it overdue, twice
    inbox.sweep(promiseSeconds=0.1)
    inbox.sweep(promiseSeconds=3600)

    # THEN it is fulfilled, once
    ends(cloud, order_id, "FULFILLED")
    assert charges(cloud, order_id) == 1


def test_a_replay_delivers_what_was_lost_and_repeats_nothing(cloud: Target, api: OrdersApi, inbox: Inbox) -> None:
    # GIVEN an order whose receipt nobody wrote
    start = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with without_rule(cloud, "OrderFulfilledRule"):
        order_id = place(api)
        ends(cloud, order_id, "FULFILLED")
        eventually(lambda: mails(cloud, order_id) == 2, "the last event to be delivered elsewhere")
    assert not receipt_exists(cloud, order_id)

    # WHEN all that happened since is replayed to every rule
    end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 60))
    replayed = inbox.run("replay", "--from", start, "--to", end)
    assert replayed["state"] == "COMPLETED"

    # THEN the receipt is there, and nothing else happened twice
    eventually(lambda: receipt_exists(cloud, order_id), "the receipt")
    eventually(lambda: queue_is_empty(cloud, "NotificationsQueueUrl"), "the queue to drain")
    assert mails(cloud, order_id) == 2
    assert charges(cloud, order_id) == 1


def test_a_poison_message(cloud: Target, inbox: Inbox, under_way: dict[str, str]) -> None:
    # GIVEN a warehouse that doesn't answer however often the message comes
    order_id = under_way["warehouse"]
    failure = inbox.wait_for(orderId=order_id, kind="queue")

    # THEN the message is in the inbox, with the consumer's error
    assert (failure["component"], failure["errorName"]) == ("FulfilmentQueue", "WarehouseUnavailable")
    assert failure["attempts"] == 5
    assert json.loads(failure["payload"])["orderId"] == order_id
    assert failure["failureId"] in inbox.sentence(order_id)

    # WHEN the warehouse answers again
    inbox.redrive(failure)

    # THEN the order goes on
    ends(cloud, order_id, "FULFILLED")
    assert records.find_order(cloud, order_id) is not None
    inbox.sweep()
    assert inbox.wait_for(failureId=failure["failureId"])["status"] == "RESOLVED"


def test_a_stuck_order(cloud: Target, inbox: Inbox, under_way: dict[str, str]) -> None:
    # GIVEN a payment provider that was down for longer than the workflow tries
    order_id = under_way["provider"]
    failure = inbox.wait_for(orderId=order_id, kind="execution")

    # THEN the order keeps what it has, and the inbox says what happened
    assert (failure["component"], failure["errorName"]) == ("ProcessPayment", "PaymentProviderError")
    assert failure["errorMessage"] == "the payment provider answered 503"
    page = inbox.run("explain", order_id)
    assert page["order"]["status"] == "RESERVED"
    assert page["sentence"].startswith("Stuck since")
    told = [(event["source"].partition(" ")[0], event["what"]) for event in page["events"]]
    error = "PaymentProviderError: the payment provider answered 503"
    assert told.count(("workflow", f"an attempt failed: {error}")) == 5
    assert ("workflow", "failed: PaymentProviderError: ProcessPayment: the payment provider answered 503") in told

    # WHEN the provider is back
    inbox.redrive(failure)

    # THEN the order goes on from where it was and is charged once
    order = ends(cloud, order_id, "FULFILLED")
    assert [entry.what for entry in order.timeline].count("RESERVED") == 1
    assert charges(cloud, order_id) == 1

    # WHEN it is sent once more all the same
    outcome = inbox.run("failures", "redrive", failure["failureId"], "--again", "--wait", "0")

    # THEN nothing happens, because the order has ended
    assert outcome["resolved"] == 1
    assert charges(cloud, order_id) == 1


def test_a_stuck_order_that_is_discarded_is_undone(cloud: Target, inbox: Inbox, under_way: dict[str, str]) -> None:
    # GIVEN an order that can't be paid
    order_id = under_way["hopeless"]
    failure = inbox.wait_for(orderId=order_id, kind="execution")
    line = samples.sample("fulfilled")["lines"][0]
    reserved = stock(cloud, line["sku"]).reserved

    # WHEN it is given up
    inbox.run("failures", "discard", failure["failureId"], "--reason", "the provider never answers")

    # THEN the order has failed, its stock is back, and nothing will ever be charged
    order = ends(cloud, order_id, "FAILED")
    assert order.reason is not None
    assert order.reason.code == "Discarded"
    assert stock(cloud, line["sku"]).reserved == reserved - line["quantity"]
    assert records.payment_of(cloud, order_id) == Payment("VOIDED")
    assert "everything undone" in inbox.sentence(order_id)


def stock(cloud: Target, sku: str) -> Stock:
    found = records.stock_of(cloud, sku)
    assert found is not None
    return found


def test_the_list_groups_by_cause(inbox: Inbox) -> None:
    listed = inbox.run("failures", "list", "--status", "ALL", "--error", "PaymentProviderError")

    causes = {(group["component"], group["error"]): group["failures"] for group in listed["groups"]}
    assert causes[("ProcessPayment", "PaymentProviderError")] == 2
    assert inbox.run("failures", "list", "--status", "ALL", "--older-than", "1d")["failures"] == []


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["failures", "show", "0123456789abcdef0123"], 4, "There is no failure"),
        (["failures", "redrive", "0123456789abcdef0123", "--dry-run"], 4, "There is no failure"),
        (["failures", "redrive"], 2, "Name failures by id"),
        (["failures", "redrive", "x", "--all"], 2, "Name failures by id"),
        (["failures", "redrive", "--all", "--rate", "0"], 2, "--rate"),
        (["failures", "discard", "x", "--reason", " "], 2, "The reason is empty"),
        (["failures", "discard", "x", "--reason", "y" * 501], 2, "501 characters"),
        (["failures", "list", "--status", "BROKEN"], 2, "no status"),
        (["failures", "list", "--older-than", "yesterday"], 2, "no duration"),
        (["explain", "no-such-order"], 4, "There is no order"),
        (["replay", "--from", "yesterday", "--to", "today"], 2, "no time"),
        (["replay", "--from", "2026-01-02", "--to", "2026-01-01"], 2, "before"),
        (["replay", "--from", "2026-01-01", "--to", "2026-01-02", "--rule", "Nobody"], 2, "No rule"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_bad_input_gets_a_sentence_and_an_exit_code(inbox: Inbox, arguments: list[str], code: int, says: str) -> None:
    assert says in inbox.run(*arguments, code=code)
