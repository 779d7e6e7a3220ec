"""The workflow's definition against the Amazon States Language, as cfn-lint knows it."""

import json
import re
from pathlib import Path
from typing import Any

import cfnlint.api
import pytest
import yaml

from orders.domain.order import CAN_FAIL, TERMINAL, Status
from orders.inbox.record import RETENTION_DAYS
from orders.inbox.store import SETTLED_PREFIX
from tests.template.cloudformation import load_raw

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


def test_the_definition_knows_which_statuses_need_nobody(definition: dict[str, Any]) -> None:
    ended, given_up = definition["States"]["DoesSomebodyElseWorkOnIt"]["Choices"]
    assert set(re.findall(r"'([A-Z]+)'", ended["Condition"])) == TERMINAL
    assert set(re.findall(r"'([A-Z]+)'", given_up["Condition"])) == {Status.FAILING, *CAN_FAIL}


def test_the_definition_goes_on_from_each_open_status(definition: dict[str, Any]) -> None:
    choices = definition["States"]["WhereItStands"]["Choices"]
    assert {re.findall(r"'([A-Z]+)'", choice["Condition"])[0] for choice in choices} == set(Status) - TERMINAL


def test_a_settled_payload_expires_with_its_record() -> None:
    rules = load_raw()["Resources"]["FailedPayloadsBucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
    (days,) = [rule["ExpirationInDays"] for rule in rules if rule.get("Prefix") == SETTLED_PREFIX]
    assert days == RETENTION_DAYS
