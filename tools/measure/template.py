"""What the figures need of template.yaml: its resources, the indexes of a table, its schedules and its limits."""

from __future__ import annotations

import functools
import re
from typing import Any, NamedTuple

import yaml

from orderctl.cloud.state import ROOT

MINUTES = {"minute": 1, "minutes": 1, "hour": 60, "hours": 60, "day": 1440, "days": 1440}


class Index(NamedTuple):
    """An index of a table: the attributes of its key, and all that an entry has (None for every attribute)."""

    key: tuple[str, ...]
    projected: frozenset[str] | None


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's short forms: `!Ref Name` becomes "Name", `!If [condition, a, b]` a list of the three."""


def _short_form(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return str(node.value)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    assert isinstance(node, yaml.MappingNode)
    return loader.construct_mapping(node, deep=True)


_Loader.add_multi_constructor("!", _short_form)


@functools.cache
def template() -> dict[str, Any]:
    """Return template.yaml."""
    found: dict[str, Any] = yaml.load((ROOT / "template.yaml").read_text(), _Loader)
    return found


def of_type(kind: str) -> dict[str, dict[str, Any]]:
    """Return the properties of every resource of a type, by logical id."""
    return {
        name: resource.get("Properties", {})
        for name, resource in template()["Resources"].items()
        if resource["Type"] == kind
    }


def default_of(parameter: str) -> float:
    """Return the default of a parameter that is a number."""
    return float(template()["Parameters"][parameter]["Default"])


def indexes_of(table: str) -> dict[str, Index]:
    """Return the indexes of a table that a stack has with the parameters' defaults, by name."""
    properties = of_type("AWS::DynamoDB::Table")[table]
    keys = [each["AttributeName"] for each in properties["KeySchema"]]
    found = {}
    for index in properties.get("GlobalSecondaryIndexes", []):
        if not isinstance(index, dict):
            continue  # a condition decides whether the stack has it
        key = tuple(each["AttributeName"] for each in index["KeySchema"])
        projection = index["Projection"]
        attributes = frozenset([*keys, *key, *projection.get("NonKeyAttributes", [])])
        found[index["IndexName"]] = Index(key, None if projection["ProjectionType"] == "ALL" else attributes)
    return found


def runs_a_month() -> dict[str, int]:
    """Return how often each schedule invokes its function in 30 days, by the function's logical id."""
    found = {}
    for schedule in of_type("AWS::Scheduler::Schedule").values():
        rate = re.fullmatch(r"rate\((\d+) (\w+)\)", str(schedule["ScheduleExpression"]))
        if rate:
            function = str(schedule["Target"]["Arn"]).partition(".")[0]
            found[function] = 30 * 24 * 60 // (int(rate[1]) * MINUTES[rate[2]])
    return found


def polled_queues() -> int:
    """Return how many queues Lambda polls."""
    functions = of_type("AWS::Serverless::Function").values()
    return sum(event["Type"] == "SQS" for each in functions for event in each.get("Events", {}).values())


def idle_metrics() -> set[str]:
    """Return the custom metrics that scheduled functions report in each run, also when there is nothing to do.

    CloudWatch bills a metric for each hour in which the metric has a value, so no other is due without orders.
    """
    found: set[str] = set()
    for function in runs_a_month():
        module = str(of_type("AWS::Serverless::Function")[function]["Handler"]).removesuffix(".handler")
        source = (ROOT / "src" / module.replace(".", "/")).with_suffix(".py").read_text()
        # What is indented no deeper than a function's body is under no condition.
        found |= set(re.findall(r'^    metrics\.add_metric\(\s*"(\w+)"', source, re.MULTILINE))
    return found
