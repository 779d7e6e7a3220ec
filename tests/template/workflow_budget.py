"""The longest time that an execution can take to reach each state, computed from the workflow's definition."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

# A choice rule that compares the execution's age in milliseconds, and the longest wait of a random number of seconds.
GUARD = re.compile(r"toMillis\(\$states\.context\.Execution\.StartTime\) >= (\d+)")
RANDOM_WAIT = re.compile(r"\{% \$floor\(\$random\(\) \* (\d+)\) \+ (\d+) %\}")

Workflow = dict[str, Any]
State = dict[str, Any]


def budget_s(state: State) -> float:
    """The longest time, in seconds, between entering and leaving a state.

    A task takes all its attempts, each as long as its time-out, and the longest delay between any two. Raises
    `ValueError` for a wait whose longest time isn't known here, and `KeyError` for a task without a time-out.
    """
    if state["Type"] == "Wait":
        return _wait_s(state["Seconds"])
    if state["Type"] != "Task":
        return 0
    delays = [delay for retrier in state.get("Retry", []) for delay in _delays_s(retrier)]
    return float((1 + len(delays)) * state["TimeoutSeconds"] + sum(delays))


def _wait_s(seconds: Any) -> float:
    if isinstance(seconds, int | float):
        return seconds
    if found := RANDOM_WAIT.fullmatch(seconds):
        return int(found[1]) - 1 + int(found[2])
    raise ValueError(f"the longest time of {seconds!r} isn't known here")


def _delays_s(retrier: dict[str, Any]) -> Iterator[float]:
    for number in range(retrier.get("MaxAttempts", 3)):
        delay = retrier.get("IntervalSeconds", 1) * retrier.get("BackoffRate", 2) ** number
        yield min(delay, retrier.get("MaxDelaySeconds", delay))


def ways(state: State) -> Iterator[tuple[str, float | None]]:
    """The states that can follow, each with the age (seconds) that no execution going this way has reached."""
    if "Next" in state:
        yield state["Next"], None
    for catcher in state.get("Catch", []):
        yield catcher["Next"], None
    guard: float | None = None
    for choice in state.get("Choices", []):
        yield choice["Next"], guard
        if found := GUARD.search(str(choice["Condition"])):
            guard = int(found[1]) / 1000
    if "Default" in state:
        yield state["Default"], guard


def unguarded_loop(workflow: Workflow) -> list[str]:
    """The states of a loop that no age ends, in order; [] if there is none."""
    states = workflow["States"]
    done: set[str] = set()

    def search(name: str, path: list[str]) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        for following, guard in ways(states[name]):
            if guard is None and following in states and (found := search(following, [*path, name])):
                return found
        done.add(name)
        return []

    return next((found for name in states if (found := search(name, []))), [])


def arrivals_s(workflow: Workflow) -> dict[str, float]:
    """The latest time, in seconds after the start, at which an execution can enter each state.

    Raises `ValueError` if a loop has no end.
    """
    if loop := unguarded_loop(workflow):
        raise ValueError(f"nothing ends the loop {' > '.join(loop)}")
    latest = {workflow["StartAt"]: 0.0}
    waiting = [workflow["StartAt"]]
    while waiting:
        name = waiting.pop()
        leaves = latest[name] + budget_s(workflow["States"][name])
        for following, guard in ways(workflow["States"][name]):
            # A choice takes no time, so its age at entering is its age at leaving.
            arrives = leaves if guard is None else min(leaves, guard)
            if following in workflow["States"] and arrives > latest.get(following, -1):
                latest[following] = arrives
                waiting.append(following)
    return latest
