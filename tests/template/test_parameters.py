"""The template is whole for all values of its parameters: each pair of values, of any two parameters, occurs once."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from cfnlint import ManualArgs
from cfnlint.api import lint

from tests.template.cloudformation import SESSION, Template, load_raw, load_workflow

# Values of the parameters that are free text.
SAMPLES = {
    "AlarmEmail": ["", "oncall@example.com"],
    "MonthlyBudget": ["", "20"],
    "PaymentConcurrency": ["", "5"],
    "SignUpIdentity": ["", "arn:aws:ses:eu-central-1:123456789012:identity/shop.example.com"],
    "TicketEmail": ["", "tickets@example.com"],
    "WarmWriteUnits": ["", "4000"],
}
# What cfn-lint informs of, and why it stays: rule, and the types that it may be about.
ACCEPTED = {
    # A mark for documentation that nothing else reads.
    "I4010": None,
    # SAM writes these ARNs, with the partition of the region that it transforms for.
    "I3042": {"AWS::ApiGateway::RestApi", "AWS::Lambda::Permission"},
    # Logs, messages and the record of sent mails end with the stack; fixed.yaml keeps them from being replaced.
    "I3011": {"AWS::Logs::LogGroup", "AWS::SQS::Queue", "AWS::DynamoDB::Table"},
}

Values = dict[str, str]


def values_of(name: str, parameter: dict[str, Any]) -> list[str]:
    if "AllowedValues" in parameter:
        return [str(value) for value in parameter["AllowedValues"]]
    if parameter["Type"] == "Number":
        return sorted({str(parameter[key]) for key in ("Default", "MinValue", "MaxValue") if key in parameter})
    assert name in SAMPLES, f"{name}: give SAMPLES an empty value and a full one"
    for sample in SAMPLES[name]:
        assert re.fullmatch(parameter.get("AllowedPattern", ".*"), sample), f"{name} doesn't take {sample}"
    return SAMPLES[name]


def pairwise(factors: dict[str, list[str]]) -> list[Values]:
    """Rows in which each value of a factor meets each value of each other factor at least once."""
    missing = {
        frozenset({(a, x), (b, y)})
        for a, b in itertools.combinations(factors, 2)
        for x, y in itertools.product(factors[a], factors[b])
    }
    rows = []
    while missing:
        row = dict(min(missing, key=sorted))
        for name in sorted(factors, key=lambda name: -len(factors[name])):
            row.setdefault(
                name,
                max(
                    factors[name],
                    key=lambda value: sum(frozenset({(name, value), pair}) in missing for pair in row.items()),
                ),
            )
        missing -= {frozenset(pair) for pair in itertools.combinations(row.items(), 2)}
        rows.append({name: row[name] for name in factors})
    return rows


def refused(raw: dict[str, Any], values: Values) -> bool:
    """Whether the template's own rules refuse these values, with a sentence."""
    rules = raw["Rules"].values()
    return any(
        holds(raw, rule.get("RuleCondition", {"Fn::And": []}), values)
        and not all(holds(raw, each["Assert"], values) for each in rule["Assertions"])
        for rule in rules
    )


def holds(raw: dict[str, Any], condition: Any, values: Values) -> bool:
    match condition:
        case {"Condition": str(name)}:
            return holds(raw, raw["Conditions"][name], values)
        case {"Fn::Equals": [left, right]}:
            resolved = [values[each["Ref"]] if isinstance(each, dict) else str(each) for each in (left, right)]
            return resolved[0] == resolved[1]
        case {"Fn::Not": [inner]}:
            return not holds(raw, inner, values)
        case {"Fn::And": list(inner)}:
            return all(holds(raw, each, values) for each in inner)
        case {"Fn::Or": list(inner)}:
            return any(holds(raw, each, values) for each in inner)
    raise ValueError(f"not a condition: {condition}")


GONE = {"Ref": "AWS::NoValue"}


def resolve(raw: dict[str, Any], node: Any, values: Values) -> Any:
    """A part of a template with each Fn::If decided, and what has no value left out."""
    match node:
        case {"Fn::If": [str(name), then, otherwise]}:
            return resolve(raw, then if holds(raw, {"Condition": name}, values) else otherwise, values)
        case dict():
            resolved = {key: resolve(raw, each, values) for key, each in node.items()}
            return {key: each for key, each in resolved.items() if each != GONE}
        case list():
            return [each for each in (resolve(raw, each, values) for each in node) if each != GONE]
    return node


