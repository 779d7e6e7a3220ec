"""The records of the orders table's stream, which are the outbox."""

from typing import Any


def changes_version(record: dict[str, Any]) -> bool:
    """Whether a stream record calls for an event: it stores an order whose version it changes."""
    if record["eventName"] == "REMOVE":
        return False
    change = record["dynamodb"]
    before, after = (change.get(image, {}).get("version") for image in ("OldImage", "NewImage"))
    return before is None or bool(before != after)


def sequence_number(record: dict[str, Any]) -> str:
    """The record's place in its shard. Raises `LookupError` for a record without one."""
    number: str = record["dynamodb"]["SequenceNumber"]
    return number
