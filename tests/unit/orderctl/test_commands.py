"""What the commands say and return when there is nothing to work with, and what they show."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from typer.testing import CliRunner

from orderctl import hints, interrupts, lifecycle
from orderctl.cloud import state as clouds
from orderctl.demo import demonstration, samples, stories
from orderctl.exits import Exit, Interrupted, Stop
from orderctl.main import app
from orderctl.stack import signin
from orderctl.stack.target import Target
from orderctl.ui import tables
from orders.domain.order import TimelineEntry


@pytest.fixture(autouse=True)
def no_clouds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clouds, "CLOUDS", tmp_path)
    for name in ("ORDERCTL_USERNAME", "ORDERCTL_PASSWORD", "ORDERCTL_STACK", "ORDERCTL_NAME"):
        monkeypatch.delenv(name, raising=False)


def invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


ORDER_COMMANDS = (["token"], ["submit", "fulfilled"], ["order", "x"], ["orders"], ["orders", "--open"], ["demo"])


@pytest.mark.parametrize("command", ORDER_COMMANDS, ids=" ".join)
def test_without_a_local_cloud_the_way_on_is_shown(command: list[str]) -> None:
    code, stdout, stderr = invoke(*command)
    assert code == Exit.NO_TARGET
    assert stdout == ""
    assert "not running" in stderr
    assert "orderctl run" in stderr


@pytest.mark.parametrize("command", ["up", "down", "status", "run", "token", "submit", "order", "orders", "demo"])
def test_each_command_explains_itself_with_examples(command: str) -> None:
    code, stdout, _ = invoke(command, "--help")
    assert code == 0
    assert f"orderctl {command}" in stdout.split("Examples:")[1]
    assert "--json" in stdout


def test_the_exit_codes_are_documented() -> None:
    _, stdout, _ = invoke("--help")
    text = " ".join(stdout.split())
    for code in Exit:
        assert f"{int(code)} " in text.split("Exit codes:")[1]


def test_an_unknown_sample_is_answered_with_the_known_ones() -> None:
    code, _, stderr = invoke("submit", "no-such-sample")
    assert code == Exit.USAGE
    assert all(name in stderr for name in samples.names())


def test_a_file_is_submitted_byte_by_byte(tmp_path: Path) -> None:
    # What is wrong with an order, the API says: not even the encoding is checked before.
    file = tmp_path / "order.json"
    file.write_bytes(b'{"currency": "\xff"')
    assert samples.read_order(str(file)) == b'{"currency": "\xff"'


def test_a_file_system_error_is_no_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied", "/locked")

    monkeypatch.setattr(lifecycle, "status", refuse)
    code, _, stderr = invoke("status")
    assert code == Exit.STEP_FAILED
    assert "/locked" in stderr


def test_a_profile_without_a_stack_is_a_mistake() -> None:
    code, _, stderr = invoke("orders", "--profile", "mine")
    assert code == Exit.USAGE
    assert "--stack" in stderr


def test_a_bug_is_reported_without_a_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # GIVEN a command that meets a bug
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("unexpected")

    monkeypatch.setattr(lifecycle, "status", fail)
    monkeypatch.setattr("orderctl.commands.group.LOCAL", tmp_path)

    # WHEN it runs
    code, _, stderr = invoke("status")

    # THEN it says so in a sentence, and keeps the details for the developer
    assert code == Exit.UNEXPECTED
    assert "Traceback" not in stderr
    assert "ZeroDivisionError" in (tmp_path / "log" / "orderctl.log").read_text()


def test_an_interruption_has_its_own_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise Interrupted

    monkeypatch.setattr(lifecycle, "status", interrupt)
    code, _, stderr = invoke("status")
    assert code == Exit.INTERRUPTED
    assert "interrupted" in stderr


def test_status_of_nothing_is_readable_for_a_program() -> None:
    code, stdout, _ = invoke("status", "--json")
    assert code == Exit.NO_TARGET
    assert json.loads(stdout) == {"name": "default", "savedAt": None, "status": "down", "running": []}


@pytest.mark.parametrize("number", interrupts.SIGNALS)
def test_an_interruption_while_the_program_is_still_loading_is_one_line(number: signal.Signals) -> None:
    # GIVEN a program that is interrupted while its modules are imported
    script = (
        "import signal, sys\n"
        f"signal.signal({int(number)}, signal.SIG_DFL)\n"  # nohup ignores one of them
        "from orderctl import start\n"
        "class Interruption:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == 'typer': signal.raise_signal({int(number)})\n"
        "sys.meta_path.insert(0, Interruption())\n"
        "start.main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    # THEN it ends like any other interrupted command
    assert ended.returncode == Exit.INTERRUPTED
    assert ended.stderr == "error: interrupted.\n"


@pytest.fixture
def own_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in interrupts.SIGNALS}
    for number in interrupts.SIGNALS:
        signal.signal(number, interrupts._on_signal)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_an_interruption_waits_until_a_step_that_must_not_stop_half_way_is_done(own_handlers: None) -> None:
    # GIVEN a step that starts something and must write it down
    steps: list[str] = []

    def start_and_record() -> None:
        with interrupts.deferred():
            steps.append("started")
            signal.raise_signal(signal.SIGINT)
            steps.append("recorded")

    # WHEN the interruption comes in between
    with pytest.raises(Interrupted):
        start_and_record()

    # THEN the step is done before it ends the command
    assert steps == ["started", "recorded"]


def test_a_second_interruption_does_not_stop_the_clean_up(own_handlers: None) -> None:
    with pytest.raises(Interrupted):
        signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)  # would end the test run


def test_the_suggested_curl_sends_a_sample_with_a_token_of_its_own() -> None:
    # GIVEN a local cloud
    state = clouds.CloudState("second", 4600, 1, "i", "now", "python3.13", "s", "f")
    target = Target("local cloud", {}, "http://127.0.0.1:4600/v1", None, local=state)

    # WHEN a shell reads the suggested command, with a program in the place of orderctl
    command = demonstration.curl(target)
    script = command.replace("curl", "printf '%s\\n'", 1).replace(hints.program(), "echo", 1)
    words = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()

    # THEN curl would ask for a token of this cloud, and send a sample that is there
    assert "Authorization: token --name second" in words
    assert Path(words[words.index("-d") + 1].removeprefix("@")).is_file()
    assert words[-1] == "http://127.0.0.1:4600/v1/orders"


@pytest.mark.parametrize(
    ("minor_units", "currency", "shown"),
    [(3380, "EUR", "33.80 EUR"), (5, "EUR", "0.05 EUR"), (500, "JPY", "500 JPY"), (1234, "KWD", "1.234 KWD")],
)
def test_amounts_are_shown_as_people_write_them(minor_units: int, currency: str, shown: str) -> None:
    assert tables.money(minor_units, currency) == shown


def test_repeated_steps_are_counted() -> None:
    timeline = [TimelineEntry("", what) for what in ("PLACED", "PaymentAttemptFailed", "PaymentAttemptFailed")]
    assert tables.steps(timeline) == "PLACED, PaymentAttemptFailed x2"


def test_each_story_has_its_sample_and_its_own_products() -> None:
    # Stories that run at the same time must not see each other's stock move.
    ordered = [line["sku"] for story in stories.STORIES for line in samples.sample(story.sample)["lines"]]
    assert len(ordered) == len(set(ordered))
    assert {story.sample for story in stories.STORIES} == set(samples.names())
    assert set(ordered) <= {product["sku"] for product in samples.catalogue()}


class Tokens:
    """Cognito's answers, counted."""

    def __init__(self, lifetime_s: float) -> None:
        self.lifetime_s = lifetime_s
        self.given = 0

    def sign_in(self, *_: Any) -> str:
        self.given += 1
        payload = json.dumps({"exp": time.time() + self.lifetime_s, "sub": "ada"}).encode()
        return f"h.{base64.urlsafe_b64encode(payload).rstrip(b'=').decode()}.s"


