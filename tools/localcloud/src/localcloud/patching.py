"""How a correction takes hold of MiniStack: by name, and loudly when the name is gone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from localcloud.settings import Settings


class MissingInternalError(RuntimeError):
    """MiniStack no longer has something that a correction relies on."""


@dataclass(frozen=True)
class Correction:
    """One difference between MiniStack and AWS's documentation, and the function that removes it."""

    name: str
    summary: str
    install: Callable[[Settings], None]


def internal(owner: Any, name: str) -> Any:
    """Return the attribute `name` of a MiniStack module or class.

    Raises MissingInternalError when it does not exist.
    """
    try:
        return getattr(owner, name)
    except AttributeError:
        where = getattr(owner, "__name__", repr(owner))
        raise MissingInternalError(
            f"MiniStack has no {where}.{name} any more, which a correction of the local cloud relies on."
        ) from None


def replace(owner: Any, name: str, new: Any) -> Any:
    """Put `new` in place of an existing attribute and return the original.

    Raises MissingInternalError when there is nothing of that name to replace.
    """
    original = internal(owner, name)
    setattr(owner, name, new)
    return original


def resource_handlers(resource_type: str) -> dict[str, Callable[..., Any]]:
    """Return MiniStack's create, update and delete functions of a CloudFormation resource type.

    Raises MissingInternalError when the type is unknown to it.
    """
    from ministack.services.cloudformation import provisioners  # noqa: PLC0415

    handlers: dict[str, dict[str, Callable[..., Any]]] = internal(provisioners, "_RESOURCE_HANDLERS")
    if resource_type not in handlers:
        raise MissingInternalError(f"MiniStack does not provision {resource_type} any more.")
    return handlers[resource_type]


def is_true(value: Any) -> bool:
    """Return a template's boolean, which may have become a string on its way through CloudFormation."""
    return str(value).lower() == "true"
