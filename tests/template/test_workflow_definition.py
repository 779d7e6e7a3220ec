"""The workflow's definition against the Amazon States Language, as cfn-lint knows it."""

import json
from pathlib import Path

import cfnlint.api
import pytest
import yaml

ROOT = Path(__file__).parents[2]


def problems_of(definition: dict[str, object]) -> list[str]:
    machine = {"RoleArn": "arn:aws:iam::123456789012:role/workflow", "Definition": definition}
    template = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Resources": {"Workflow": {"Type": "AWS::StepFunctions::StateMachine", "Properties": machine}},
    }
    config = cfnlint.api.ManualArgs(regions=["us-east-1"])
    return [match.message for match in cfnlint.api.lint(json.dumps(template), config=config)]


@pytest.fixture
def definition() -> dict[str, object]:
    loaded: dict[str, object] = yaml.safe_load((ROOT / "statemachine/order.asl.yaml").read_text())
    return loaded


def test_the_definition_is_amazon_states_language(definition: dict[str, object]) -> None:
    assert problems_of(definition) == []


def test_a_broken_definition_is_found(definition: dict[str, object]) -> None:
    # GIVEN a Task without its resource
    states = definition["States"]
    assert isinstance(states, dict)
    del states["ValidateOrder"]["Resource"]
    # THEN
    assert problems_of(definition) == ["'Resource' is a required property"]