@pytest.mark.parametrize(("lifetime_s", "sign_ins"), [(3600.0, 1), (30.0, 2)])
def test_a_token_is_renewed_before_it_expires(
    monkeypatch: pytest.MonkeyPatch, lifetime_s: float, sign_ins: int
) -> None:
    # GIVEN tokens that live that long
    cognito = Tokens(lifetime_s)
    monkeypatch.setattr(signin, "sign_in", cognito.sign_in)
    source = signin.TokenSource(stack({}), "ada@example.com", "secret")

    # WHEN two are asked for
    source.current()
    source.current()

    # THEN only one that is about to expire is replaced
    assert cognito.given == sign_ins


def stack(outputs: dict[str, str]) -> Target:
    session = botocore.session.Session()
    return Target("stack test", outputs, "https://api.example/v1", session)


def test_on_aws_a_user_must_be_named() -> None:
    with pytest.raises(Stop) as stop:
        signin.token_source(stack({}), None, None)
    assert stop.value.code is Exit.USAGE
    assert "ORDERCTL_USERNAME" in stop.value.next_step


def test_a_stack_of_something_else_is_recognised() -> None:
    with pytest.raises(Stop) as stop:
        stack({"Bucket": "x"}).output("OrdersTable")
    assert stop.value.code is Exit.NO_TARGET


def test_the_rest_address_of_a_local_cloud_needs_no_name_service() -> None:
    state = clouds.CloudState("x", 4600, 1, "i", "now", "python3.13", "s", "f")
    state.outputs = {"ApiId": "abc123", "ApiUrl": "https://abc123.execute-api.us-east-1.amazonaws.com/v1"}
    assert state.api_url == "http://127.0.0.1:4600/_aws/execute-api/abc123/v1"
