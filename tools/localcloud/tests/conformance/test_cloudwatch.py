"""Lambda developer guide: logs and metrics; CloudWatch user guide: embedded metric format."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from conformance.support import LocalCloud, eventually, unique

FUNCTION = """
    import json

    def handler(event, context):
        print(json.dumps(event))
        if event.get("raise"):
            raise ValueError("no")
        return context.log_stream_name
"""


def total(cloud: LocalCloud, namespace: str, name: str, **dimensions: str) -> float:
    """Return the sum of a metric over the last hour."""
    now = datetime.now(UTC)
    points = cloud.client("cloudwatch").get_metric_statistics(
        Namespace=namespace,
        MetricName=name,
        Dimensions=[{"Name": key, "Value": value} for key, value in dimensions.items()],
        StartTime=now - timedelta(hours=1),
        EndTime=now + timedelta(minutes=1),
        Period=3600,
        Statistics=["Sum"],
    )["Datapoints"]
    return sum(float(point["Sum"]) for point in points)


def test_each_invocation_counts_once_whoever_asked_for_it(cloud: LocalCloud) -> None:
    # GIVEN a function that reads a queue
    function, queue = cloud.function(FUNCTION), cloud.queue()
    cloud.client("lambda").create_event_source_mapping(EventSourceArn=queue.arn, FunctionName=function)
    # WHEN it is invoked directly, asynchronously and by a message
    cloud.invoke(function, {"raise": True})
    cloud.invoke(function, {}, InvocationType="Event")
    queue.send({})
    # THEN each counts, and the error too
    eventually(lambda: total(cloud, "AWS/Lambda", "Invocations", FunctionName=function) == 3)
    assert total(cloud, "AWS/Lambda", "Errors", FunctionName=function) == 1


def test_a_throttled_invocation_is_no_invocation(cloud: LocalCloud) -> None:
    # GIVEN a function that may not run
    function, client = cloud.function(FUNCTION), cloud.client("lambda")
    client.put_function_concurrency(FunctionName=function, ReservedConcurrentExecutions=0)
    # WHEN it is invoked
    with pytest.raises(client.exceptions.TooManyRequestsException):
        client.invoke(FunctionName=function)
    # THEN that counts as a throttle only
    assert total(cloud, "AWS/Lambda", "Throttles", FunctionName=function) == 1
    assert total(cloud, "AWS/Lambda", "Invocations", FunctionName=function) == 0


def test_embedded_metrics_become_metrics(cloud: LocalCloud) -> None:
    # GIVEN a function that writes a line in embedded metric format
    namespace = unique("Jobs")
    line = {
        "_aws": {
            "Timestamp": 0,
            "CloudWatchMetrics": [
                {
                    "Namespace": namespace,
                    "Dimensions": [["service"]],
                    "Metrics": [{"Name": "Done", "Unit": "Count"}],
                }
            ],
        },
        "service": "jobs",
        "Done": [1, 2],
    }
    # WHEN it runs
    cloud.invoke(cloud.function(FUNCTION), line)
    # THEN the values are in the metric
    assert total(cloud, namespace, "Done", service="jobs") == 3


def test_an_environment_writes_to_the_stream_of_its_context(cloud: LocalCloud) -> None:
    # GIVEN a function
    function = cloud.function(FUNCTION)
    # WHEN it runs twice in one environment
    _, first = cloud.invoke(function, {})
    _, second = cloud.invoke(function, {})
    # THEN its log group has one stream, the one that the function knows
    streams = cloud.client("logs").describe_log_streams(logGroupName=f"/aws/lambda/{function}")["logStreams"]
    assert [stream["logStreamName"] for stream in streams] == [first] == [second]


def test_an_error_is_one_event(cloud: LocalCloud) -> None:
    # GIVEN a function that raises
    function = cloud.function(FUNCTION)
    # WHEN it runs
    cloud.invoke(function, {"raise": True})
    # THEN message and stack trace are one event
    errors = [line for line in cloud.log(function) if "ValueError" in line]
    assert len(errors) == 1
    assert "in handler" in errors[0]
    assert "Traceback" in errors[0]


def test_the_own_log_group_of_a_function_gets_its_log(cloud: LocalCloud) -> None:
    # GIVEN a function with a log group of its own
    group = unique("jobs")
    cloud.client("logs").create_log_group(logGroupName=group)
    function = cloud.function(FUNCTION, LoggingConfig={"LogGroup": group})
    # WHEN it runs
    cloud.invoke(function, {"item": 1})
    # THEN the line is there
    events = cloud.client("logs").filter_log_events(logGroupName=group)["events"]
    assert json.dumps({"item": 1}) in [event["message"] for event in events]


def written(cloud: LocalCloud, streams: int, events: int, milliseconds: int) -> str:
    """Write numbered events to the streams of a new log group, over so many milliseconds, and return its name."""
    logs, group = cloud.client("logs"), unique("jobs")
    logs.create_log_group(logGroupName=group)
    begin = int(datetime.now(UTC).timestamp() * 1000) - 10_000
    for stream in range(streams):
        logs.create_log_stream(logGroupName=group, logStreamName=str(stream))
        batch = [
            {
                "timestamp": begin + n * milliseconds // events,
                "message": f"{stream}-{n} {'even' if n % 2 == 0 else 'odd'}",
            }
            for n in range(events)
        ]
        logs.put_log_events(logGroupName=group, logStreamName=str(stream), logEvents=batch)
    return group


# All at the same time, too: a page can end between two events of one millisecond.
@pytest.mark.parametrize("milliseconds", [5000, 7, 1])
def test_a_search_of_a_long_log_goes_on_until_every_event_was_given_once(
    cloud: LocalCloud, milliseconds: int
) -> None:
    # GIVEN a log of 24,000 events in three streams
    group = written(cloud, 3, 8000, milliseconds)
    # WHEN all pages are turned
    pages = list(cloud.client("logs").get_paginator("filter_log_events").paginate(logGroupName=group))
    # THEN no page has more than 10,000, and together they have each event once, in the order of their times
    events = [event for page in pages for event in page["events"]]
    assert [len(page["events"]) for page in pages] == [10_000, 10_000, 4000]
    assert len({event["message"] for event in events}) == len(events)
    assert [event["timestamp"] for event in events] == sorted(event["timestamp"] for event in events)


def test_a_search_by_pattern_goes_on_where_its_page_ended(cloud: LocalCloud) -> None:
    # GIVEN a log with something else between what is searched for
    group = written(cloud, 2, 500, 50)
    search = {"logGroupName": group, "filterPattern": "even", "limit": 60}
    # WHEN all pages are turned, and events are written meanwhile
    logs, found = cloud.client("logs"), []
    token: dict[str, str] = {}
    while True:
        page = logs.filter_log_events(**search, **token)
        found += [event["message"] for event in page["events"]]
        if "nextToken" not in page:
            break
        token = {"nextToken": page["nextToken"]}
        now = int(datetime.now(UTC).timestamp() * 1000)
        logs.put_log_events(
            logGroupName=group, logStreamName="0", logEvents=[{"timestamp": now, "message": f"odd {now}"}]
        )
    # THEN everything that was searched for has been found, once
    assert sorted(found) == sorted(f"{stream}-{n} even" for stream in range(2) for n in range(0, 500, 2))


def test_a_search_that_is_all_on_one_page_has_no_next_one(cloud: LocalCloud) -> None:
    group = written(cloud, 1, 10, 5)
    # WHEN a page has room for exactly what is there
    page = cloud.client("logs").filter_log_events(logGroupName=group, limit=10)
    # THEN it is the last
    assert len(page["events"]) == 10
    assert "nextToken" not in page


@pytest.mark.parametrize("token", ["nonsense", "1", "a/b"])
def test_a_token_that_was_not_given_is_refused(cloud: LocalCloud, token: str) -> None:
    group = written(cloud, 1, 1, 1)
    logs = cloud.client("logs")
    with pytest.raises(logs.exceptions.InvalidParameterException):
        logs.filter_log_events(logGroupName=group, nextToken=token)
