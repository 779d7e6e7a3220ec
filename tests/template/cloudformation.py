"""The template as CloudFormation gets it: read, transformed by SAM, and easy to ask questions of."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import yaml
from cfnlint.decode import cfn_yaml
from cfnlint.schema import PROVIDER_SCHEMA_MANAGER
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "template.yaml"
WORKFLOW = ROOT / "statemachine" / "order.asl.yaml"

Resource = dict[str, Any]

# The transform asks a session for its region; no call is made.
SESSION = boto3.Session(region_name="eu-central-1")


def as_list(value: Any) -> list[Any]:
    """IAM and ASL let one value stand for a list of one."""
    return value if isinstance(value, list) else [value]


def logical_id(value: Any) -> str | None:
    """The resource that a Ref, GetAtt or Sub points to; None for anything else, and for pseudo parameters."""
    match value:
        case {"Ref": str(name)}:
            return None if name.startswith("AWS::") else name
        case {"Fn::GetAtt": [str(name), *_]}:
            return name
        case {"Fn::GetAtt": str(name)}:
            return name.partition(".")[0]
        case {"Fn::Sub": str(text)}:
            names = re.findall(r"\$\{(\w+)(?:\.\w+)*\}", text)
            return names[0] if names else None
    return None


@cache
def _text_of(path: Path) -> str:
    return json.dumps(cfn_yaml.load(str(path)) if path == TEMPLATE else yaml.safe_load(path.read_text()))


def load_raw() -> dict[str, Any]:
    """template.yaml with its short-form intrinsic functions written out; yours to change."""
    raw: dict[str, Any] = json.loads(_text_of(TEMPLATE))
    return raw


def load_workflow() -> dict[str, Any]:
    """The state machine's definition; yours to change."""
    workflow: dict[str, Any] = json.loads(_text_of(WORKFLOW))
    return workflow


@cache
def _to_cloudformation(raw: str) -> dict[str, Any]:
    """What the Serverless transform makes of a template; what `sam package` uploads is stood in for."""
    packaged: dict[str, Any] = json.loads(raw)
    packaged["Globals"]["Function"]["CodeUri"] = "s3://artifacts/functions"
    for resource in packaged["Resources"].values():
        if resource["Type"] == "AWS::Serverless::StateMachine":
            resource["Properties"]["DefinitionUri"] = "s3://artifacts/workflow"
    parameters = {name: parameter.get("Default", "") for name, parameter in packaged["Parameters"].items()}
    transformed: dict[str, Any] = Translator({}, Parser(), boto_session=SESSION).translate(packaged, parameters)
    return transformed


@dataclass(frozen=True)
class Template:
    """A template before and after the transform, and the workflow that goes with it."""

    raw: dict[str, Any]
    workflow: dict[str, Any]
    transformed: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "transformed", _to_cloudformation(json.dumps(self.raw)))

    @property
    def resources(self) -> dict[str, Resource]:
        """All resources, by logical id."""
        found: dict[str, Resource] = self.transformed["Resources"]
        return found

    def of_type(self, *kinds: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Logical id and properties of each resource of these types, such as `SQS::Queue`."""
        for name, resource in sorted(self.resources.items()):
            if resource["Type"].removeprefix("AWS::") in kinds:
                yield name, resource.get("Properties", {})

    def type_of(self, name: str | None) -> str:
        """A resource's type without `AWS::`; empty if there is no such resource."""
        kind: str = self.resources.get(name or "", {}).get("Type", "")
        return kind.removeprefix("AWS::")

    def properties(self, name: str | None) -> dict[str, Any]:
        """A resource's properties; empty if there is no such resource."""
        found: dict[str, Any] = self.resources.get(name or "", {}).get("Properties", {})
        return found

    def rule_targets(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Logical id of the rule and one of its targets, for each target of each EventBridge rule."""
        for name, rule in self.of_type("Events::Rule"):
            for target in rule.get("Targets", []):
                yield name, target

    def mappings_of(self, source: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The event source mappings that read from resources of a type, such as `SQS::Queue`."""
        for name, mapping in self.of_type("Lambda::EventSourceMapping"):
            if self.type_of(logical_id(mapping["EventSourceArn"])) == source:
                yield name, mapping

    def role_of(self, name: str | None) -> str | None:
        """The role that a function or a state machine runs under."""
        properties = self.properties(name)
        return logical_id(properties.get("Role") or properties.get("RoleArn"))

    def statements(self, role: str | None) -> Iterator[dict[str, Any]]:
        """The statements of a role's inline policies, `Action` and `Resource` always lists."""
        for policy in self.properties(role).get("Policies", []):
            for statement in as_list(policy["PolicyDocument"]["Statement"]):
                yield {
                    **statement,
                    "Action": as_list(statement.get("Action", [])),
                    "Resource": as_list(statement.get("Resource", [])),
                }

    def allows(self, role: str | None, action: str, resource: str | None) -> bool:
        """Whether a role allows an action on a resource of this template, by name."""
        return resource is not None and any(
            statement["Effect"] == "Allow"
            and action in statement["Action"]
            and resource in map(logical_id, statement["Resource"])
            for statement in self.statements(role)
        )

    def exists(self, name: str, **parameters: str) -> bool:
        """Whether a resource is created with these parameters; the others have their defaults."""
        values = {key: parameter.get("Default", "") for key, parameter in self.raw["Parameters"].items()}
        condition = self.resources[name].get("Condition")
        return condition is None or self._holds({"Condition": condition}, values | parameters)

    def _holds(self, condition: Any, values: dict[str, str]) -> bool:
        def value(operand: Any) -> Any:
            return values[operand["Ref"]] if isinstance(operand, dict) else operand

        match condition:
            case {"Condition": str(name)}:
                return self._holds(self.raw["Conditions"][name], values)
            case {"Fn::Equals": [left, right]}:
                return bool(value(left) == value(right))
            case {"Fn::Not": [inner]}:
                return not self._holds(inner, values)
            case {"Fn::And": list(inner)}:
                return all(self._holds(each, values) for each in inner)
            case {"Fn::Or": list(inner)}:
                return any(self._holds(each, values) for each in inner)
        raise ValueError(f"not a condition: {condition}")


def fixed_at_creation(kind: str) -> list[str]:
    """The properties of a type whose change replaces the resource, as AWS's schemas say: `/properties/TableName`."""
    schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema(str(SESSION.region_name), kind).schema
    return [*schema.get("createOnlyProperties", []), *schema.get("conditionalCreateOnlyProperties", [])]
