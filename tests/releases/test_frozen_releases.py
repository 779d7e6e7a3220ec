"""What earlier versions have in flight: complete, unchanged, readable and finished by the present code.

The frozen package `orders` is a second one of that name, so it is imported only in a process of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from orderctl.cloud.state import ROOT
from verify.freeze import release
from verify.freeze.reading import Thing

from orders.domain.events import DETAIL_TYPES, decode_bus_event, event_of
from orders.domain.order import TERMINAL, Status
from orders.domain.pricing import Product
from orders.inbox.parse import STUCK, read_message
from orders.inbox.record import (
    SETTLED,
    Action,
    FailureRecord,
    FailureStatus,
    Kind,
    claimed,
    failure_id_of,
    sent,
    settled,
)
from orders.inbox.store import decode_record
from orders.storage.dynamodb import from_item, to_item
from orders.storage.orders import decode_order
from orders.workflow import WorkflowInput

FOLDERS = sorted(path.parent for path in release.RELEASES.glob("*/manifest.json"))
KIND_OF_FORM = {
    "rule-dead-letter": Kind.RULE_TARGET,
    "schedule-dead-letter": Kind.RULE_TARGET,
    "moved-message": Kind.QUEUE,
    "poison-report": Kind.QUEUE,
    "invocation-record": Kind.FUNCTION,
    "stream-batch": Kind.STREAM,
    "parked-record": Kind.STREAM,
    "stuck-order": Kind.EXECUTION,
    # Release 1.0.0's: Step Functions told how an execution had ended.
    "execution-FAILED": Kind.EXECUTION,
    "execution-TIMED_OUT": Kind.EXECUTION,
    "execution-ABORTED": Kind.EXECUTION,
    "unclassified": Kind.UNKNOWN,
}

Things = dict[str, list[Thing]]


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda folder: folder.name)
def folder(request: pytest.FixtureRequest) -> Path:
    chosen: Path = request.param
    return chosen


@pytest.fixture(scope="module")
def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / release.MANIFEST).read_text())
    return found


@pytest.fixture(scope="module")
def things(folder: Path) -> Things:
    return release.load(folder)


def test_there_is_a_release() -> None:
    assert FOLDERS


def test_the_files_are_those_of_the_manifest(folder: Path, manifest: dict[str, Any], things: Things) -> None:
    assert release.digests(folder) == {path: entry["sha256"] for path, entry in manifest["files"].items()}
    counted = {group: Counter(kind for each in found for kind in each.kinds) for group, found in things.items()}
    assert counted == manifest["counts"]


def test_every_kind_that_the_frozen_package_names_has_an_example(folder: Path, things: Things) -> None:
    # GIVEN the statuses, kinds, events and states of the frozen package and its workflow
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, "-B", str(folder / "kinds.py")], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr

    # THEN each is in the freeze
    assert release.missing(things, json.loads(done.stdout)) == []


def test_nothing_in_a_release_tells_of_the_machine_that_made_it(folder: Path) -> None:
    text = "".join(path.read_text() for path in folder.rglob("*.json"))

    assert set(re.findall(r"arn:aws:[\w-]*:[\w-]*:(\d+):", text)) == {"000000000000"}
    assert set(re.findall(r"127\.0\.0\.1:\d+", text)) <= {"127.0.0.1:4566"}
    assert str(ROOT) not in text
    assert not re.search(r'File \\+"/(?!var/|usr/|checkout/)', text)


def test_the_package_orders_is_the_present_one() -> None:
    spec = importlib.util.find_spec("orders")
    assert spec is not None
    assert Path(str(spec.origin)).parent == ROOT / "src" / "orders"


# ---- The present code reads each


def test_orders_are_read_whole(things: Things) -> None:
    for thing in things["orders"]:
        order = decode_order(thing.content)
        stored = from_item(thing.content)
        assert {name: stored.get(name) for name in msgspec.to_builtins(order)} == msgspec.to_builtins(order)
        status, _, more = thing.kinds[0].partition("-")
        assert order.status == status
        assert order.status in list(Status)
        assert (order.given_up is not None) == (more == "given-up") or order.status in TERMINAL
        assert order.reason is None or order.reason.code == more or order.status == Status.FAILING


def test_products_are_read(things: Things) -> None:
    for thing in things["catalogue"]:
        stored = from_item(thing.content)
        if "price" in stored:  # a shard has stock only
            product = msgspec.convert(stored, Product)
            assert (product.sku, product.price, product.currency) == (
                stored["sku"],
                stored["price"],
                stored["currency"],
            )
            assert product.available == stored["available"]


def test_events_are_read_as_what_they_are(things: Things) -> None:
    for thing in things["events"]:
        event = decode_bus_event(json.dumps(thing.content))
        assert event.detail_type == thing.kinds[0]
        assert msgspec.to_builtins(event.detail) == thing.content["detail"]


def test_stream_records_become_the_events_that_they_became(things: Things) -> None:
    details = [event["detail"] for event in contents(things, "events")]
    published = {(detail["data"]["orderId"], detail["data"]["version"]): detail for detail in details}
    for thing in things["stream"]:
        if thing.kinds[0] == "REMOVE":
            continue
        event = event_of(decode_order(thing.content["dynamodb"]["NewImage"]))
        if thing.kinds[0] != "same-version":
            assert thing.kinds[0] == f"to-{event.data.status}"
            assert event.data.status in DETAIL_TYPES
            known = published.get((event.data.order_id, event.data.version))
            assert known in (None, msgspec.to_builtins(event))


def contents(things: Things, group: str) -> list[dict[str, Any]]:
    return [thing.content for thing in things[group]]


def test_failure_messages_are_the_same_failures_as_before(things: Things) -> None:
    ids = {
        message_id: record.failure_id
        for record in map(decode_record, contents(things, "failures"))
        for message_id in record.message_ids
    }
    for thing in things["messages_failures"]:
        form, message = thing.kinds[0], thing.content
        failure = read_message(as_function_gets(message))
        assert failure.kind is KIND_OF_FORM[form], form
        # A pointer to stream records is completed by these records, and so gets another id. Release 1.0.0 knew a
        # stuck order by its state machine, too, which is another one now.
        other = form == "stream-batch" or form.startswith("execution-")
        assert other or failure.failure_id == ids[message["MessageId"]], form
        if form.startswith("execution-"):
            assert failure.order_id
            assert failure.failure_id == failure_id_of(Kind.EXECUTION, (STUCK, failure.order_id))


def as_function_gets(message: dict[str, Any]) -> dict[str, Any]:
    """A message as Lambda hands it to a function."""
    attributes = {
        name: {"stringValue": value.get("StringValue"), "dataType": value["DataType"]}
        for name, value in message.get("MessageAttributes", {}).items()
    }
    return {
        "messageId": message["MessageId"],
        "body": message["Body"],
        "attributes": message["Attributes"],
        "messageAttributes": attributes,
        "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:FailuresQueue",
    }


def test_inbox_records_are_read_and_may_be_worked_on(things: Things) -> None:
    for thing in things["failures"]:
        record = decode_record(thing.content)
        assert {f"kind-{record.kind}", f"action-{record.redrive.action}"} <= set(thing.kinds)
        assert any(kind.startswith(f"status-{record.status}") for kind in thing.kinds)
        # An unknown word is kept as it is, so that alone does not show that the word is known.
        assert record.kind in list(Kind)
        assert record.status in list(FailureStatus)
        assert record.redrive.action in list(Action)
        assert again(record) == record
        if record.status not in SETTLED:
            claim = claimed(record, at="now", lease_expired=True, by="test", again=True)
            done = sent(claim, at="now", detail="sent")
            over = settled(done, FailureStatus.RESOLVED, at="now", expires_at=1, by="test", reason="over")
            assert again(over) == over


def again(record: FailureRecord) -> FailureRecord:
    """The record stored and read."""
    return decode_record(to_item(msgspec.to_builtins(record)))


def test_workflow_inputs_are_read(things: Things) -> None:
    for thing in things["workflow_inputs"]:
        given = msgspec.json.decode(thing.content["input"], type=WorkflowInput)
        assert given.data.order_id in thing.content["input"]


# ---- The present code finishes each


def test_the_present_code_finishes_what_is_in_flight(folder: Path) -> None:
    if not (ROOT / ".local/venv-cloud").exists():
        pytest.skip("the environment .local/venv-cloud is not installed")
    command = [sys.executable, "-m", "verify.freeze.finish", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
