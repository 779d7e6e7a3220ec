"""Helpers of several suites."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

DEADLINE_S = 120.0
POLL_S = 0.1

T = TypeVar("T")


def eventually(look: Callable[[], T | None], awaited: str = "the condition") -> T:
    """Return the first true value of `look`. Raises AssertionError, which names `awaited`, after two minutes."""
    deadline = time.monotonic() + DEADLINE_S
    while not (seen := look()):
        assert time.monotonic() < deadline, f"{awaited} did not come within {DEADLINE_S:.0f} s, last: {seen!r}"
        time.sleep(POLL_S)
    return seen
