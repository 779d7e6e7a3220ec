"""A server for tests, and short ways to put resources into it and to read them."""

import importlib.util
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from textwrap import dedent
from typing import Any, TypeVar
from uuid import uuid4

import boto3
from botocore.config import Config

# MiniStack pins a botocore of its own, so this package may be installed in another environment than the tests'.
PYTHON = (
    Path(sys.executable)
    if importlib.util.find_spec("ministack")
    else Path(__file__).parents[4] / ".local/venv-cloud/bin/python"
)
ACCOUNT = "000000000000"
REGION = "us-east-1"

T = TypeVar("T")


def eventually(look: Callable[[], T], timeout_s: float = 15.0) -> T:
    """Return the first true value of `look`. Raises AssertionError if there is none within the time."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = look()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"nothing after {timeout_s} s, last: {value!r}")
        time.sleep(0.02)


def unique(prefix: str) -> str:
    """Return a name that no other test uses."""
    return f"{prefix}-{uuid4().hex[:8]}"


def package(source: str) -> bytes:
    """Return a deployment package with one module, index.py."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("index.py", dedent(source))
    return archive.getvalue()


@dataclass(frozen=True)
class Queue:
    """A queue as tests use it."""

    client: Any
    url: str
    arn: str

    def send(self, body: Any) -> str:
        """Send a message and return its id."""
        return str(self.client.send_message(QueueUrl=self.url, MessageBody=json.dumps(body))["MessageId"])

    def take(self) -> dict[str, Any] | None:
        """Receive and delete one message, or None."""
        messages = self.client.receive_message(
            QueueUrl=self.url, MessageAttributeNames=["All"], AttributeNames=["All"], WaitTimeSeconds=0
        ).get("Messages", [])
        if not messages:
            return None
        self.client.delete_message(QueueUrl=self.url, ReceiptHandle=messages[0]["ReceiptHandle"])
        return dict(messages[0])

    def next(self) -> dict[str, Any]:
        """Wait for a message."""
        message = eventually(self.take)
        assert message is not None
        return message


