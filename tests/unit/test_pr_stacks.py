"""Stacks of pull requests are deleted whole; no other stack is."""

from __future__ import annotations

import datetime
import importlib.util
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from tests.integration.world import REGION

_spec = importlib.util.spec_from_file_location("pr_stacks", Path(__file__).parents[2] / "scripts/pr_stacks.py")
assert _spec is not None
assert _spec.loader is not None
pr_stacks = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(pr_stacks)

NOW = datetime.datetime.now(datetime.UTC)


class Stacks:
    """CloudFormation: stacks by name, each with its tags and the time of its last deployment."""

    def __init__(self, account: Account) -> None:
        self.account = account

    def describe_stacks(self, *, StackName: str) -> dict[str, Any]:  # noqa: N803
        found = self.account.stacks.get(StackName)
        if found is None:
            message = f"Stack with id {StackName} does not exist"
            raise ClientError({"Error": {"Code": "ValidationError", "Message": message}}, "DescribeStacks")
        return {"Stacks": [found]}

    def get_paginator(self, operation: str) -> Any:
        account = self.account

        class Pages:
            def paginate(self, **_: Any) -> list[dict[str, Any]]:
                if operation == "describe_stacks":
                    return [{"Stacks": list(account.stacks.values())}]
                return [{"StackResourceSummaries": account.resources}]

        return Pages()

    def delete_stack(self, *, StackName: str) -> None:  # noqa: N803
        if StackName in self.account.stuck:
            raise ClientError({"Error": {"Code": "ValidationError", "Message": "no"}}, "DeleteStack")
        del self.account.stacks[StackName]

    def get_waiter(self, _: str) -> Any:
        class Waiter:
            def wait(self, **_: Any) -> None:
                pass

        return Waiter()


class Pools:
    """Cognito: the ids of the pools that were deleted."""

    def __init__(self) -> None:
        self.deleted: list[str] = []

    def delete_user_pool(self, *, UserPoolId: str) -> None:  # noqa: N803
        self.deleted.append(UserPoolId)


class Account:
    """An account with one set of kept resources, and stacks that are said to have made them."""

    def __init__(self) -> None:
        self.stacks: dict[str, dict[str, Any]] = {}
        self.stuck: set[str] = set()
        self.pools = Pools()
        self.resources = [
            {"ResourceType": "AWS::DynamoDB::Table", "PhysicalResourceId": "kept-table"},
            {"ResourceType": "AWS::S3::Bucket", "PhysicalResourceId": "kept-bucket"},
            {"ResourceType": "AWS::Cognito::UserPool", "PhysicalResourceId": "kept-pool"},
            {"ResourceType": "AWS::SQS::Queue", "PhysicalResourceId": "queue"},
            {"ResourceType": "AWS::DynamoDB::Table"},  # was never made
        ]
        self.dynamodb, self.s3 = (
            boto3.client("dynamodb", region_name=REGION),
            boto3.client("s3", region_name=REGION),
        )

    def client(self, service: str) -> Any:
        known = {"dynamodb": self.dynamodb, "s3": self.s3, "cognito-idp": self.pools, "cloudformation": Stacks(self)}
        return known[service]

    def add(self, name: str, *, pull_request: str = "17", days_ago: float = 0) -> None:
        tags = [{"Key": "pull-request", "Value": pull_request}] if pull_request else []
        at = NOW - datetime.timedelta(days=days_ago)
        self.stacks[name] = {"StackName": name, "Tags": tags, "CreationTime": at, "LastUpdatedTime": at}


@pytest.fixture
def account() -> Any:
    with mock_aws():
        found = Account()
        found.dynamodb.create_table(
            TableName="kept-table",
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        )
        found.s3.create_bucket(Bucket="kept-bucket")
        found.s3.put_bucket_versioning(Bucket="kept-bucket", VersioningConfiguration={"Status": "Enabled"})
        for body in (b"1", b"2"):
            found.s3.put_object(Bucket="kept-bucket", Key="receipt", Body=body)
        found.s3.delete_object(Bucket="kept-bucket", Key="receipt")
        yield found


def kept(account: Account) -> tuple[list[str], list[str], list[str]]:
    buckets = [each["Name"] for each in account.s3.list_buckets()["Buckets"]]
    return account.dynamodb.list_tables()["TableNames"], buckets, account.pools.deleted


def test_a_stack_goes_with_all_that_cloudformation_keeps(account: Account) -> None:
    account.add("orders-pr-17")
    assert pr_stacks.delete(account.client, "orders-pr-17") == 0
    assert account.stacks == {}
    assert kept(account) == ([], [], ["kept-pool"])


def test_a_deletion_that_died_half_way_is_repeated(account: Account) -> None:
    # GIVEN a stack whose deletion fails after its table and bucket are gone
    account.add("orders-pr-17")
    account.stuck = {"orders-pr-17"}
    with pytest.raises(ClientError):
        pr_stacks.delete(account.client, "orders-pr-17")

    # WHEN it is deleted again
    account.stuck = set()
    assert pr_stacks.delete(account.client, "orders-pr-17") == 0
    assert account.stacks == {}


def test_a_stack_without_the_tag_is_never_deleted(account: Account, capsys: pytest.CaptureFixture[str]) -> None:
    account.add("orders-prod", pull_request="", days_ago=100)
    assert pr_stacks.delete(account.client, "orders-prod") == 1
    assert "orders-prod has no tag" in capsys.readouterr().err
    assert pr_stacks.clean(account.client, datetime.timedelta(days=7)) == 0
    assert capsys.readouterr().err == ""  # the cleaner doesn't even try
    assert list(account.stacks) == ["orders-prod"]
    assert kept(account) == (["kept-table"], ["kept-bucket"], [])


def test_a_stack_that_is_gone_is_no_error(account: Account, capsys: pytest.CaptureFixture[str]) -> None:
    assert pr_stacks.delete(account.client, "orders-pr-17") == 0
    assert "no stack" in capsys.readouterr().out


def test_the_cleaner_takes_the_old_ones_and_goes_on_after_an_error(account: Account) -> None:
    account.add("orders-pr-1", days_ago=8)
    account.add("orders-pr-2", days_ago=9)
    account.add("orders-pr-3", days_ago=6)
    account.stuck = {"orders-pr-1"}
    assert pr_stacks.clean(account.client, datetime.timedelta(days=7)) == 1
    assert sorted(account.stacks) == ["orders-pr-1", "orders-pr-3"]
