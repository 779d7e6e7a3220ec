"""Reference (b): the least that a function needs to store an order with the AWS SDK."""
# ruff: noqa: D103 - written as such functions are

import json
import os
import uuid
from typing import Any

import boto3

dynamodb = boto3.client("dynamodb")


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    order_id = str(uuid.uuid4())
    dynamodb.put_item(
        TableName=os.environ["ORDERS_TABLE"],
        Item={"orderId": {"S": order_id}, "body": {"S": event["body"]}},
        ConditionExpression="attribute_not_exists(orderId)",
    )
    return {"statusCode": 202, "body": json.dumps({"orderId": order_id})}
