"""The deployed resources that the proof builds on, read from template.yaml and the workflow's definition.

The proof repeats nothing of either, so a rule or a state that is missing there is missing in the proof too.
"""

from __future__ import annotations

import copy
import functools
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "template.yaml"
DEFINITION = ROOT / "statemachine" / "order.asl.yaml"
WORKFLOW = "OrderExpressWorkflow"


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's short forms: a reference becomes the logical id that it names."""


def _short_form(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return str(node.value).partition(".")[0]
    if isinstance(node, yaml.SequenceNode):
        parts = loader.construct_sequence(node, deep=True)
        return parts[2] if suffix == "If" else parts  # a condition counts as one that doesn't hold
    assert isinstance(node, yaml.MappingNode)
    return loader.construct_mapping(node, deep=True)


_Loader.add_multi_constructor("!", _short_form)


@functools.cache
def resources() -> dict[str, dict[str, Any]]:
    """The template's resources by logical id; every reference stands as the logical id alone."""
    found: dict[str, dict[str, Any]] = yaml.load(TEMPLATE.read_text(), _Loader)["Resources"]
    return found


def of_type(kind: str) -> dict[str, dict[str, Any]]:
    """The properties of every resource of a type, by logical id."""
    return {
        name: resource.get("Properties", {}) for name, resource in resources().items() if resource["Type"] == kind
    }


_SERVICES = {
    "AWS::SQS::Queue": "sqs:{at}:{name}",
    "AWS::Serverless::Function": "lambda:{at}:function:{name}",
    "AWS::Serverless::StateMachine": "states:{at}:stateMachine:{name}",
}


def arn_of(name: str) -> str:
    """The ARN of a queue, a function or the workflow; its name is its logical id."""
    place = _SERVICES[resources()[name]["Type"]].format(at="us-east-1:000000000000", name=name)
    return f"arn:aws:{place}"


def name_of(arn: str) -> str:
    """The logical id in an ARN of `arn_of`."""
    return arn.rpartition(":")[2]


def module_of(function: str) -> str:
    """The Python module of a function: `orders.functions.accept_order`."""
    handler: str = resources()[function]["Properties"]["Handler"]
    return handler.rpartition(".")[0]


def targets_of(detail_type: str) -> list[tuple[str, str]]:
    """(rule, target) of every rule on the orders' bus that takes this event, by logical ids."""
    return [
        (name, target["Arn"])
        for name, rule in of_type("AWS::Events::Rule").items()
        if rule.get("EventBusName") == "OrdersBus"
        and detail_type in rule["EventPattern"].get("detail-type", [detail_type])
        for target in rule["Targets"]
    ]


@functools.cache
def rule_targets() -> frozenset[str]:
    """The target of every rule on the orders' bus."""
    rules = of_type("AWS::Events::Rule").values()
    return frozenset(target["Arn"] for rule in rules for target in rule["Targets"])


def rule_of(target: str) -> str:
    """The rule on the orders' bus that has this target."""
    rules = of_type("AWS::Events::Rule")
    return next(name for name, rule in rules.items() if target in [each["Arn"] for each in rule["Targets"]])


def targets_with_arns(rule: str) -> list[dict[str, Any]]:
    """A rule's targets with their input settings, as ListTargetsByRule answers."""
    targets = of_type("AWS::Events::Rule")[rule]["Targets"]
    return [{**target, "Arn": arn_of(target["Arn"])} for target in targets]


def retries_of(function: str) -> tuple[int, bool]:
    """An asynchronous function's maximum of retries, and whether its failures go to the failures queue."""
    config = resources()[function]["Properties"].get("EventInvokeConfig", {})
    destination = config.get("DestinationConfig", {}).get("OnFailure", {}).get("Destination")
    return config.get("MaximumRetryAttempts", 2), destination == "FailuresQueue"


def redrive_of(queue: str) -> tuple[int, bool]:
    """How often a queue's message is received at most, and whether it then goes to the failures queue."""
    policy = resources()[queue]["Properties"].get("RedrivePolicy", {})
    return policy.get("maxReceiveCount", 1_000_000), policy.get("deadLetterTargetArn") == "FailuresQueue"


@functools.cache
def definition() -> dict[str, Any]:
    """The state machine's definition, its substitutions replaced by logical ids."""
    substitutions: dict[str, str] = resources()[WORKFLOW]["Properties"]["DefinitionSubstitutions"]
    text = re.sub(r"\$\{(\w+)\}", lambda match: substitutions[match[1]], DEFINITION.read_text())
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def task_states() -> dict[str, dict[str, Any]]:
    """The workflow's Task states by name."""
    return {name: state for name, state in definition()["States"].items() if state["Type"] == "Task"}


def table_requests() -> list[dict[str, Any]]:
    """A CreateTable request for each table of the template, named by its logical id."""
    requests = []
    for name, properties in of_type("AWS::DynamoDB::Table").items():
        wanted = ("AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes", "BillingMode")
        request = {"TableName": name, **{key: properties[key] for key in wanted if key in properties}}
        if indexes := request.get("GlobalSecondaryIndexes"):
            request["GlobalSecondaryIndexes"] = [
                {key: value for key, value in index.items() if key != "WarmThroughput"}
                for index in indexes
                if index != "AWS::NoValue"
            ]
        if stream := properties.get("StreamSpecification"):
            request["StreamSpecification"] = {"StreamEnabled": True, **stream}
        requests.append(copy.deepcopy(request))
    return requests


def environment_of(function: str = "") -> dict[str, str]:
    """The functions' environment variables: an ARN where the name says so, else a logical id or a default."""
    document = yaml.load(TEMPLATE.read_text(), _Loader)
    variables: dict[str, Any] = dict(document["Globals"]["Function"]["Environment"]["Variables"])
    for name, properties in of_type("AWS::Serverless::Function").items():
        if function in ("", name):
            variables |= properties.get("Environment", {}).get("Variables", {})
    found = {}
    for name, value in variables.items():
        default = document["Parameters"].get(value, {}).get("Default", value)
        found[name] = arn_of(value) if name.endswith("_ARN") else str(default)
    return found