class LocalCloud:
    """A running server and the resources that tests put into it."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._clients: dict[str, Any] = {}

    @cached_property
    def everything(self) -> str:
        """The ARN of a role of Lambda that may do everything."""
        return self.role()

    def client(self, service: str) -> Any:
        """Return a boto3 client that does not retry."""
        if service not in self._clients:
            self._clients[service] = boto3.Session().client(  # type: ignore[call-overload]
                service,
                endpoint_url=self.endpoint,
                region_name=REGION,
                aws_access_key_id="test",
                aws_secret_access_key="test",
                config=Config(
                    retries={"total_max_attempts": 1},
                    max_pool_connections=20,
                    inject_host_prefix=False,  # sync-127.0.0.1 is no host
                ),
            )
        return self._clients[service]

    def role(self, service: str = "lambda.amazonaws.com") -> str:
        """Create a role that may do everything and return its ARN."""
        name = unique("role")
        trust = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
        everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
        self.client("iam").create_role(RoleName=name, AssumeRolePolicyDocument=policy(trust))
        self.client("iam").put_role_policy(RoleName=name, PolicyName="all", PolicyDocument=policy(everything))
        return f"arn:aws:iam::{ACCOUNT}:role/{name}"

    def function(self, source: str, **options: Any) -> str:
        """Create a function from the source of index.handler and return its name."""
        name = unique("function")
        request = {"Runtime": "python3.13", "Handler": "index.handler", "Timeout": 10, **options}
        request.setdefault("Role", self.everything)
        self.client("lambda").create_function(FunctionName=name, Code={"ZipFile": package(source)}, **request)
        return name

    def invoke(self, function: str, event: Any = None, **options: Any) -> tuple[str | None, Any]:
        """Invoke and return the function error, or None, and the payload."""
        answer = self.client("lambda").invoke(FunctionName=function, Payload=json.dumps(event), **options)
        payload = answer["Payload"].read()
        return answer.get("FunctionError"), json.loads(payload) if payload else None

    def log(self, function: str) -> list[str]:
        """Return the lines of a function's log."""
        logs = self.client("logs")
        request = {"logGroupName": f"/aws/lambda/{function}"}
        try:
            pages = list(logs.get_paginator("filter_log_events").paginate(**request))
        except logs.exceptions.ResourceNotFoundException:
            return []
        return [event["message"] for page in pages for event in page["events"]]

    def outcome(self, execution: str) -> dict[str, Any]:
        """Wait for the end of an execution and return its description."""

        def ended() -> dict[str, Any] | None:
            description = self.client("stepfunctions").describe_execution(executionArn=execution)
            return None if description["status"] == "RUNNING" else dict(description)

        description = eventually(ended)
        assert description is not None
        return description

    def queue(self, **attributes: str) -> Queue:
        """Create a queue."""
        client = self.client("sqs")
        name = unique("queue")
        url = client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        return Queue(client, url, f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}")

    def queue_for_events(self) -> Queue:
        """Create a queue that EventBridge may send to."""
        queue = self.queue()
        statement = {
            "Effect": "Allow",
            "Principal": {"Service": "events.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": queue.arn,
        }
        queue.client.set_queue_attributes(QueueUrl=queue.url, Attributes={"Policy": policy(statement)})
        return queue

    def bus(self) -> str:
        """Create an event bus and return its name."""
        name = unique("bus")
        self.client("events").create_event_bus(Name=name)
        return name

    def rule(self, bus: str, target: dict[str, Any], pattern: dict[str, Any] | None = None) -> str:
        """Create a rule with one target and return its ARN."""
        events = self.client("events")
        name = unique("rule")
        text = json.dumps(pattern or {"source": [{"prefix": ""}]})
        arn = events.put_rule(Name=name, EventBusName=bus, EventPattern=text)["RuleArn"]
        answer = events.put_targets(Rule=name, EventBusName=bus, Targets=[{"Id": "target", **target}])
        assert answer["FailedEntryCount"] == 0
        return str(arn)

    def put_event(self, bus: str, detail: Any) -> str:
        """Put one event on a bus and return its id."""
        entry = {"EventBusName": bus, "Source": "test", "DetailType": "Tested", "Detail": json.dumps(detail)}
        answer = self.client("events").put_events(Entries=[entry])
        assert answer["FailedEntryCount"] == 0
        return str(answer["Entries"][0]["EventId"])

    def stack(self, resources: dict[str, Any]) -> dict[str, str]:
        """Create a stack and return the physical ids of its resources by logical id."""
        cloudformation = self.client("cloudformation")
        name = unique("stack")
        template = json.dumps({"Resources": resources})
        cloudformation.create_stack(StackName=name, TemplateBody=template, Capabilities=["CAPABILITY_IAM"])

        def status() -> str:
            current = str(cloudformation.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"])
            return "" if current.endswith("IN_PROGRESS") else current

        assert eventually(status) == "CREATE_COMPLETE"
        listed = cloudformation.describe_stack_resources(StackName=name)["StackResources"]
        return {resource["LogicalResourceId"]: resource["PhysicalResourceId"] for resource in listed}


def policy(*statements: dict[str, Any]) -> str:
    """Return a policy document."""
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def free_port() -> int:
    """Return a free port on 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def healthy(endpoint: str) -> bool:
    """Whether a server answers."""
    try:
        with urllib.request.urlopen(f"{endpoint}/_ministack/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def command(port: int, directory: Path, *options: str) -> list[str]:
    """Return the command line of a server whose files lie in `directory`."""
    return [str(PYTHON), "-m", "localcloud", "--port", str(port), "--data-dir", str(directory / "data"), *options]


def environment(directory: Path) -> dict[str, str]:
    """Return the environment of a server whose temporary files lie in `directory`."""
    temporary = directory / "tmp"
    temporary.mkdir(exist_ok=True)
    return {**os.environ, "TMPDIR": str(temporary)}


def start(port: int, directory: Path, *options: str) -> tuple[subprocess.Popen[bytes], LocalCloud]:
    """Start a server and wait until it answers. Raises AssertionError with its log if it ends instead."""
    log = directory / "server.log"
    with log.open("ab") as output:
        server = subprocess.Popen(
            command(port, directory, *options),
            cwd=directory,
            env=environment(directory),
            stdout=output,
            stderr=output,
        )
    endpoint = f"http://127.0.0.1:{port}"
    eventually(lambda: server.poll() is not None or healthy(endpoint), 60)
    assert server.poll() is None, log.read_text()
    return server, LocalCloud(endpoint)


def table_with_stream(cloud: LocalCloud) -> tuple[str, str]:
    """Create a table with a stream and return its name and the stream's ARN."""
    name = unique("table")
    description = cloud.client("dynamodb").create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"},
    )["TableDescription"]
    return name, str(description["LatestStreamArn"])
