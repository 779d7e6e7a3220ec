"""Delete the stacks of pull requests, with the tables, buckets and user pools that CloudFormation keeps.

    scripts/pr_stacks.py delete orders-pr-17   one stack; no error if there is none
    scripts/pr_stacks.py clean --days 7        every one that was not deployed to for so long

Only a stack whose tag `pull-request` has a value is deleted. The usual AWS settings choose account and region.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Callable
from typing import Any

import boto3
from botocore.exceptions import ClientError

TAG = "pull-request"
# The types whose DeletionPolicy keeps them (template.yaml).
KEPT = ("AWS::DynamoDB::Table", "AWS::S3::Bucket", "AWS::Cognito::UserPool")

Client = Callable[[str], Any]


def main(arguments: list[str]) -> int:
    """Run one of the two commands; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("delete").add_argument("stack")
    commands.add_parser("clean").add_argument("--days", type=float, default=7.0)
    given = parser.parse_args(arguments)
    session = boto3.session.Session()

    def client(service: Any) -> Any:
        return session.client(service)

    if given.command == "clean":
        return clean(client, datetime.timedelta(days=given.days))
    return delete(client, given.stack)


def delete(client: Client, name: str) -> int:
    """Delete a stack and what it keeps; returns 1 if it isn't that of a pull request."""
    found = _described(client, name)
    if found is None:
        print(f"There is no stack {name}.")
        return 0
    if not _pull_request(found):
        print(f"The stack {name} has no tag {TAG}: it is not deleted.", file=sys.stderr)
        return 1
    cloudformation = client("cloudformation")
    kept = [
        (resource["ResourceType"], resource["PhysicalResourceId"])
        for page in cloudformation.get_paginator("list_stack_resources").paginate(StackName=name)
        for resource in page["StackResourceSummaries"]
        if resource["ResourceType"] in KEPT and resource.get("PhysicalResourceId")
    ]
    # Before the stack: a deletion that dies half-way can be repeated as long as the stack names them.
    for kind, physical_id in kept:
        _delete_kept(client, kind, physical_id)
    cloudformation.delete_stack(StackName=name)
    cloudformation.get_waiter("stack_delete_complete").wait(StackName=name)
    print(f"Deleted the stack {name} and {len(kept)} resources that it kept.")
    return 0


def clean(client: Client, older_than: datetime.timedelta) -> int:
    """Delete the stacks of pull requests that were not deployed to for so long; returns 1 if one could not be."""
    oldest, code = datetime.datetime.now(datetime.UTC) - older_than, 0
    pages = client("cloudformation").get_paginator("describe_stacks").paginate()
    stacks = [stack for page in pages for stack in page["Stacks"]]
    for stack in stacks:
        if _pull_request(stack) and stack.get("LastUpdatedTime", stack["CreationTime"]) < oldest:
            try:
                delete(client, stack["StackName"])
            except Exception as error:  # the next stack has its turn all the same
                print(f"The stack {stack['StackName']} can't be deleted: {error}", file=sys.stderr)
                code = 1
    return code


def _described(client: Client, name: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = client("cloudformation").describe_stacks(StackName=name)["Stacks"][0]
    except ClientError as error:
        if "does not exist" in error.response["Error"].get("Message", ""):
            return None
        raise
    return found


def _pull_request(stack: dict[str, Any]) -> str:
    return next((str(tag["Value"]) for tag in stack.get("Tags", []) if tag["Key"] == TAG), "")


def _empty(s3: Any, bucket: str) -> None:
    """Delete every version of every object; a page has at most as many as DeleteObjects takes."""
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        versions = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        objects = [{"Key": each["Key"], "VersionId": each["VersionId"]} for each in versions]
        if objects:
            s3.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})


def _delete_kept(client: Client, kind: str, physical_id: str) -> None:
    """Delete a resource, unless it is gone already."""
    try:
        if kind == "AWS::DynamoDB::Table":
            client("dynamodb").delete_table(TableName=physical_id)
        elif kind == "AWS::S3::Bucket":
            _empty(client("s3"), physical_id)
            client("s3").delete_bucket(Bucket=physical_id)
        else:
            client("cognito-idp").delete_user_pool(UserPoolId=physical_id)
    except ClientError as error:
        if error.response["Error"]["Code"] not in {"ResourceNotFoundException", "NoSuchBucket"}:
            raise


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
