"""Times: UTC in ISO 8601 with milliseconds, such as `2026-01-31T12:00:00.000Z`.

Their texts sort in the order of time.
"""

import datetime

TIMESTAMP = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z\Z"


def timestamp() -> str:
    """Now, as every stored time is written: `2026-01-31T12:00:00.000Z`."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def timestamp_before(seconds: float) -> str:
    """The time so many seconds ago, in the form of `timestamp`."""
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds)
    return then.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def timestamp_after(at: str, seconds: float) -> str:
    """The time so many seconds after another `timestamp`; before it if `seconds` is negative."""
    then = datetime.datetime.fromisoformat(at) + datetime.timedelta(seconds=seconds)
    return then.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def seconds_since(at: str) -> float:
    """How long ago a `timestamp` was, in seconds."""
    return (datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(at)).total_seconds()
