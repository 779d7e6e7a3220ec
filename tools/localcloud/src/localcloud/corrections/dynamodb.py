"""DynamoDB: settings of a template's tables, and streams."""

import copy
import json
from typing import Any

from ministack.core import iam_actions
from ministack.services import dynamodb, dynamodb_streams

from localcloud.patching import Correction, internal, is_true, replace, resource_handlers
from localcloud.settings import Settings

JsonObject = dict[str, Any]


def apply_settings(table: str, properties: JsonObject) -> None:
    """Set a table's time to live and point-in-time recovery by its properties."""
    ttl = properties.get("TimeToLiveSpecification")
    if ttl:
        specification = {"AttributeName": ttl.get("AttributeName", ""), "Enabled": is_true(ttl.get("Enabled"))}
        internal(dynamodb, "_update_ttl")({"TableName": table, "TimeToLiveSpecification": specification})
    else:
        internal(dynamodb, "_ttl_settings").pop(table, None)
    recovery = properties.get("PointInTimeRecoverySpecification") or {}
    enabled = is_true(recovery.get("PointInTimeRecoveryEnabled"))
    internal(dynamodb, "_update_continuous_backups")(
        {"TableName": table, "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": enabled}}
    )


def install(_: Settings) -> None:
    """Apply the settings when a stack creates or updates a table."""
    handlers = resource_handlers("AWS::DynamoDB::Table")
    create, update = handlers["create"], handlers["update"]

    def create_table(logical_id: str, properties: JsonObject, stack_name: str) -> Any:
        created = create(logical_id, properties, stack_name)
        apply_settings(created[0], properties)
        return created

    def update_table(physical_id: str, old: JsonObject, new: JsonObject, *arguments: Any, **options: Any) -> Any:
        updated = update(physical_id, old, new, *arguments, **options)
        apply_settings(updated[0], new)
        return updated

    handlers["create"], handlers["update"] = create_table, update_table


def stream_of(body: bytes) -> str | None:
    """Return the ARN of the stream that a request of DynamoDB Streams names, itself or by its iterator."""
    try:
        request = json.loads(body or b"{}")
    except ValueError:
        return None
    if not isinstance(request, dict):
        return None
    if "ShardIterator" in request:
        request = internal(dynamodb_streams, "_decode_iterator")(str(request["ShardIterator"])) or {}
    stream: str | None = request.get("StreamArn") or request.get("arn")
    return stream


def install_stream_access(_: Settings) -> None:
    """Name the stream as the resource of GetShardIterator and GetRecords."""
    resource_of = internal(iam_actions, "extract_resource_arn")

    def extract_resource_arn(service: str, method: str, path: str, headers: Any, body: bytes, *rest: Any) -> Any:
        stream = stream_of(body) if service in {"dynamodb", "dynamodbstreams"} else None
        return stream or resource_of(service, method, path, headers, body, *rest)

    replace(iam_actions, "extract_resource_arn", extract_resource_arn)


def install_stream_persistence(_: Settings) -> None:
    """Save the records of streams with the tables."""
    saved = {name: internal(dynamodb, f"_{name}") for name in ("stream_records", "stream_trimmed")}
    get_state, load_state = internal(dynamodb, "get_state"), internal(dynamodb, "load_persisted_state")

    def get_state_with_streams() -> JsonObject:
        return {**get_state(), **{name: copy.deepcopy(store) for name, store in saved.items()}}

    def load_state_with_streams(data: JsonObject) -> Any:
        for name, store in saved.items():
            store.update((data or {}).get(name, {}))
        return load_state(data)

    replace(dynamodb, "get_state", get_state_with_streams)
    replace(dynamodb, "load_persisted_state", load_state_with_streams)


CORRECTIONS = (
    Correction(
        name="dynamodb-settings",
        service="DynamoDB",
        aws="TimeToLiveSpecification and PointInTimeRecoverySpecification are properties of a table in a template.",
        ministack="Both properties are dropped.",
        here="Both properties are applied.",
        install=install,
    ),
    Correction(
        name="dynamodb-stream-persistence",
        service="DynamoDB",
        aws="A stream keeps its records for 24 hours.",
        ministack=(
            "A restart loses a stream's records but not its readers' positions: they miss as many records as were "
            "lost."
        ),
        here="Records of a stream survive a clean restart.",
        install=install_stream_persistence,
    ),
    Correction(
        name="dynamodb-stream-access",
        service="DynamoDB",
        aws="The resource of GetShardIterator and GetRecords, in a policy, is the stream.",
        ministack="Only a policy for every resource allows these calls.",
        here="A policy may name the stream.",
        install=install_stream_access,
    ),
)
