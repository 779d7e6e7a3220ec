"""DynamoDB's attribute values to plain Python and back, for what our items hold: text, integers, lists, maps.

boto3's own serializer turns every number into a Decimal and costs import time on the acceptance path.
"""

from typing import Any


def to_attribute(value: Any) -> dict[str, Any]:
    """One attribute value, such as `{"N": "3"}`. Raises `TypeError` for a type that no item of ours holds."""
    match value:
        case str():
            return {"S": str(value)}
        case bool():
            return {"BOOL": value}
        case int():
            return {"N": str(value)}
        case list():
            return {"L": [to_attribute(element) for element in value]}
        case dict():
            return {"M": to_item(value)}
        case None:
            return {"NULL": True}
    raise TypeError(f"no attribute value for {type(value).__name__}")


def to_item(fields: dict[str, Any]) -> dict[str, Any]:
    """The item that holds these fields."""
    return {name: to_attribute(value) for name, value in fields.items()}


def from_attribute(attribute: dict[str, Any]) -> Any:
    """The plain value of one attribute. Raises `ValueError` for a type that no item of ours holds."""
    ((kind, value),) = attribute.items()
    match kind:
        case "S" | "BOOL":
            return value
        case "N":
            return int(value)
        case "L":
            return [from_attribute(element) for element in value]
        case "M":
            return from_item(value)
        case "NULL":
            return None
    raise ValueError(f"unexpected attribute type {kind}")


def from_item(item: dict[str, Any]) -> dict[str, Any]:
    """The plain fields of an item."""
    return {name: from_attribute(attribute) for name, attribute in item.items()}
