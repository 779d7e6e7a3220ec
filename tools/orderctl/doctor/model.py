"""What a check is. A check reads facts from AWS, and judges them without calling AWS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from orderctl.stack.description import Description
from orderctl.stack.target import Target


class Severity(StrEnum):
    """HIGH: orders suffer, or nobody would notice. MEDIUM: mend it soon. LOW: money, order and tidiness."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


@dataclass(frozen=True)
class Finding:
    """What isn't as it should be, and what to do about it: a sentence each."""

    severity: Severity
    what: str
    do: str


@dataclass(frozen=True)
class Circumstances:
    """What a judgement depends on besides the facts: the parameter Environment, and orders a second at the peak."""

    environment: str
    expected_rate: float

    @property
    def is_prod(self) -> bool:
        """Whether real customers are expected."""
        return self.environment == "prod"

    @property
    def is_local(self) -> bool:
        """Whether the stack runs on the local cloud."""
        return self.environment == "local"


@dataclass(frozen=True)
class Deployed:
    """The stack that the checks read."""

    target: Target
    description: Description


class NotCheckable(Exception):
    """The facts of a check can't be read; the message says why."""


Facts = TypeVar("Facts")


@dataclass(frozen=True)
class Check(Generic[Facts]):
    """A check by name. `read` raises NotCheckable, or botocore's errors, if it can't tell."""

    name: str
    read: Callable[[Deployed], Facts]
    judge: Callable[[Facts, Circumstances], list[Finding]]


AnyCheck = Check[Any]
