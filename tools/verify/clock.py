"""The proof's clock: only calls, waits and stories move it, so the same run has the same times."""

from __future__ import annotations

import datetime
from types import SimpleNamespace

from orders.domain import clock

_START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
_TICK = datetime.timedelta(milliseconds=1)
_now = _START


def now() -> datetime.datetime:
    """The present time; each look is a millisecond later, so no two times are equal."""
    global _now  # noqa: PLW0603
    _now += _TICK
    return _now


def text() -> str:
    """The present time in UTC, as Step Functions and the stored times write it."""
    return now().isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def advance(seconds: float) -> None:
    """Let time pass."""
    global _now  # noqa: PLW0603
    _now += datetime.timedelta(seconds=seconds)


def put(time: datetime.datetime = _START) -> None:
    """Set the time; by default the start of every simulation."""
    global _now  # noqa: PLW0603
    _now = time


class _Datetime(datetime.datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> _Datetime:
        return now()  # type: ignore[return-value]


def install() -> None:
    """Have the functions tell this time."""
    vars(clock)["datetime"] = SimpleNamespace(datetime=_Datetime, UTC=datetime.UTC, timedelta=datetime.timedelta)
