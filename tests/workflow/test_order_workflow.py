"""The proof's short form. The proof changes its whole process, so each check runs in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> None:
    if not (ROOT / ".local/venv-cloud").exists():
        pytest.skip("the environment .local/venv-cloud is not installed")
    command = [sys.executable, "-m", "verify", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_order_ends_as_the_fault_matrix_says_whatever_error_a_state_meets() -> None:
    run("matrix", "--short")


def test_no_story_loses_an_order_or_does_anything_twice() -> None:
    run("stories", "--examples", "100")


def test_every_mutant_can_be_applied() -> None:
    run("mutants", "--dry-run")
