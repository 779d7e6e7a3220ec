"""EventBridge user guide: retry policy, dead-letter queues, permissions, PutEvents, replay."""

import json
import os
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from conformance.support import ACCOUNT, PYTHON, REGION, LocalCloud, eventually, unique

FAILING = "def handler(event, context):\n    raise ValueError(event['detail'])\n"


def test_the_event_of_a_missing_target_goes_to_the_dead_letter_queue(cloud: LocalCloud) -> None:
    # GIVEN a rule whose target is gone
    bus = cloud.bus()
    dead_letters = cloud.queue_for_events()
    target = f"arn:aws:sqs:{REGION}:{ACCOUNT}:{unique('gone')}"
    rule = cloud.rule(bus, {"Arn": target, "DeadLetterConfig": {"Arn": dead_letters.arn}})
    # WHEN an event matches
    event_id = cloud.put_event(bus, {"item": 1})
    # THEN the event lies on the dead-letter queue, with the documented attributes
    message = dead_letters.next()
    event = json.loads(message["Body"])
    attributes = {name: value["StringValue"] for name, value in message["MessageAttributes"].items()}
    assert event["id"] == event_id
    assert event["detail"] == {"item": 1}
    assert attributes["RULE_ARN"] == rule
    assert attributes["TARGET_ARN"] == target
    assert attributes["ERROR_CODE"] == "NO_RESOURCE"
    assert attributes["ERROR_MESSAGE"]
    assert attributes["RETRY_ATTEMPTS"] == "0"


@pytest.mark.parametrize(
    "target",
    [
        f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:gone",
        f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:gone",
        f"arn:aws:events:{REGION}:{ACCOUNT}:event-bus/gone",
        f"arn:aws:sns:{REGION}:{ACCOUNT}:gone",
    ],
)
def test_every_kind_of_missing_target_is_dead_lettered(cloud: LocalCloud, target: str) -> None:
    # GIVEN a rule whose target does not exist
    bus = cloud.bus()
    dead_letters = cloud.queue_for_events()
    role = cloud.role("events.amazonaws.com")
    cloud.rule(bus, {"Arn": target, "RoleArn": role, "DeadLetterConfig": {"Arn": dead_letters.arn}})
    # WHEN an event matches
    cloud.put_event(bus, {})
    # THEN it lies on the dead-letter queue
    assert dead_letters.next()["MessageAttributes"]["TARGET_ARN"]["StringValue"] == target


def test_a_queue_that_lets_nobody_in_gets_nothing(cloud: LocalCloud) -> None:
    # GIVEN a target queue without a policy
    bus = cloud.bus()
    queue, dead_letters = cloud.queue(), cloud.queue_for_events()
    cloud.rule(bus, {"Arn": queue.arn, "DeadLetterConfig": {"Arn": dead_letters.arn}})
    # WHEN an event matches
    cloud.put_event(bus, {})
    # THEN the delivery is refused
    message = dead_letters.next()
    assert message["MessageAttributes"]["ERROR_CODE"]["StringValue"] == "NO_PERMISSIONS"
    assert queue.take() is None


def test_a_failing_function_is_retried_and_then_goes_to_its_own_destination(cloud: LocalCloud) -> None:
    # GIVEN a function as target that fails and has an on-failure destination
    bus = cloud.bus()
    failures, dead_letters = cloud.queue(), cloud.queue_for_events()
    function = cloud.function(FAILING)
    cloud.client("lambda").put_function_event_invoke_config(
        FunctionName=function,
        MaximumRetryAttempts=1,
        DestinationConfig={"OnFailure": {"Destination": failures.arn}},
    )
    arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{function}"
    rule = cloud.rule(bus, {"Arn": arn, "DeadLetterConfig": {"Arn": dead_letters.arn}})
    cloud.client("lambda").add_permission(
        FunctionName=function,
        StatementId="rule",
        Action="lambda:InvokeFunction",
        Principal="events.amazonaws.com",
        SourceArn=rule,
    )
    # WHEN an event matches
    cloud.put_event(bus, {"item": 1})
    # THEN Lambda retries and records the failure; for EventBridge the event was delivered
    record = json.loads(failures.next()["Body"])
    assert record["requestContext"]["approximateInvokeCount"] == 2
    assert record["requestPayload"]["detail"] == {"item": 1}
    assert dead_letters.take() is None


def test_a_target_whose_input_is_no_json_is_dead_lettered(cloud: LocalCloud) -> None:
    # GIVEN a function as target that gets text
    bus, dead_letters = cloud.bus(), cloud.queue_for_events()
    function = cloud.function("def handler(event, context): return event\n")
    cloud.client("lambda").add_permission(
        FunctionName=function, StatementId="all", Action="lambda:InvokeFunction", Principal="events.amazonaws.com"
    )
    arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{function}"
    cloud.rule(bus, {"Arn": arn, "Input": "text", "DeadLetterConfig": {"Arn": dead_letters.arn}})
    # WHEN an event matches
    cloud.put_event(bus, {})
    # THEN the delivery fails for good
    assert dead_letters.next()["MessageAttributes"]["ERROR_CODE"]["StringValue"] == "INVALID_JSON"


