"""What a deployment can't change without an empty new resource is listed in fixed.yaml, and stays as it is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.template.cloudformation import Template, fixed_at_creation, load_raw, load_workflow

LIST = Path(__file__).with_name("fixed.yaml")

# What is lost with the old resource, by type. The logical id counts as well: another one is another resource.
LOST = {
    "AWS::ApiGateway::RestApi": "the URL changes for every client",
    "AWS::ApiGateway::Stage": "the URL changes for every client",
    "AWS::Cognito::UserPool": "customers get new ids and so lose their orders, or Cognito refuses the deployment",
    "AWS::Cognito::UserPoolClient": "every client needs the new id, and everybody is signed out",
    "AWS::DynamoDB::Table": "the items stay behind in the old table, which nothing reads",
    "AWS::Events::Archive": "the events of 30 days can't be replayed any more",
    "AWS::Events::EventBus": "events that are being delivered, and the archive, belong to the old bus",
    "AWS::Logs::LogGroup": "the lines of the last 30 days go with the old group",
    "AWS::S3::Bucket": "the objects stay behind in the old bucket, which nothing reads",
    "AWS::SNS::Topic": "each subscriber has to confirm again, and no alarm is heard before",
    "AWS::SQS::Queue": "the messages on the old queue are lost",
    "AWS::StepFunctions::StateMachine": "AWS ends the executions under way; the sweep has to restart their orders",
}
# What AWS's schemas don't say.
FIXED_TOO = {
    # Cognito refuses to change the first three. A new one of Schema can be added, none removed or changed.
    "AWS::Cognito::UserPool": ["AliasAttributes", "UsernameAttributes", "UsernameConfiguration", "Schema"],
    # Another view is another stream: changes that nobody has read from the old one are never published.
    "AWS::DynamoDB::Table": ["LocalSecondaryIndexes", "StreamSpecification"],
}


def fixed(resource: dict[str, Any]) -> dict[str, Any]:
    """A resource's type, and those of its properties that are fixed at creation."""
    kind = resource["Type"]
    names = {path.split("/")[2] for path in fixed_at_creation(kind)} | set(FIXED_TOO.get(kind, []))
    given = resource.get("Properties", {})
    return {"Type": kind, **{name: given[name] for name in sorted(names) if name in given}}


def changes(template: Template) -> list[str]:
    """A sentence for each fixed property that isn't as the list has it."""
    listed: dict[str, dict[str, Any]] = yaml.safe_load(LIST.read_text())
    found = {name: fixed(resource) for name, resource in template.resources.items() if resource["Type"] in LOST}
    sentences = []
    for name in sorted(listed.keys() | found.keys()):
        before, now = listed.get(name, {}), found.get(name, {})
        loss = LOST[(before or now)["Type"]]
        if not before:
            sentences.append(f"{name} is new: list it in {LIST.name}. Its fixed properties: {now}")
        elif not now:
            sentences.append(f"{name} is gone: {loss}. Move what it holds first, then take it out of {LIST.name}")
        else:
            sentences += [
                f"{name}.{key} would change, so AWS makes a new resource: {loss}. Change it back; or make a second "
                f"resource, move what the first holds, and list both in {LIST.name}"
                for key in sorted(before.keys() | now.keys())
                if before.get(key) != now.get(key)
            ]
    return sentences


def test_nothing_that_holds_data_is_replaced() -> None:
    assert changes(Template(load_raw(), load_workflow())) == []


@pytest.mark.parametrize(
    ("name", "changed", "sentence"),
    [
        ("OrdersTable", {"TableName": "orders"}, "OrdersTable.TableName would change"),
        ("OrdersTable", {"StreamSpecification": {"StreamViewType": "NEW_IMAGE"}}, "OrdersTable.StreamSpecification"),
        ("CatalogueTable", {"KeySchema": [{"AttributeName": "name", "KeyType": "HASH"}]}, "CatalogueTable.KeySchema"),
        ("UserPool", {"UsernameConfiguration": {"CaseSensitive": True}}, "UserPool.UsernameConfiguration"),
        ("UserPool", {"Schema": [{"Name": "tier"}]}, "customers get new ids"),
        ("ReceiptsBucket", {"BucketName": "receipts"}, "ReceiptsBucket.BucketName"),
        ("ShipOrderLogs", {"LogGroupName": "/ship"}, "ShipOrderLogs.LogGroupName"),
        ("FailuresQueue", {"FifoQueue": True}, "FailuresQueue.FifoQueue"),
    ],
)
def test_a_replacement_is_named_with_what_it_loses(name: str, changed: dict[str, Any], sentence: str) -> None:
    raw = load_raw()
    raw["Resources"][name]["Properties"].update(changed)
    assert any(sentence in each for each in changes(Template(raw, load_workflow())))


def test_another_logical_id_is_another_resource() -> None:
    raw = load_raw()
    raw["Resources"]["AuditTable"] = raw["Resources"].pop("IdempotencyTable")
    for resource in raw["Resources"].values():  # the transform wants every reference to lead somewhere
        resource.get("Properties", {}).pop("Policies", None)
    found = changes(Template(raw, load_workflow()))
    assert any(each.startswith("IdempotencyTable is gone") for each in found)
    assert any(each.startswith("AuditTable is new") for each in found)
