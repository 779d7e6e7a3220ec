"""What make hands on to orderctl and measure; nothing is run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from orderctl.cloud.state import ROOT


def dry_run(*arguments: str, cwd: Path = ROOT, **variables: str) -> str:
    """What make would run, with these variables exported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    ended = subprocess.run(
        ["make", "-n", *arguments],
        cwd=cwd,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout


@pytest.mark.parametrize("goal", ["run", "down", "status"])
def test_only_the_command_line_names_the_local_cloud(goal: str) -> None:
    exported = dry_run(goal, NAME="host-17", PORT="1", FRESH="1")
    assert f"orderctl {goal} --name default" in exported
    assert "--port" not in exported
    assert "--fresh" not in exported
    assert f"orderctl {goal} --name second" in dry_run(goal, "NAME=second", NAME="host-17")


def test_run_takes_port_and_fresh_from_the_command_line() -> None:
    assert "orderctl run --name default --port 4600 --fresh" in dry_run("run", "PORT=4600", "FRESH=1")


def test_measurements_are_commands_of_measure() -> None:
    assert "measure load --name second --faults full" in dry_run("load", "NAME=second", "ARGS=--faults full")
    assert "measure cost --profile mixed" in dry_run("cost", "ARGS=--profile mixed")
    assert "measure all" in dry_run("bench")
    assert "measure laptop" in dry_run("bench-laptop")


def test_make_works_from_another_folder(tmp_path: Path) -> None:
    planned = dry_run("-f", str(ROOT / "Makefile"), "run", "lint", cwd=tmp_path)
    assert f"{ROOT}/scripts/install run" in planned
    assert f"exec {ROOT}/.venv/bin/orderctl run" in planned
    assert f"cd {ROOT}/ && .venv/bin/ruff check ." in planned
