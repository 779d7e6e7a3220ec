"""What CloudFormation says about the stack: its state, parameters, tags and resources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from orderctl.stack.target import Target

# The settings of functions that choose an outside system.
PROVIDERS = ("PAYMENT_PROVIDER", "WAREHOUSE", "MAILER")
SIMULATED = "simulated"
ALARMS_QUOTA = 100  # CloudWatch, DescribeAlarms


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


def providers(target: Target, description: Description) -> dict[str, dict[str, str]]:
    """Return which outside systems each function is set to: setting to value, by the function's logical id."""
    functions = target.client("lambda")
    found = {}
    for logical_id, name in description.of_kind("AWS::Lambda::Function").items():
        configuration = functions.get_function_configuration(FunctionName=name)
        variables = configuration.get("Environment", {}).get("Variables", {})
        found[logical_id] = {each: variables[each] for each in PROVIDERS if each in variables}
    return found


def alarms(target: Target, description: Description) -> list[dict[str, Any]]:
    """Return CloudWatch's descriptions of the stack's metric alarms."""
    cloudwatch, names = target.client("cloudwatch"), list(description.of_kind("AWS::CloudWatch::Alarm").values())
    found: list[dict[str, Any]] = []
    for start in range(0, len(names), ALARMS_QUOTA):
        batch = names[start : start + ALARMS_QUOTA]
        found += cloudwatch.describe_alarms(AlarmNames=batch, MaxRecords=ALARMS_QUOTA)["MetricAlarms"]
    return found
