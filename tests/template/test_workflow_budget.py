"""The longest time of an execution: what the budget computes, and what it finds."""

from __future__ import annotations

from typing import Any

import pytest

from tests.template import workflow_budget
from tests.template.cloudformation import WORKFLOW, load_workflow

AGE = "{% $toMillis($states.context.State.EnteredTime) - $toMillis($states.context.Execution.StartTime) >= 60000 %}"
RETRY = [
    {"ErrorEquals": ["Declined"], "MaxAttempts": 0},
    {"ErrorEquals": ["States.ALL"], "IntervalSeconds": 2, "BackoffRate": 3, "MaxDelaySeconds": 10, "MaxAttempts": 3},
]


def a_task(following: str) -> dict[str, Any]:
    return {"Type": "Task", "TimeoutSeconds": 5, "Retry": RETRY, "Next": following}


def a_loop(*choices: dict[str, Any]) -> dict[str, Any]:
    """Write is tried again and again until a choice says otherwise."""
    return {
        "StartAt": "Write",
        "States": {
            "Write": a_task("Refused"),
            "Refused": {"Type": "Choice", "Choices": list(choices), "Default": "Later"},
            "Later": {"Type": "Wait", "Seconds": "{% $floor($random() * 3) + 1 %}", "Next": "Write"},
            "Done": {"Type": "Succeed"},
        },
    }


def test_a_stuck_order_is_reported_before_its_execution_is_too_old() -> None:
    # GIVEN the workflow: Step Functions ends an Express execution after 300 s
    workflow = load_workflow()
    # WHEN
    arrives_s = workflow_budget.arrivals_s(workflow)["ReportStuck"]
    report_s = workflow_budget.budget_s(workflow["States"]["ReportStuck"])
    # THEN
    assert arrives_s <= 260
    assert report_s <= 30
    assert arrives_s + report_s <= workflow["TimeoutSeconds"] <= 300


def test_the_definition_says_of_each_task_what_is_computed() -> None:
    text = WORKFLOW.read_text()
    for name, state in load_workflow()["States"].items():
        if state["Type"] == "Task":
            comment = text.partition(f"\n  {name}:\n")[0].rpartition("\n\n")[2]
            assert f": {workflow_budget.budget_s(state):.0f} s." in comment, name


def test_a_task_takes_all_its_attempts_and_the_longest_delays() -> None:
    assert workflow_budget.budget_s(a_task("Done")) == 4 * 5 + 2 + 6 + 10


@pytest.mark.parametrize(("seconds", "longest"), [(4, 4), ("{% $floor($random() * 3) + 1 %}", 3)])
def test_a_wait_takes_its_longest_time(seconds: Any, longest: int) -> None:
    assert workflow_budget.budget_s({"Type": "Wait", "Seconds": seconds}) == longest


def test_a_wait_that_nobody_can_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="isn't known"):
        workflow_budget.budget_s({"Type": "Wait", "Seconds": "{% $order.patience %}"})


def test_a_loop_ends_by_its_age_and_then_takes_one_round_more() -> None:
    arrivals_s = workflow_budget.arrivals_s(a_loop({"Condition": AGE, "Next": "Done"}))
    assert arrivals_s["Later"] == 60
    assert arrivals_s["Write"] == 60 + 3
    assert arrivals_s["Done"] == 60 + 3 + 38


def test_a_choice_before_the_age_is_looked_at_can_go_round_for_ever() -> None:
    # GIVEN a rule that comes before the one that compares the age
    loop = a_loop({"Condition": "{% $again %}", "Next": "Write"}, {"Condition": AGE, "Next": "Done"})
    # THEN
    with pytest.raises(ValueError, match="Write > Refused"):
        workflow_budget.arrivals_s(loop)


def test_a_loop_without_an_age_is_named() -> None:
    with pytest.raises(ValueError, match="nothing ends the loop Write > Refused > Later"):
        workflow_budget.arrivals_s(a_loop())
