"""What runs before a SnapStart snapshot."""

import os
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from orders.runtime import snapstart


def prime() -> None:
    """Stands for a function's own."""


def test_where_lambda_takes_no_snapshot_nothing_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN a runtime module that must not be asked for
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand")
    monkeypatch.setitem(sys.modules, "snapshot_restore_py", None)
    # WHEN
    kept = snapstart.before_snapshot(prime)
    # THEN
    assert kept is prime


def test_for_snapstart_priming_is_registered_with_the_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN
    registered: list[Callable[[], None]] = []
    runtime = SimpleNamespace(register_before_snapshot=registered.append)
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "snap-start")
    monkeypatch.setitem(sys.modules, "snapshot_restore_py", runtime)
    # WHEN
    snapstart.before_snapshot(prime)
    # THEN
    assert registered == [prime]


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Runs code with accept_order loaded, in a process of its own, where nothing listens for AWS calls."""
    environment = {
        "PATH": os.environ["PATH"],
        "ORDERS_TABLE": "orders",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "LAMBDA_TASK_ROOT": "/var/task",
    }
    command = [sys.executable, "-c", f"from orders.functions import accept_order\n{code}"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_priming_goes_through_the_sdk_and_sends_nothing() -> None:
    # WHEN
    done = run(
        "events = accept_order._dynamodb.meta.events\n"
        "events.register('before-call', lambda model, **_: print(model.name))\n"
        "accept_order._prime()"
    )
    # THEN
    assert (done.stdout, done.returncode) == ("PutItem\n", 0), done.stderr


def test_after_priming_calls_are_sent_again() -> None:
    # WHEN
    done = run("accept_order._prime()\naccept_order._dynamodb.list_tables()")
    # THEN
    assert "Could not connect to the endpoint URL" in done.stderr
