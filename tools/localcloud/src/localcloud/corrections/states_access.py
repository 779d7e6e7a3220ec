"""The permissions that a Step Functions task needs from its machine's role.

Covers calls to Lambda, SQS, SNS, DynamoDB, EventBridge and Step Functions; no other call is checked.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ministack.core.responses import get_account_id, get_region

INTEGRATION = "arn:aws:states:::"
TRANSACTION_ACTIONS = {
    "ConditionCheck": "ConditionCheckItem",
    "Delete": "DeleteItem",
    "Get": "GetItem",
    "Put": "PutItem",
    "Update": "UpdateItem",
}

JsonObject = dict[str, Any]


@dataclass(frozen=True)
class Access:
    """One permission, and the error name of a task without the permission."""

    action: str
    resource_arn: str
    error: str


def required(resource: str, arguments: Any) -> list[Access]:
    """Return the permissions that a task's call needs."""
    if resource.startswith("arn:aws:lambda:"):
        return [Access("lambda:InvokeFunction", resource, "Lambda.AWSLambdaException")]
    if not resource.startswith(INTEGRATION) or not isinstance(arguments, dict):
        return []
    service, _, call = resource.removeprefix(INTEGRATION).rpartition(":")
    sdk = service.startswith("aws-sdk:")
    return list(accesses(service.removeprefix("aws-sdk:"), call.partition(".")[0], arguments, sdk=sdk))


def accesses(service: str, call: str, arguments: JsonObject, *, sdk: bool) -> Iterator[Access]:
    """Yield the permissions of one call of a service."""
    if (service, call) == ("lambda", "invoke"):
        name = str(arguments.get("FunctionName", ""))
        function = name if name.startswith("arn:") else arn("lambda", f"function:{name}")
        yield Access("lambda:InvokeFunction", function, "Lambda.AWSLambdaException")
    elif (service, call) == ("sqs", "sendMessage"):
        queue = str(arguments.get("QueueUrl", "")).rsplit("/", 1)[-1]
        yield Access("sqs:SendMessage", arn("sqs", queue), "SQS.AmazonSQSException")
    elif (service, call) == ("sns", "publish"):
        yield Access("sns:Publish", str(arguments.get("TopicArn", "")), "SNS.AmazonSNSException")
    elif (service, call) == ("events", "putEvents"):
        for entry in arguments.get("Entries") or []:
            bus = str(entry.get("EventBusName") or "default")
            bus_arn = bus if bus.startswith("arn:") else arn("events", f"event-bus/{bus}")
            yield Access("events:PutEvents", bus_arn, "EventBridge.AmazonEventBridgeException")
    elif (service, call) == ("states", "startExecution"):
        machine = str(arguments.get("StateMachineArn", ""))
        yield Access("states:StartExecution", machine, "StepFunctions.AWSStepFunctionsException")
    elif service == "dynamodb":
        error = "DynamoDb.DynamoDbException" if sdk else "DynamoDB.AmazonDynamoDBException"
        for action, table in table_actions(call, arguments):
            table_arn = table if table.startswith("arn:") else arn("dynamodb", f"table/{table}")
            yield Access(f"dynamodb:{action}", table_arn, error)


def table_actions(call: str, arguments: JsonObject) -> Iterator[tuple[str, str]]:
    """Yield action and table of a DynamoDB call; a transaction needs those of its parts."""
    for item in arguments.get("TransactItems") or []:
        for part, details in item.items():
            yield TRANSACTION_ACTIONS[part], str(details["TableName"])
    for table in arguments.get("RequestItems") or {}:
        yield call[0].upper() + call[1:], str(table)
    if "TableName" in arguments:
        index = f"/index/{arguments['IndexName']}" if "IndexName" in arguments else ""
        yield call[0].upper() + call[1:], f"{arguments['TableName']}{index}"


def arn(service: str, resource: str) -> str:
    """Return the ARN of a resource of the current account and region."""
    return f"arn:aws:{service}:{get_region()}:{get_account_id()}:{resource}"
