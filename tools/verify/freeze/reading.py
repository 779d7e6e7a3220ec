"""Reads what a stack has in flight, as AWS hands it out: items in DynamoDB's JSON, messages, records, histories.

A thing is read with the kinds (`verify.freeze.kinds`) that it is an example of. Tables and buckets are read whole,
because an order, its payment and its stock only fit together; of all else one thing of each sort is kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from orderctl.stack.logs import WORKFLOW, groups_of
from orderctl.stack.logs import events as log_events
from orderctl.stack.target import Target
from orders.domain.order import Status
from orders.inbox.healing import CAUSE_PREFIX

Json = dict[str, Any]

RECEIVED_AT_ONCE = 10  # SQS's quota
# Longer messages are left out: what they carry lies in the bucket, too.
LONGEST_MESSAGE = 50_000


class Thing(NamedTuple):
    """Something in flight and the kinds that it is an example of."""

    kinds: list[str]
    content: Json


def read(there: Target, failure_messages: list[Json], events: list[Json]) -> dict[str, list[Thing]]:
    """Everything in flight by group. `failure_messages` and `events` were collected before, since they move on."""
    inputs, states = _executions(there)
    payloads = _objects(there, "FailedPayloadsBucket")
    healing = [item for item in scan(there, "FailuresTable") if not _fails(item)]
    short = [each for each in failure_messages if len(each["Body"]) <= LONGEST_MESSAGE]
    return {
        "orders": [Thing(_kinds_of_order(item), item) for item in scan(there, "OrdersTable")],
        "failures": [Thing(_kinds_of_failure(item), item) for item in failures(there)],
        "healing": [Thing([_kind_of_healing(item)], item) for item in healing],
        "payload_objects": [Thing([each["Key"].partition("/")[0]], each) for each in payloads],
        "payments": [Thing([_entry_status(item)], item) for item in scan(there, "PaymentsTable")],
        "shipments": [Thing([_entry_status(item)], item) for item in scan(there, "ShipmentsTable")],
        "catalogue": [Thing([_kind_of_stock(item)], item) for item in scan(there, "CatalogueTable")],
        "idempotency": [Thing([item["status"]["S"]], item) for item in scan(there, "IdempotencyTable")],
        "receipts": _one_each(Thing(["receipt"], each) for each in _objects(there, "ReceiptsBucket")),
        "stream": _one_each(Thing(_kinds_of_record(each), each) for each in _stream(there)),
        "events": _one_each((Thing([each["detail-type"]], each) for each in events), _reason_of),
        "messages_fulfilment": [Thing(["order"], each) for each in _messages(there, "FulfilmentQueueUrl")],
        "messages_notifications": _one_each(
            (
                Thing([json.loads(each["Body"])["detail-type"]], each)
                for each in _messages(there, "NotificationsQueueUrl")
            ),
        ),
        "messages_failures": [Thing([form_of(each)], each) for each in short],
        "workflow_inputs": inputs,
        "workflow_states": states,
    }


def scan(there: Target, output: str) -> list[Json]:
    """Every item of the table that this output of the stack names, oldest first."""
    pages = (
        there.client("dynamodb").get_paginator("scan").paginate(TableName=there.output(output), ConsistentRead=True)
    )
    return sorted((item for page in pages for item in page["Items"]), key=_age)


def _age(item: Json) -> str:
    times = ("placedAt", "firstSeenAt", "chargedAt", "refundedAt", "decidedAt", "expiration")
    return next((str(item[name]) for name in times if name in item), "")


def receive(sqs: Any, url: str, visible_after: int) -> list[Json]:
    """Every message that a queue shows just now; they are visible again `visible_after` seconds later."""
    found: dict[str, Json] = {}
    while True:
        messages = sqs.receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=RECEIVED_AT_ONCE,
            VisibilityTimeout=visible_after,
            MessageSystemAttributeNames=["All"],
            MessageAttributeNames=["All"],
        ).get("Messages", [])
        new = [message for message in messages if message["MessageId"] not in found]
        if not new:
            return list(found.values())
        found |= {message["MessageId"]: message for message in new}


def form_of(message: Json) -> str:
    """The form of a message of the failures queue (`kinds.FAILURE_FORMS`), by its parts alone."""
    if "DeadLetterQueueSourceArn" in message.get("Attributes", {}):
        return "moved-message"
    attributes = message.get("MessageAttributes", {})
    if "TARGET_ARN" in attributes:
        return "rule-dead-letter" if "RULE_ARN" in attributes else "schedule-dead-letter"
    try:
        body = json.loads(message["Body"])
    except ValueError:
        body = None
    if not isinstance(body, dict):
        return "unclassified"
    for part, form in (("DDBStreamBatchInfo", "stream-batch"), ("requestPayload", "invocation-record")):
        if part in body:
            return form
    forms = {
        "UnreadableStreamRecord": "parked-record",
        "PoisonMessage": "poison-report",
        "StuckOrder": "stuck-order",
    }
    return forms.get(body.get("kind", ""), "unclassified")


def _one_each(things: Any, also: Callable[[Thing], str] = lambda _: "") -> list[Thing]:
    """The first thing of each combination of kinds, and of what `also` tells apart."""
    kept: dict[tuple[str, ...], Thing] = {}
    for thing in things:
        kept.setdefault((*thing.kinds, also(thing)), thing)
    return list(kept.values())


def _kinds_of_order(item: Json) -> list[str]:
    status = str(item["status"]["S"])
    kinds = [f"FAILED-{item['reason']['M']['code']['S']}" if status == Status.FAILED else status]
    if any("taken" in line["M"] for line in item["lines"]["L"]):
        kinds.append("taken-from-shards")
    if "sweptAt" in item:
        kinds.append("restarted")
    return kinds


def _kind_of_stock(item: Json) -> str:
    if "price" in item:
        return "sharded-product" if "shards" in item else "product"
    return "closed-shard" if "closed" in item else "shard"


def failures(there: Target) -> list[Json]:
    """Every record of the failure inbox; its table has items of other kinds, too."""
    return [item for item in scan(there, "FailuresTable") if _fails(item)]


def _fails(item: Json) -> bool:
    return "status" in item


def _kind_of_healing(item: Json) -> str:
    return "cause" if item["failureId"]["S"].startswith(CAUSE_PREFIX) else "holds"


def _kinds_of_failure(item: Json) -> list[str]:
    status = item["status"]["S"]
    if status == "REDRIVEN":
        status += "-sent" if "sentAt" in item else "-claimed"
    encoded = item.get("payloadEncoding", {}).get("S") == "base64"
    payload = "bucket" if "payloadKey" in item else "base64" if encoded else "inline"
    action = item["redrive"]["M"]["action"]["S"]
    return [f"kind-{item['kind']['S']}", f"status-{status}", f"action-{action}", f"payload-{payload}"]


def _entry_status(item: Json) -> str:
    """The status of an entry of a ledger; one without only counts the calls that failed."""
    return str(item.get("status", {}).get("S", "calls-only"))


def _kinds_of_record(record: Json) -> list[str]:
    change = record["dynamodb"]
    before, after = change.get("OldImage"), change.get("NewImage")
    if after is None:
        return ["REMOVE"]
    if before and before["version"] == after["version"]:
        return ["same-version"]
    came_from = before["status"]["S"] if before else "nothing"
    return [f"to-{after['status']['S']}", f"from-{came_from}"]


def _reason_of(thing: Thing) -> str:
    return str(thing.content["detail"]["data"].get("reason", {}).get("code", ""))


def _messages(there: Target, output: str) -> list[Json]:
    return receive(there.client("sqs"), there.output(output), 60)


def _objects(there: Target, output: str) -> list[Json]:
    """Every object of a bucket: `Key` and `Body`, which is text."""
    s3, bucket = there.client("s3"), there.output(output)
    keys = [each["Key"] for each in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]
    return [{"Key": key, "Body": s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode()} for key in keys]


def _stream(there: Target) -> Iterator[Json]:
    """Every record of the orders table's stream, in the form in which a function gets them."""
    streams = there.client("dynamodbstreams")
    table = there.client("dynamodb").describe_table(TableName=there.output("OrdersTable"))["Table"]
    arn = table["LatestStreamArn"]
    for shard in streams.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"]:
        iterator = streams.get_shard_iterator(
            StreamArn=arn, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        while iterator:
            page = streams.get_records(ShardIterator=iterator)
            if not page["Records"]:
                break
            for record in page["Records"]:
                at = int(record["dynamodb"]["ApproximateCreationDateTime"].timestamp())
                change = {**record["dynamodb"], "ApproximateCreationDateTime": at}
                yield {**record, "dynamodb": change, "eventSourceARN": arn}
            iterator = page.get("NextShardIterator")


def _executions(there: Target) -> tuple[list[Thing], list[Thing]]:
    """The inputs of executions, and what their Task states are given and hand on, from the workflow's log."""
    histories: dict[str, list[Json]] = {}
    for line in log_events(there, groups_of(there, WORKFLOW)[WORKFLOW], "", 0):
        event = json.loads(line["message"])
        histories.setdefault(event["execution_arn"], []).append(event)
    inputs: list[Thing] = []
    states: list[Thing] = []
    for arn, history in histories.items():
        history.sort(key=lambda event: int(event["id"]))
        if "input" not in history[0]["details"]:
            continue  # it began before the log was told to have the data
        given = history[0]["details"]["input"]
        by = "event" if "status" in json.loads(given)["data"] else "ids"
        inputs.append(Thing([by], {"name": arn.split(":")[7], "input": given}))
        states += _tasks(iter(history))
    return (
        _one_each(inputs, lambda thing: json.loads(thing.content["input"])["data"].get("status", "")),
        _one_each(states, lambda thing: thing.content.get("error", "") + thing.content.get("next", "")),
    )


def _tasks(history: Iterator[Json]) -> Iterator[Thing]:
    """Each Task state of a history: the last attempt's `parameters` and `output` or `error`, and `handedOn`."""
    state: Json = {}
    for event in history:
        kind, details = event["type"], event["details"]
        if kind == "TaskStateEntered":
            state = {"state": details["name"], "input": details["input"]}
        elif kind == "TaskScheduled":
            state["parameters"] = details["parameters"]
        elif kind == "TaskSucceeded":
            state["output"] = details["output"]
        elif kind == "TaskFailed":
            state |= {"error": details["error"], "cause": details.get("cause", "")}
        elif kind == "TaskStateExited" and state:
            yield Thing([state["state"]], {**state, "handedOn": details["output"]})
            state = {}
    if state:
        yield Thing([state["state"]], {**state, "next": "running"})
