"""Lambda developer guide: DynamoDB streams, error handling, partial batch response, discarded records."""

import json
from typing import Any

from conformance.support import LocalCloud, Queue, eventually, table_with_stream

READER = """
    def handler(event, context):
        keys = [record["dynamodb"]["Keys"]["id"]["S"] for record in event["Records"]]
        print("batch", ",".join(keys))
        bad = [record for record in event["Records"] if record["dynamodb"]["Keys"]["id"]["S"].startswith("bad")]
        if not bad:
            return {"batchItemFailures": []}
        if REPORT:
            return {"batchItemFailures": [{"itemIdentifier": bad[0]["dynamodb"]["SequenceNumber"]}]}
        raise ValueError("bad record")
"""
REPORTING = READER.replace("REPORT", "True")
RAISING = READER.replace("REPORT", "False")


def put(cloud: LocalCloud, name: str, *keys: str) -> None:
    """Put items."""
    for key in keys:
        cloud.client("dynamodb").put_item(TableName=name, Item={"id": {"S": key}})


def read(cloud: LocalCloud, stream: str, source: str, **options: Any) -> tuple[str, Queue]:
    """Let a function read a stream from its start; return it and the queue that gets what it gives up."""
    function, queue = cloud.function(source), cloud.queue()
    cloud.client("lambda").create_event_source_mapping(
        EventSourceArn=stream,
        FunctionName=function,
        StartingPosition="TRIM_HORIZON",
        DestinationConfig={"OnFailure": {"Destination": queue.arn}},
        **options,
    )
    return function, queue


def batches(cloud: LocalCloud, function: str) -> list[str]:
    """Return the keys of each batch that the function got."""
    return [line.split()[1] for line in cloud.log(function) if line.startswith("batch")]


def test_a_bad_record_is_given_up_after_its_retries_and_the_stream_goes_on(cloud: LocalCloud) -> None:
    # GIVEN a bad record between two good ones
    name, stream = table_with_stream(cloud)
    put(cloud, name, "good-1", "bad", "good-2")
    # WHEN a function reads them with bisecting and one retry
    function, given_up = read(cloud, stream, RAISING, BisectBatchOnFunctionError=True, MaximumRetryAttempts=1)
    record = json.loads(given_up.next()["Body"])
    # THEN the bad one alone is given up, after two attempts, and the good ones are processed
    eventually(lambda: "good-2" in batches(cloud, function))
    assert batches(cloud, function) == ["good-1,bad,good-2", "good-1", "bad,good-2", "bad", "bad", "good-2"]
    assert record["requestContext"]["condition"] == "RetryAttemptsExhausted"
    assert record["requestContext"]["approximateInvokeCount"] == 2
    assert record["requestContext"]["functionArn"].endswith(f":function:{function}")
    assert record["version"] == "1.0"
    assert record["DDBStreamBatchInfo"]["batchSize"] == 1
    assert record["DDBStreamBatchInfo"]["streamArn"] == stream


def test_the_pointer_leads_to_the_record(cloud: LocalCloud) -> None:
    # GIVEN a record that was given up
    name, stream = table_with_stream(cloud)
    put(cloud, name, "bad")
    _, given_up = read(cloud, stream, RAISING, MaximumRetryAttempts=0)
    info = json.loads(given_up.next()["Body"])["DDBStreamBatchInfo"]
    # WHEN the stream is read where the pointer says
    streams = cloud.client("dynamodbstreams")
    iterator = streams.get_shard_iterator(
        StreamArn=info["streamArn"],
        ShardId=info["shardId"],
        ShardIteratorType="AT_SEQUENCE_NUMBER",
        SequenceNumber=info["startSequenceNumber"],
    )["ShardIterator"]
    records = streams.get_records(ShardIterator=iterator)["Records"]
    # THEN the record is there
    assert records[0]["dynamodb"]["Keys"] == {"id": {"S": "bad"}}
    assert info["startSequenceNumber"] == info["endSequenceNumber"]


def test_a_partial_batch_continues_at_the_first_failure(cloud: LocalCloud) -> None:
    # GIVEN a function that reports the record that failed
    name, stream = table_with_stream(cloud)
    put(cloud, name, "good-1", "bad", "good-2")
    # WHEN it reads a batch without retries and without bisecting
    function, given_up = read(
        cloud,
        stream,
        REPORTING,
        MaximumRetryAttempts=0,
        BatchSize=2,
        FunctionResponseTypes=["ReportBatchItemFailures"],
    )
    # THEN what was good is not repeated
    assert json.loads(given_up.next()["Body"])["DDBStreamBatchInfo"]["batchSize"] == 1
    eventually(lambda: "good-2" in batches(cloud, function))
    assert batches(cloud, function) == ["good-1,bad", "bad", "good-2"]


def test_a_record_is_given_up_when_it_is_too_old(cloud: LocalCloud) -> None:
    # GIVEN a mapping without a limit of retries but with one of age
    name, stream = table_with_stream(cloud)
    put(cloud, name, "bad")
    # WHEN a record fails until it is too old
    _, given_up = read(cloud, stream, RAISING, MaximumRecordAgeInSeconds=0)
    # THEN it is given up
    assert json.loads(given_up.next()["Body"])["DDBStreamBatchInfo"]["batchSize"] == 1


def test_only_matching_records_reach_the_function(cloud: LocalCloud) -> None:
    # GIVEN a filter on inserts of one key
    name, stream = table_with_stream(cloud)
    put(cloud, name, "other", "wanted", "other-2")
    pattern = {"eventName": ["INSERT"], "dynamodb": {"Keys": {"id": {"S": ["wanted", "last"]}}}}
    # WHEN the function reads
    function, _ = read(cloud, stream, RAISING, FilterCriteria={"Filters": [{"Pattern": json.dumps(pattern)}]})
    put(cloud, name, "last")
    # THEN it sees those only
    eventually(lambda: "last" in ",".join(batches(cloud, function)))
    assert set(",".join(batches(cloud, function)).split(",")) == {"wanted", "last"}


def test_a_failing_stream_does_not_hold_up_a_queue(cloud: LocalCloud) -> None:
    # GIVEN a stream whose function hangs
    name, stream = table_with_stream(cloud)
    read(cloud, stream, "import time\ndef handler(event, context): time.sleep(9)\n")
    put(cloud, name, "slow")
    # WHEN a message arrives on a queue with another function
    queue = cloud.queue()
    function = cloud.function("def handler(event, context):\n    print('received')\n")
    cloud.client("lambda").create_event_source_mapping(EventSourceArn=queue.arn, FunctionName=function)
    queue.send({})
    # THEN that function gets it meanwhile
    eventually(lambda: "received" in cloud.log(function), 5)
