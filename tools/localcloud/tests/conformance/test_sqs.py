"""SQS developer guide: dead-letter queue redrive; Lambda developer guide: SQS event source."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from conformance.support import LocalCloud, Queue, eventually

KEEPER = """
    import boto3
    import json
    import os

    SQS = boto3.client("sqs")

    def handler(event, context):
        for record in event["Records"]:
            SQS.send_message(QueueUrl=os.environ["SEEN"], MessageBody=json.dumps(record))
        return ANSWER
"""

PRINTER = """
    def handler(event, context):
        for record in event["Records"]:
            print("seen", record["messageId"])
"""


def with_dead_letters(cloud: LocalCloud, max_receive_count: int = 1) -> tuple[Queue, Queue]:
    """Create a queue that redrives to another, and return both."""
    dead_letters = cloud.queue()
    redrive = {"deadLetterTargetArn": dead_letters.arn, "maxReceiveCount": max_receive_count}
    return cloud.queue(RedrivePolicy=json.dumps(redrive), VisibilityTimeout="0"), dead_letters


def bury(cloud: LocalCloud, queue: Queue, dead_letters: Queue, count: int = 1) -> None:
    """Send messages and receive them in vain, until they are dead letters."""
    for number in range(count):
        queue.send({"number": number})

    def buried() -> bool:
        queue.client.receive_message(QueueUrl=queue.url, MaxNumberOfMessages=10)
        return depth(dead_letters) == count

    eventually(buried)


def depth(queue: Queue) -> int:
    """Return the number of visible messages."""
    name = "ApproximateNumberOfMessages"
    attributes = queue.client.get_queue_attributes(QueueUrl=queue.url, AttributeNames=[name])["Attributes"]
    return int(attributes[name])


def task_of(queue: Queue) -> dict[str, Any]:
    """Return the newest move task of a queue, once it has ended."""

    def ended() -> dict[str, Any] | None:
        task = queue.client.list_message_move_tasks(SourceArn=queue.arn)["Results"][0]
        return None if task["Status"] == "RUNNING" else dict(task)

    task = eventually(ended)
    assert task is not None
    return task


def test_a_redrive_takes_messages_back_to_where_they_came_from(cloud: LocalCloud) -> None:
    # GIVEN three dead letters
    queue, dead_letters = with_dead_letters(cloud)
    bury(cloud, queue, dead_letters, 3)
    # WHEN they are redriven without naming a destination
    handle = queue.client.start_message_move_task(SourceArn=dead_letters.arn)["TaskHandle"]
    # THEN they are on their queue again
    assert handle
    task = task_of(dead_letters)
    assert task["Status"] == "COMPLETED"
    assert (task["ApproximateNumberOfMessagesMoved"], task["ApproximateNumberOfMessagesToMove"]) == (3, 3)
    assert (depth(queue), depth(dead_letters)) == (3, 0)


def test_a_redrive_can_go_to_another_queue(cloud: LocalCloud) -> None:
    # GIVEN a dead letter
    queue, dead_letters = with_dead_letters(cloud)
    bury(cloud, queue, dead_letters)
    elsewhere = cloud.queue()
    # WHEN it is redriven to another queue
    queue.client.start_message_move_task(SourceArn=dead_letters.arn, DestinationArn=elsewhere.arn)
    # THEN it is there, never received before
    message = elsewhere.next()
    assert json.loads(message["Body"]) == {"number": 0}
    assert message["Attributes"]["ApproximateReceiveCount"] == "1"


def test_a_redrive_fails_when_a_message_has_no_origin(cloud: LocalCloud) -> None:
    # GIVEN a message that was sent to the dead-letter queue directly
    _, dead_letters = with_dead_letters(cloud)
    dead_letters.send({})
    # WHEN it is redriven to its origin
    dead_letters.client.start_message_move_task(SourceArn=dead_letters.arn)
    # THEN the task says why it can't
    task = task_of(dead_letters)
    assert (task["Status"], task["FailureReason"]) == ("FAILED", "CouldNotDetermineMessageSource")
    assert depth(dead_letters) == 1


def test_only_a_dead_letter_queue_can_be_redriven(cloud: LocalCloud) -> None:
    # GIVEN an ordinary queue
    queue = cloud.queue()
    # WHEN it is redriven
    with pytest.raises(queue.client.exceptions.ClientError) as refusal:
        queue.client.start_message_move_task(SourceArn=queue.arn)
    # THEN the request is refused
    assert refusal.value.response["Error"]["Code"] == "InvalidParameterValue"


def test_the_sources_of_a_dead_letter_queue_are_listed(cloud: LocalCloud) -> None:
    # GIVEN a queue with a dead-letter queue
    queue, dead_letters = with_dead_letters(cloud)
    # WHEN the sources are asked for
    answer = queue.client.list_dead_letter_source_queues(QueueUrl=dead_letters.url)
    # THEN the queue is among them
    assert [url.rsplit("/", 1)[1] for url in answer["queueUrls"]] == [queue.arn.rsplit(":", 1)[1]]


def listen(cloud: LocalCloud, queue: Queue, answer: str, **options: Any) -> Queue:
    """Let a function read a queue; return the queue on which it puts the records that it sees."""
    seen = cloud.queue()
    variables = {"SEEN": seen.url}
    function = cloud.function(KEEPER.replace("ANSWER", answer), Environment={"Variables": variables})
    cloud.client("lambda").create_event_source_mapping(EventSourceArn=queue.arn, FunctionName=function, **options)
    return seen


def test_a_function_sees_where_a_dead_letter_came_from(cloud: LocalCloud) -> None:
    # GIVEN a dead letter
    queue, dead_letters = with_dead_letters(cloud)
    bury(cloud, queue, dead_letters)
    # WHEN a function reads the dead-letter queue
    seen = listen(cloud, dead_letters, "None")
    # THEN the record names the queue of origin
    record = json.loads(seen.next()["Body"])
    assert record["attributes"]["DeadLetterQueueSourceArn"] == queue.arn
    assert record["eventSourceARN"] == dead_letters.arn


def test_messages_that_are_reported_as_failed_stay_on_the_queue(cloud: LocalCloud) -> None:
    # GIVEN a function that reports its first record as failed
    queue, dead_letters = with_dead_letters(cloud)
    answer = "{'batchItemFailures': [{'itemIdentifier': event['Records'][0]['messageId']}]}"
    # WHEN it gets a message
    message_id = queue.send({})
    listen(cloud, queue, answer, FunctionResponseTypes=["ReportBatchItemFailures"])
    # THEN the message is a dead letter in the end
    assert dead_letters.next()["MessageId"] == message_id


@pytest.mark.parametrize(
    "answer",
    [
        "{'batchItemFailures': [{'itemIdentifier': ''}]}",
        "{'batchItemFailures': [{'id': 1}]}",
        "'text'",
    ],
)
def test_an_invalid_answer_fails_the_whole_batch(cloud: LocalCloud, answer: str) -> None:
    # GIVEN a function whose answer names no failure in the documented way
    queue, dead_letters = with_dead_letters(cloud)
    # WHEN it gets a message
    queue.send({})
    listen(cloud, queue, answer, FunctionResponseTypes=["ReportBatchItemFailures"])
    # THEN the message counts as failed
    assert dead_letters.next()


def test_no_message_is_lost_while_others_are_deleted(cloud: LocalCloud) -> None:
    # GIVEN a queue that a function empties
    queue = cloud.queue()
    function = cloud.function(PRINTER)
    cloud.client("lambda").create_event_source_mapping(EventSourceArn=queue.arn, FunctionName=function)
    # WHEN many messages are sent at once
    with ThreadPoolExecutor(4) as pool:
        sent = set(pool.map(lambda number: queue.send({"number": number}), range(120)))
    # THEN the function sees each of them
    eventually(lambda: {line.split()[1] for line in cloud.log(function) if line.startswith("seen")} == sent)
