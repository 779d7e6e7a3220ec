"""What CloudFormation says about the stack: its state, parameters, tags and resources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from orderctl.stack.target import Target


class Resource(NamedTuple):
    """A resource by its name in the template, its CloudFormation type and its name or ARN in the account."""

    logical_id: str
    kind: str
    physical_id: str


@dataclass(frozen=True)
class Description:
    """A deployed stack. `status` is CloudFormation's word, such as UPDATE_COMPLETE."""

    name: str
    status: str
    parameters: dict[str, str]
    tags: dict[str, str]
    resources: tuple[Resource, ...]

    @property
    def environment(self) -> str:
        """The parameter Environment: local, dev or prod. A stack without it counts as prod."""
        return self.parameters.get("Environment", "prod")

    def of_kind(self, kind: str) -> dict[str, str]:
        """Return the physical ids of the resources of a type, such as AWS::SQS::Queue, by logical id."""
        return {each.logical_id: each.physical_id for each in self.resources if each.kind == kind}


def describe(target: Target) -> Description:
    """Return the stack's description. Raises botocore's ClientError if CloudFormation refuses."""
    cloudformation = target.client("cloudformation")
    # template.yaml names the bus after the stack.
    name = target.output("EventBusName").removesuffix("-orders")
    stack = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
    pages = cloudformation.get_paginator("list_stack_resources").paginate(StackName=name)
    return Description(
        name,
        stack["StackStatus"],
        {each["ParameterKey"]: each.get("ParameterValue", "") for each in stack.get("Parameters", [])},
        {each["Key"]: each["Value"] for each in stack.get("Tags", [])},
        tuple(
            Resource(each["LogicalResourceId"], each["ResourceType"], each.get("PhysicalResourceId", ""))
            for page in pages
            for each in page["StackResourceSummaries"]
        ),
    )