RETRIES = """
import json, sys, time
from localcloud.corrections import eventbridge

letters = []
eventbridge.dead_letter = lambda target, rule, event, error, **rest: letters.append([error.code, rest])

def refuse(target, event, rule, view):
    eventbridge.fail("THROTTLING", "busy", retriable=True)

for policy in json.loads(sys.argv[1]):
    count, target = len(letters), {"Arn": "target", "RetryPolicy": policy}
    eventbridge.Deliveries(refuse, 0.01).deliver(target, {"EventId": "1"}, {"Arn": "rule"})
    deadline = time.monotonic() + 20
    while len(letters) == count and time.monotonic() < deadline:
        time.sleep(0.01)
print(json.dumps(letters))
"""


@pytest.mark.skipif(bool(os.environ.get("LOCALCLOUD_BARE")), reason="no target of the local cloud is ever busy")
def test_a_busy_target_is_tried_as_often_as_its_retry_policy_says(cloud: LocalCloud) -> None:
    # GIVEN a target that is always busy, and three policies
    policies = [{"MaximumRetryAttempts": 2}, {"MaximumRetryAttempts": 0}, {"MaximumEventAgeInSeconds": 0}]
    # WHEN an event is delivered to it under each
    command = [str(PYTHON), "-c", RETRIES, json.dumps(policies)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    # THEN it is retried until the policy is used up, and then dead-lettered
    assert json.loads(ended.stdout) == [
        ["THROTTLING", {"attempts": 2, "condition": "MaximumRetryAttempts"}],
        ["THROTTLING", {"attempts": 0, "condition": "MaximumRetryAttempts"}],
        ["THROTTLING", {"attempts": 0, "condition": "MaximumEventAgeInSeconds"}],
    ]


@pytest.mark.parametrize("field", ["Source", "DetailType", "Detail"])
def test_an_entry_without_a_required_field_fails_alone(cloud: LocalCloud, field: str) -> None:
    # GIVEN two entries, one of which lacks a field
    good = {"Source": "test", "DetailType": "Tested", "Detail": "{}"}
    bad = {name: value for name, value in good.items() if name != field}
    # WHEN they are put together
    answer = cloud.client("events").put_events(Entries=[bad, good])
    # THEN the other one is accepted
    assert answer["FailedEntryCount"] == 1
    assert answer["Entries"][0]["ErrorCode"] == "InvalidArgument"
    assert field in answer["Entries"][0]["ErrorMessage"]
    assert "EventId" in answer["Entries"][1]


@pytest.mark.parametrize("detail", ["{not json", "[1]", '"text"'])
def test_an_entry_whose_detail_is_no_json_object_fails(cloud: LocalCloud, detail: str) -> None:
    # GIVEN a detail that is not an object
    entry = {"Source": "test", "DetailType": "Tested", "Detail": detail}
    # WHEN it is put
    answer = cloud.client("events").put_events(Entries=[entry])
    # THEN it is refused as malformed
    assert answer["Entries"][0]["ErrorCode"] == "MalformedDetail"


def test_entries_that_are_too_large_together_are_refused(cloud: LocalCloud) -> None:
    # GIVEN a detail of more than a megabyte
    detail = json.dumps({"text": "x" * 1024 * 1024})
    events = cloud.client("events")
    # WHEN it is put
    with pytest.raises(events.exceptions.ClientError) as refusal:
        events.put_events(Entries=[{"Source": "test", "DetailType": "Tested", "Detail": detail}])
    # THEN the whole request is refused
    assert refusal.value.response["Error"]["Code"] == "ValidationException"


def test_a_replay_reaches_the_rules_it_names_only(cloud: LocalCloud) -> None:
    # GIVEN an archive of a bus with two rules
    events = cloud.client("events")
    bus = cloud.bus()
    bus_arn = f"arn:aws:events:{REGION}:{ACCOUNT}:event-bus/{bus}"
    archive = events.create_archive(ArchiveName=unique("archive"), EventSourceArn=bus_arn)["ArchiveArn"]
    named, other = cloud.queue_for_events(), cloud.queue_for_events()
    rule = cloud.rule(bus, {"Arn": named.arn})
    cloud.rule(bus, {"Arn": other.arn})
    cloud.put_event(bus, {"item": 1})
    named.next()
    other.next()
    # WHEN it is replayed to one of them
    name = unique("replay")
    now = datetime.now(UTC)
    events.start_replay(
        ReplayName=name,
        EventSourceArn=archive,
        EventStartTime=now - timedelta(hours=1),
        EventEndTime=now + timedelta(hours=1),
        Destination={"Arn": bus_arn, "FilterArns": [rule]},
    )
    # THEN the other gets nothing
    assert json.loads(named.next()["Body"])["replay-name"] == name
    eventually(lambda: events.describe_replay(ReplayName=name)["State"] == "COMPLETED")
    assert other.take() is None
