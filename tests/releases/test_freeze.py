"""The command that freezes a version: what it refuses, and what a release on disk is."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from orderctl import lifecycle
from orderctl.cloud.state import ROOT, CloudState
from orderctl.exits import Exit, Stop
from orderctl.stack.logs import WORKFLOW
from verify.freeze import command, kinds, reading, release
from verify.freeze.reading import Thing, form_of

from orders.inbox.healing import CAUSE_PREFIX, HOLDS_KEY
from orders.storage.dynamodb import to_item


@pytest.fixture(autouse=True)
def releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(release, "RELEASES", tmp_path)
    monkeypatch.setattr(lifecycle, "up", lambda *_: pytest.fail("a cloud was started"))
    return tmp_path


def test_a_release_that_is_there_is_not_overwritten(releases: Path) -> None:
    (releases / "1.2.3").mkdir()

    with pytest.raises(Stop, match="is there already") as refused:
        command.freeze("1.2.3", force=False)

    assert refused.value.code == Exit.REFUSED


@pytest.mark.parametrize("version", ["", "1.0", "v1.0.0", "1.0.0/..", "1.0.0\n"])
def test_a_version_has_three_numbers(version: str) -> None:
    with pytest.raises(Stop, match="is no version"):
        command.freeze(version, force=True)


def test_a_run_that_lacks_a_kind_writes_nothing_and_stops_its_cloud(
    releases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a local cloud on which nothing happens
    class Idle:
        def __init__(self, *_: object) -> None:
            self.frozen = {"orders": [Thing(["PLACED"], {})]}

        def bring_about(self) -> None: ...

    stopped: list[str] = []
    state = CloudState("freeze", 1, 1, "", "", "python3.13")
    monkeypatch.setattr(release, "commit", lambda: "commit")
    monkeypatch.setattr(lifecycle, "up", lambda *_: (state, True))
    monkeypatch.setattr(lifecycle, "down", lambda cloud: stopped.append(cloud.name))
    monkeypatch.setattr(command, "Situations", Idle)

    # WHEN it is frozen
    with pytest.raises(Stop, match="orders: PAID, ") as lacking:
        command.freeze("1.2.3", force=False)

    # THEN the command says what is missing, and leaves neither a release nor a cloud
    assert "orders: PLACED," not in lacking.value.what
    assert list(releases.iterdir()) == []
    assert len(stopped) == 1


def test_only_what_is_committed_is_frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", *arguments], cwd=tmp_path, check=True
        )

    monkeypatch.setattr(release, "ROOT", tmp_path)
    template = tmp_path / "template.yaml"
    template.write_text("Resources: {}")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    assert len(release.commit()) == 40

    template.write_text("Resources: {Other: {}}")
    with pytest.raises(Stop, match=r"template\.yaml"):
        release.commit()


def test_a_kind_without_a_thing_is_named() -> None:
    found = {"orders": [Thing(["PLACED"], {})], "events": [Thing(["OrderPlaced", "other"], {})]}
    wanted = {"orders": ["PLACED", "PAID"], "events": ["other"], "stream": ["REMOVE"]}

    assert release.missing(found, wanted) == ["orders: PAID", "stream: REMOVE"]


def test_what_is_written_can_be_loaded_and_replaces_what_was_there(releases: Path) -> None:
    # GIVEN a release with two things of one kind, and an older one in its place
    old = releases / "1.2.3" / "old.json"
    old.parent.mkdir()
    old.write_text("{}")
    things = {"orders": [Thing(["PLACED"], {"b": 1, "a": 2}), Thing(["PLACED"], {"c": 3})]}

    # WHEN it is written
    release.write("1.2.3", "commit", things, {}, "http://127.0.0.1:1")

    # THEN it holds these, the package and the workflow, and nothing else
    folder = releases / "1.2.3"
    assert release.load(folder) == things
    assert (folder / "in_flight/orders/PLACED-01.json").read_text() == '{\n  "a": 2,\n  "b": 1\n}\n'
    for copied, original in (("orders/domain/order.py", "src/orders/domain/order.py"), ("template.yaml",) * 2):
        assert (folder / copied).read_bytes() == (ROOT / original).read_bytes()
    assert not old.exists()
    manifest = json.loads((folder / release.MANIFEST).read_text())
    assert manifest["counts"] == {"orders": {"PLACED": 2}}
    assert release.digests(folder) == {path: entry["sha256"] for path, entry in manifest["files"].items()}


def test_texts_lose_the_machine() -> None:
    traced = f'File "{ROOT}/.local/cloud/x/tmp/{"0" * 64}/orders/functions/a.py", line 1'
    text = f"{traced} in {ROOT}/.local/lib at http://127.0.0.1:4711/queue"

    expected = 'File "/var/task/orders/functions/a.py", line 1 in /checkout/.local/lib at http://127.0.0.1:4566/queue'
    assert release.neutral(text, "http://127.0.0.1:4711") == expected


def test_every_form_of_a_failure_message_is_told_apart() -> None:
    def body(**fields: Any) -> dict[str, Any]:
        return {"Body": json.dumps(fields)}

    target: dict[str, Any] = {"TARGET_ARN": {}}
    messages: dict[str, dict[str, Any]] = {
        "rule-dead-letter": {**body(), "MessageAttributes": {**target, "RULE_ARN": {}}},
        "schedule-dead-letter": {**body(), "MessageAttributes": target},
        "moved-message": {"Body": "{}", "Attributes": {"DeadLetterQueueSourceArn": "queue"}},
        "poison-report": body(kind="PoisonMessage"),
        "invocation-record": body(requestContext={}, requestPayload={}),
        "stream-batch": body(requestContext={}, DDBStreamBatchInfo={}),
        "parked-record": body(kind="UnreadableStreamRecord"),
        "stuck-order": body(kind="StuckOrder"),
        "unclassified": {"Body": "[]"},
    }

    assert {form: form_of(message) for form, message in messages.items()} == {
        form: form for form in kinds.FAILURE_FORMS
    }


def an_item(**fields: Any) -> dict[str, Any]:
    return to_item({"status": "PAID", "lines": [{"sku": "TEA", "quantity": 3}], **fields})


@pytest.mark.parametrize(
    ("item", "kinds_of_it"),
    [
        (an_item(), ["PAID"]),
        (an_item(status="FAILING", reason={"code": "Discarded", "message": "m"}), ["FAILING"]),
        (an_item(status="FAILED", reason={"code": "Expired", "message": "m"}), ["FAILED-Expired"]),
        (an_item(sweptAt="T"), ["PAID", "restarted"]),
        (
            an_item(lines=[{"sku": "TEA", "quantity": 3, "taken": [{"shard": 1, "quantity": 3}]}]),
            ["PAID", "taken-from-shards"],
        ),
    ],
)
def test_what_an_order_is_an_example_of(item: dict[str, Any], kinds_of_it: list[str]) -> None:
    assert reading._kinds_of_order(item) == kinds_of_it


def test_the_failures_table_has_items_that_are_no_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN a failure, the pace at which a cause heals, and what operators hold
    keys = ["3f0c9a1b", f"{CAUSE_PREFIX}ProcessPayment#Busy", HOLDS_KEY]
    items = [to_item({"failureId": key}) for key in keys]
    items[0] |= to_item({"status": "NEW"})
    monkeypatch.setattr(reading, "scan", lambda *_: items)

    # THEN each is told apart
    there: Any = None
    assert reading.failures(there) == items[:1]
    assert [reading._kind_of_healing(item) for item in items[1:]] == kinds.required(ROOT)["healing"]


def history(*events: tuple[str, dict[str, str]]) -> list[dict[str, Any]]:
    return [
        {"id": str(number), "type": kind, "details": details, "execution_arn": "arn:aws:states:r:a:express:m:name:1"}
        for number, (kind, details) in enumerate(events, 1)
    ]


def test_executions_are_read_from_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN the log of an execution, out of order, and of one that began before the log had data
    given = json.dumps({"data": {"orderId": "o", "status": "PLACED"}})
    logged = history(
        ("ExecutionStarted", {"input": given}),
        ("TaskStateEntered", {"name": "ProcessPayment", "input": "{}"}),
        ("TaskScheduled", {"parameters": '{"FunctionName": "f"}'}),
        ("TaskFailed", {"error": "PaymentProviderError", "cause": "why"}),
        ("TaskScheduled", {"parameters": '{"FunctionName": "f"}'}),
        ("TaskSucceeded", {"output": "out"}),
        ("TaskStateExited", {"name": "ProcessPayment", "output": "{}"}),
        ("TaskStateEntered", {"name": "FulfillOrder", "input": "{}"}),
    )
    other = [{**history(("ExecutionStarted", {}))[0], "execution_arn": "other"}]
    lines = [{"message": json.dumps(event)} for event in [*reversed(logged), *other]]
    monkeypatch.setattr(reading, "groups_of", lambda *_: {WORKFLOW: "group"})
    monkeypatch.setattr(reading, "log_events", lambda *_: lines)

    # WHEN it is read
    there: Any = None
    inputs, states = reading._executions(there)

    # THEN input, finished state and running state are there
    assert inputs == [Thing(["event"], {"name": "name", "input": given})]
    finished, running = states
    assert finished.kinds == ["ProcessPayment"]
    assert (finished.content["output"], finished.content["handedOn"]) == ("out", "{}")
    assert (running.kinds, running.content["next"]) == (["FulfillOrder"], "running")
