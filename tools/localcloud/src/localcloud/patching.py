"""How a correction replaces a part of MiniStack: by name, with an error if MiniStack has no such name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from localcloud.settings import Settings, StartError


class MissingInternalError(StartError):
    """MiniStack no longer has an attribute that a correction relies on."""


@dataclass(frozen=True, kw_only=True)
class Correction:
    """One difference between MiniStack and AWS's documentation, and the function that removes it.

    `aws` says what AWS documents, `ministack` what MiniStack does, `here` what this server does; all three are plain
    text for one cell of a table.
    """

    name: str
    service: str
    aws: str
    ministack: str
    here: str
    install: Callable[[Settings], None]


def internal(owner: Any, name: str) -> Any:
    """Return the attribute `name` of a MiniStack module or class.

    Raises MissingInternalError when it does not exist.
    """
    try:
        return getattr(owner, name)
    except AttributeError:
        where = getattr(owner, "__name__", repr(owner))
        raise MissingInternalError(f"MiniStack no longer has {where}.{name}, which a correction relies on.") from None


def replace(owner: Any, name: str, new: Any) -> Any:
    """Put `new` in place of an existing attribute and return the original.

    Raises MissingInternalError when `owner` has no attribute of that name.
    """
    original = internal(owner, name)
    setattr(owner, name, new)
    return original


def resource_handlers(resource_type: str) -> dict[str, Callable[..., Any]]:
    """Return MiniStack's create, update and delete functions of a CloudFormation resource type.

    Raises MissingInternalError when MiniStack does not know the type.
    """
    from ministack.services.cloudformation import provisioners  # noqa: PLC0415

    handlers: dict[str, dict[str, Callable[..., Any]]] = internal(provisioners, "_RESOURCE_HANDLERS")
    if resource_type not in handlers:
        raise MissingInternalError(f"MiniStack no longer provisions {resource_type}.")
    return handlers[resource_type]


def is_true(value: Any) -> bool:
    """Return a template's boolean; CloudFormation may have made a string of it."""
    return str(value).lower() == "true"