def deployed(values: Values) -> dict[str, Any]:
    """The template as CloudFormation deploys it with these parameters: transformed, every condition decided."""
    raw = load_raw()
    for name, value in values.items():
        raw["Parameters"][name]["Default"] = value
    found = Template(raw, load_workflow()).transformed
    for section in ("Resources", "Outputs"):
        found = found | {
            section: {
                name: {key: resolve(raw, part, values) for key, part in each.items() if key != "Condition"}
                for name, each in found[section].items()
                if "Condition" not in each or holds(raw, {"Condition": each["Condition"]}, values)
            }
        }
    return {key: section for key, section in found.items() if key not in {"Conditions", "Rules"}}


def references(node: Any) -> Iterator[str]:
    """The names that a part of a template refers to, by Ref, GetAtt and Sub."""
    match node:
        case {"Ref": str(name)}:
            yield name
        case {"Fn::GetAtt": [str(name), *_]}:
            yield name
        case {"Fn::Sub": str(text)}:
            yield from re.findall(r"\$\{([\w:]+)", text)
        case {"Fn::Sub": [str(text), dict(own)]}:
            yield from (name for name in re.findall(r"\$\{([\w:]+)", text) if name not in own)
            yield from references(own)
        case dict():
            for each in node.values():
                yield from references(each)
        case list():
            for each in node:
                yield from references(each)


RAW = load_raw()
FACTORS = {name: values_of(name, parameter) for name, parameter in RAW["Parameters"].items()}
IN_CONDITIONS = set(references(RAW["Conditions"])) | set(references(RAW["Rules"]))
ROWS = pairwise(FACTORS)
# Only these parameters decide what there is; the others are values that cfn-lint checks against their use at once.
STRUCTURES = pairwise({name: values for name, values in FACTORS.items() if name in IN_CONDITIONS})


def shown(values: Values) -> str:
    return ",".join(value or "-" for value in values.values())


def test_each_pair_of_values_occurs() -> None:
    for a, b in itertools.combinations(FACTORS, 2):
        met = {(row[a], row[b]) for row in ROWS}
        assert met == set(itertools.product(FACTORS[a], FACTORS[b])), (a, b)


@pytest.mark.parametrize("values", ROWS, ids=shown)
def test_each_reference_leads_to_something_that_is_there(values: Values) -> None:
    found = deployed(values)
    there = {*found["Resources"], *found["Parameters"]}
    for section in ("Resources", "Outputs"):
        for name, part in found[section].items():
            lost = {each for each in references(part) if not each.startswith("AWS::")} - there
            assert not lost, f"{name} refers to {lost}"
            assert "Fn::If" not in json.dumps(part), name


@pytest.mark.parametrize("values", [row for row in STRUCTURES if not refused(RAW, row)], ids=shown)
def test_cloudformation_takes_each_structure(values: Values) -> None:
    found = deployed(
        {name: str(parameter.get("Default", "")) for name, parameter in RAW["Parameters"].items()} | values
    )
    # A parameter may be of no use in a structure, and then cfn-lint warns.
    ignored = ["W2001"]
    config = ManualArgs(regions=[str(SESSION.region_name)], ignore_checks=ignored)
    assert [str(match) for match in lint(json.dumps(found), config=config)] == []


def test_cfn_lint_finds_nothing_in_the_whole_template_with_all_its_rules() -> None:
    template = Template(load_raw(), load_workflow())
    every = ManualArgs(regions=[str(SESSION.region_name)], include_checks=["I", "W", "E"], include_experimental=True)
    unexpected = []
    for match in lint(json.dumps(template.transformed), config=every):
        path = list(match.path or [])
        kind = template.resources[str(path[1])]["Type"] if path[:1] == ["Resources"] else None
        types = ACCEPTED.get(match.rule.id, set())
        if types is not None and kind not in types:
            unexpected.append(f"{match.rule.id} {'/'.join(map(str, path))}: {match.message}")
    assert unexpected == []
