"""The proof's short form. It takes over a whole process, so it runs in one of its own."""

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


def test_every_error_in_every_state_ends_where_it_may_and_where_the_document_says() -> None:
    run("matrix", "--short")


def test_whatever_happens_in_whatever_order_nothing_is_lost_and_nothing_happens_twice() -> None:
    run("stories", "--examples", "100")


def test_every_mutant_finds_what_it_changes() -> None:
    run("mutants", "--dry-run")
