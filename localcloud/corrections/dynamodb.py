"""DynamoDB tables of a template.

AWS documents: TimeToLiveSpecification and PointInTimeRecoverySpecification are settings of the table resource.

MiniStack 1.5.33: drops both from a template, though its API has them.
"""

from typing import Any

from ministack.services import dynamodb

from localcloud.patching import Correction, internal, is_true, resource_handlers
from localcloud.settings import Settings

JsonObject = dict[str, Any]


def apply_settings(table: str, properties: JsonObject) -> None:
    """Set time to live and point-in-time recovery as the properties say."""
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


CORRECTIONS = (
    Correction(
        "dynamodb-settings",
        "Time to live and point-in-time recovery of a template are applied",
        install,
    ),
)
