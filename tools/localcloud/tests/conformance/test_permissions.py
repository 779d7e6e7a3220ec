"""IAM: whose permissions count for the calls that services make to each other."""

import json
from typing import Any

import pytest

from conformance.support import ACCOUNT, REGION, LocalCloud, policy, unique

ECHO = "def handler(event, context):\n    return event\n"
FAILING = "def handler(event, context):\n    raise ValueError\n"
WRITER = """
    import boto3
    import os

    def handler(event, context):
        table = os.environ["TABLE"]
        boto3.client("dynamodb").put_item(TableName=table, Item={"id": {"S": "1"}})
"""


def limited_role(cloud: LocalCloud, service: str, *statements: dict[str, Any]) -> str:
    """Create a role that may do what the statements say, and nothing else."""
    name = unique("limited")
    trust = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    iam = cloud.client("iam")
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=policy(trust))
    if statements:
        iam.put_role_policy(RoleName=name, PolicyName="some", PolicyDocument=policy(*statements))
    return f"arn:aws:iam::{ACCOUNT}:role/{name}"


def allow(action: str, resource: str) -> dict[str, Any]:
    """Return a statement that allows an action."""
    return {"Effect": "Allow", "Action": action, "Resource": resource}


def table(cloud: LocalCloud) -> str:
    """Create a table and return its name."""
    name = unique("table")
    cloud.client("dynamodb").create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
    )
    return name


def test_a_function_may_do_what_its_role_allows_only(cloud: LocalCloud) -> None:
    # GIVEN a function whose role allows nothing
    name = table(cloud)
    role = limited_role(cloud, "lambda.amazonaws.com")
    variables = {"TABLE": name}
    function = cloud.function(WRITER, Role=role, Environment={"Variables": variables})
    # WHEN it writes to a table
    _, payload = cloud.invoke(function)
    # THEN it is refused; with the permission it is not
    assert "AccessDeniedException" in payload["errorMessage"]
    resource = f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{name}"
    document = policy(allow("dynamodb:PutItem", resource))
    role_name = role.rsplit("/", 1)[1]
    cloud.client("iam").put_role_policy(RoleName=role_name, PolicyName="write", PolicyDocument=document)
    assert cloud.invoke(function)[0] is None


def task_outcome(cloud: LocalCloud, role: str, resource: str, arguments: dict[str, Any]) -> str:
    """Run one task as a role and return the error that it ended with, or an empty string."""
    task = {"Type": "Task", "Resource": resource, "Arguments": arguments, "End": True}
    definition = {"QueryLanguage": "JSONata", "StartAt": "Only", "States": {"Only": task}}
    stepfunctions = cloud.client("stepfunctions")
    machine = stepfunctions.create_state_machine(
        name=unique("machine"), definition=json.dumps(definition), roleArn=role
    )["stateMachineArn"]
    execution = stepfunctions.start_execution(stateMachineArn=machine)["executionArn"]
    return str(cloud.outcome(execution).get("error", ""))


@pytest.mark.parametrize("service", ["lambda", "sqs", "dynamodb"])
def test_a_task_is_refused_when_the_machines_role_does_not_allow_it(cloud: LocalCloud, service: str) -> None:
    # GIVEN a call of each service, and what it needs
    if service == "lambda":
        function = cloud.function(ECHO)
        resource = "arn:aws:states:::lambda:invoke"
        arguments: dict[str, Any] = {"FunctionName": function, "Payload": {}}
        needed = allow("lambda:InvokeFunction", f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{function}")
        error = "Lambda.AWSLambdaException"
    elif service == "sqs":
        queue = cloud.queue()
        resource, arguments = "arn:aws:states:::sqs:sendMessage", {"QueueUrl": queue.url, "MessageBody": "x"}
        needed, error = allow("sqs:SendMessage", queue.arn), "SQS.AmazonSQSException"
    else:
        name = table(cloud)
        item = {"Put": {"TableName": name, "Item": {"id": {"S": "1"}}}}
        resource = "arn:aws:states:::aws-sdk:dynamodb:transactWriteItems"
        arguments = {"TransactItems": [item]}
        needed = allow("dynamodb:PutItem", f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{name}")
        error = "DynamoDb.DynamoDbException"
    # WHEN it runs as a role without and with the permission
    without = task_outcome(cloud, limited_role(cloud, "states.amazonaws.com"), resource, arguments)
    with_it = task_outcome(cloud, limited_role(cloud, "states.amazonaws.com", needed), resource, arguments)
    # THEN only the second one succeeds
    assert (without, with_it) == (error, "")


def test_a_function_without_a_permission_for_the_rule_is_not_invoked(cloud: LocalCloud) -> None:
    # GIVEN a rule on a function that has no resource policy
    bus, dead_letters = cloud.bus(), cloud.queue_for_events()
    function = cloud.function(ECHO)
    arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{function}"
    cloud.rule(bus, {"Arn": arn, "DeadLetterConfig": {"Arn": dead_letters.arn}})
    # WHEN an event matches
    cloud.put_event(bus, {})
    # THEN it lies on the dead-letter queue
    assert dead_letters.next()["MessageAttributes"]["ERROR_CODE"]["StringValue"] == "NO_PERMISSIONS"
    assert cloud.log(function) == []


def test_a_record_is_sent_as_the_functions_role(cloud: LocalCloud) -> None:
    # GIVEN two functions, one of which may send to its destination
    outcomes = {}
    for allowed in (False, True):
        queue = cloud.queue()
        statements = [allow("sqs:SendMessage", queue.arn)] if allowed else []
        function = cloud.function(FAILING, Role=limited_role(cloud, "lambda.amazonaws.com", *statements))
        cloud.client("lambda").put_function_event_invoke_config(
            FunctionName=function,
            MaximumRetryAttempts=0,
            DestinationConfig={"OnFailure": {"Destination": queue.arn}},
        )
        outcomes[allowed] = queue
        # WHEN they fail
        cloud.invoke(function, InvocationType="Event")
    # THEN only that one's record arrives
    assert outcomes[True].next()
    assert outcomes[False].take() is None
