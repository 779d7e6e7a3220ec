"""Lambda event source mappings of a template."""

from typing import Any

from localcloud.patching import Correction, resource_handlers
from localcloud.settings import Settings

JsonObject = dict[str, Any]

NUMBERS = frozenset(
    {
        "BatchSize",
        "MaximumBatchingWindowInSeconds",
        "MaximumConcurrency",
        "MaximumRecordAgeInSeconds",
        "MaximumRetryAttempts",
        "ParallelizationFactor",
        "TumblingWindowInSeconds",
    }
)


def with_numbers(properties: JsonObject) -> JsonObject:
    """Return a mapping's properties in which the text of a number is that number."""
    return {name: _number(name, value) for name, value in properties.items()}


def _number(name: str, value: Any) -> Any:
    if name == "ScalingConfig" and isinstance(value, dict):
        return with_numbers(value)
    return int(value) if name in NUMBERS and isinstance(value, str) else value


def install(_: Settings) -> None:
    """Read the numbers of a template's mappings."""
    handlers = resource_handlers("AWS::Lambda::EventSourceMapping")
    create, update = handlers["create"], handlers["update"]

    def create_mapping(logical_id: str, properties: JsonObject, stack_name: str) -> Any:
        return create(logical_id, with_numbers(properties), stack_name)

    def update_mapping(physical_id: str, old: JsonObject, new: JsonObject, *arguments: Any, **options: Any) -> Any:
        return update(physical_id, with_numbers(old), with_numbers(new), *arguments, **options)

    handlers["create"], handlers["update"] = create_mapping, update_mapping


CORRECTIONS = (
    Correction(
        name="lambda-mapping-numbers",
        service="Lambda",
        aws="A number in a template may be a reference to a parameter, whose value is text.",
        ministack="The text stays in ScalingConfig and ParallelizationFactor, and the mapping delivers nothing.",
        here="The text is read as a number.",
        install=install,
    ),
)
