"""Lambda developer guide: asynchronous invocation, retries, destinations, dead-letter queues."""

import json
from typing import Any

from conformance.support import LocalCloud, eventually, unique

FAILING = """
    class Refused(Exception):
        pass

    def handler(event, context):
        print("attempt", context.aws_request_id)
        raise Refused("no")
"""
ECHO = "def handler(event, context):\n    return event\n"


def attempts(cloud: LocalCloud, function: str) -> list[str]:
    """Return the request id of each attempt, from the function's log."""
    return [line.split()[1] for line in cloud.log(function) if line.startswith("attempt")]


def configure(cloud: LocalCloud, function: str, **config: Any) -> None:
    """Set how the function is invoked asynchronously."""
    cloud.client("lambda").put_function_event_invoke_config(FunctionName=function, **config)


def test_a_failing_function_is_tried_three_times_with_one_request_id(cloud: LocalCloud) -> None:
    # GIVEN a function that fails, and no configuration
    function = cloud.function(FAILING)
    # WHEN it is invoked asynchronously
    cloud.invoke(function, InvocationType="Event")
    # THEN it is tried twice more, as the same request
    eventually(lambda: len(attempts(cloud, function)) == 3)
    assert len(set(attempts(cloud, function))) == 1


def test_a_failure_goes_to_the_destination_as_an_invocation_record(cloud: LocalCloud) -> None:
    # GIVEN a function with one retry and an on-failure destination
    function = cloud.function(FAILING)
    queue = cloud.queue()
    configure(
        cloud,
        function,
        MaximumRetryAttempts=1,
        DestinationConfig={"OnFailure": {"Destination": queue.arn}},
    )
    # WHEN it is invoked asynchronously
    cloud.invoke(function, {"item": 1}, InvocationType="Event")
    # THEN the destination gets the documented record
    record = json.loads(queue.next()["Body"])
    context = record["requestContext"]
    assert record["version"] == "1.0"
    assert record["timestamp"].endswith("Z")
    assert context["requestId"] == attempts(cloud, function)[0]
    assert context["functionArn"].endswith(f":function:{function}:$LATEST")
    assert (context["condition"], context["approximateInvokeCount"]) == ("RetriesExhausted", 2)
    assert record["requestPayload"] == {"item": 1}
    assert record["responseContext"] == {
        "statusCode": 200,
        "executedVersion": "$LATEST",
        "functionError": "Unhandled",
    }
    assert record["responsePayload"]["errorType"] == "Refused"


def test_a_success_goes_to_its_own_destination(cloud: LocalCloud) -> None:
    # GIVEN a function with an on-success destination
    function = cloud.function(ECHO)
    queue = cloud.queue()
    configure(cloud, function, DestinationConfig={"OnSuccess": {"Destination": queue.arn}})
    # WHEN it is invoked asynchronously
    cloud.invoke(function, {"item": 1}, InvocationType="Event")
    # THEN the record tells of the success
    record = json.loads(queue.next()["Body"])
    assert record["requestContext"]["condition"] == "Success"
    assert record["responsePayload"] == {"item": 1}
    assert "functionError" not in record["responseContext"]


def test_the_configuration_of_an_alias_applies_to_the_alias(cloud: LocalCloud) -> None:
    # GIVEN an alias with an on-failure destination of its own
    function = cloud.function(FAILING)
    queue = cloud.queue()
    client = cloud.client("lambda")
    version = client.publish_version(FunctionName=function)["Version"]
    client.create_alias(FunctionName=function, Name="live", FunctionVersion=version)
    configure(
        cloud,
        function,
        Qualifier="live",
        MaximumRetryAttempts=0,
        DestinationConfig={"OnFailure": {"Destination": queue.arn}},
    )
    # WHEN the alias is invoked asynchronously
    cloud.invoke(function, Qualifier="live", InvocationType="Event")
    # THEN its destination gets the record, which names the alias and the version that ran
    record = json.loads(queue.next()["Body"])
    assert record["requestContext"]["functionArn"].endswith(f":{function}:live")
    assert record["requestContext"]["approximateInvokeCount"] == 1
    assert record["responseContext"]["executedVersion"] == version


def test_an_event_bus_is_a_destination(cloud: LocalCloud) -> None:
    # GIVEN a function whose failures go to a bus, with a rule that passes them on
    function = cloud.function(FAILING)
    bus = cloud.bus()
    queue = cloud.queue_for_events()
    cloud.rule(bus, {"Arn": queue.arn}, {"source": ["lambda"]})
    arn = f"arn:aws:events:us-east-1:000000000000:event-bus/{bus}"
    destination = {"OnFailure": {"Destination": arn}}
    configure(cloud, function, MaximumRetryAttempts=0, DestinationConfig=destination)
    # WHEN it fails
    cloud.invoke(function, InvocationType="Event")
    # THEN the bus gets the documented event
    event = json.loads(queue.next()["Body"])
    assert event["detail-type"] == "Lambda Function Invocation Result - Failure"
    assert event["detail"]["requestContext"]["condition"] == "RetriesExhausted"


def test_a_bucket_is_a_destination_for_failures(cloud: LocalCloud) -> None:
    # GIVEN a function whose failures go to a bucket
    function = cloud.function(FAILING)
    s3 = cloud.client("s3")
    bucket = unique("bucket")
    s3.create_bucket(Bucket=bucket)
    destination = {"OnFailure": {"Destination": f"arn:aws:s3:::{bucket}"}}
    configure(cloud, function, MaximumRetryAttempts=0, DestinationConfig=destination)
    # WHEN it fails
    cloud.invoke(function, InvocationType="Event")
    # THEN the record is an object under the documented key
    contents = eventually(lambda: s3.list_objects_v2(Bucket=bucket).get("Contents"))
    key = contents[0]["Key"]
    assert key.startswith(f"aws/lambda/async/{function}/$LATEST/")
    record = json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    assert record["requestContext"]["condition"] == "RetriesExhausted"


def test_a_dead_letter_queue_gets_the_event_itself(cloud: LocalCloud) -> None:
    # GIVEN a function with a dead-letter queue
    queue = cloud.queue()
    function = cloud.function(FAILING, DeadLetterConfig={"TargetArn": queue.arn})
    configure(cloud, function, MaximumRetryAttempts=0)
    # WHEN it fails
    cloud.invoke(function, {"item": 1}, InvocationType="Event")
    # THEN the message is the event, with the error as attributes
    message = queue.next()
    assert json.loads(message["Body"]) == {"item": 1}
    assert message["MessageAttributes"]["RequestID"]["StringValue"] == attempts(cloud, function)[0]
    assert message["MessageAttributes"]["ErrorCode"]["StringValue"] == "200"
    assert message["MessageAttributes"]["ErrorMessage"]["StringValue"] == "no"


def test_a_throttled_invocation_waits_instead_of_failing(cloud: LocalCloud) -> None:
    # GIVEN a function that may not run
    function = cloud.function(ECHO)
    queue = cloud.queue()
    configure(cloud, function, DestinationConfig={"OnSuccess": {"Destination": queue.arn}})
    client = cloud.client("lambda")
    client.put_function_concurrency(FunctionName=function, ReservedConcurrentExecutions=0)
    cloud.invoke(function, {"item": 1}, InvocationType="Event")
    # WHEN it may run again
    client.delete_function_concurrency(FunctionName=function)
    # THEN it runs, and that is its first attempt
    record = json.loads(queue.next()["Body"])
    assert record["requestContext"]["approximateInvokeCount"] == 1
