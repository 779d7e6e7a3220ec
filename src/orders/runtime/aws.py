"""AWS clients: made at module scope, once per execution environment.

botocore makes the clients. boto3 makes the same ones, but importing boto3 costs a tenth of a cold start.
"""

import gc
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, overload

# Imports make many objects and drop none, so a garbage collection during or after them finds nothing. These
# collections cost a tenth of a cold start.
gc.disable()

import botocore.session  # noqa: E402
from botocore.config import Config  # noqa: E402

gc.freeze()
gc.enable()

if TYPE_CHECKING:
    from types_boto3_cloudwatch import CloudWatchClient
    from types_boto3_dynamodb import DynamoDBClient
    from types_boto3_dynamodbstreams import DynamoDBStreamsClient
    from types_boto3_events import EventBridgeClient
    from types_boto3_lambda import LambdaClient
    from types_boto3_s3 import S3Client
    from types_boto3_sqs import SQSClient
    from types_boto3_stepfunctions import SFNClient

# Time-outs shorter than the function's own, so that the function can report the error.
# Without a given User-Agent, botocore builds one twice a call.
_CONFIG = Config(
    connect_timeout=2,
    read_timeout=5,
    retries={"mode": "standard", "total_max_attempts": 3},
    user_agent="order-pipeline",
    tcp_keepalive=True,
)


# For tested requests of a fixed form: botocore's check of parameters costs a fifth of the call's CPU, and DynamoDB
# checks them too.
_UNCHECKED = _CONFIG.merge(Config(parameter_validation=False))


@overload
def client(service: Literal["cloudwatch"]) -> "CloudWatchClient": ...
@overload
def client(service: Literal["dynamodb"], *, checked: bool = True) -> "DynamoDBClient": ...
@overload
def client(service: Literal["dynamodbstreams"]) -> "DynamoDBStreamsClient": ...
@overload
def client(service: Literal["events"]) -> "EventBridgeClient": ...
@overload
def client(service: Literal["lambda"]) -> "LambdaClient": ...
@overload
def client(service: Literal["s3"]) -> "S3Client": ...
@overload
def client(service: Literal["sqs"]) -> "SQSClient": ...
@overload
def client(service: Literal["stepfunctions"]) -> "SFNClient": ...
def client(service: str, *, checked: bool = True) -> Any:
    """A client of one AWS service, with our time-outs (seconds) and at most 3 attempts a call.

    `checked=False` sends requests without botocore's check of their parameters.
    """
    gc.disable()
    try:
        return _session().create_client(service, config=_CONFIG if checked else _UNCHECKED)
    finally:
        gc.freeze()
        gc.enable()


@cache
def _session() -> botocore.session.Session:
    return botocore.session.get_session()
