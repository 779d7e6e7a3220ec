"""Whether failures heal by themselves, and what operators hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from orderctl.exits import Exit, Stop
from orderctl.stack.target import Target
from orders.domain.clock import timestamp
from orders.inbox.healing import (
    EVERYTHING,
    HOLDS_KEY,
    Cause,
    Hold,
    Holds,
    Outlook,
    Pace,
    cause_of,
    is_transient,
    outlook,
)
from orders.inbox.record import SETTLED, FailureRecord
from orders.inbox.store import FailuresTable

MAX_HOLDS = 500
EVERYTHING_SAID = "every failure"


def outlooks(target: Target, table: FailuresTable, found: Iterable[FailureRecord]) -> dict[str, Outlook]:
    """Return by failure id whether these failures heal by themselves; settled ones are left out."""
    now = timestamp()
    enabled = target.outputs.get("SelfHealing") == "true"
    paces: dict[Cause, Pace | None] = {}
    result: dict[str, Outlook] = {}
    holds = holds_or_none(table)
    for record in found:
        if record.status in SETTLED:
            continue
        cause = cause_of(record)
        try:
            if cause not in paces:
                paces[cause] = table.pace(cause) if is_transient(record) else None
            if holds is None:
                raise ValueError
            result[record.failure_id] = outlook(record, paces[cause], holds, now=now, enabled=enabled)
        except ValueError:
            why = "an item of healing in the failures table can't be read"
            result[record.failure_id] = Outlook(why, record.redrives)
    return result


def as_json(found: Outlook | None) -> dict[str, Any] | None:
    """Return an outlook for a program to read; None for a settled failure."""
    if found is None:
        return None
    return {
        "byItself": not found.human and found.hold is None,
        "tried": found.tried,
        "notBefore": found.not_before,
        "heldBy": found.hold.by if found.hold else None,
        "heldSince": found.hold.at if found.hold else None,
        "needsHuman": found.human or None,
    }


def holds_as_json(holds: Holds | None) -> list[dict[str, str]] | None:
    """Return what is held for a program to read; None if it can't be read."""
    if holds is None:
        return None
    return [{"key": key, "what": hold.what, "by": hold.by, "since": hold.at} for key, hold in holds.held.items()]


def holds_or_none(table: FailuresTable) -> Holds | None:
    """Return what operators hold; None if its item can't be read."""
    try:
        return table.holds()
    except ValueError:
        return None


def read_holds(table: FailuresTable) -> Holds:
    """Return what operators hold. Raises Stop(REFUSED) if its item can't be read."""
    try:
        return table.holds()
    except ValueError as error:
        raise Stop(
            Exit.REFUSED,
            f"What is held can't be read, so nothing heals by itself: {error}",
            f"Mend or delete the item {HOLDS_KEY!r} of the failures table.",
        ) from error


def hold(table: FailuresTable, wanted: dict[str, str], by: str) -> Holds:
    """Hold the keys of `wanted`, each with what it is in words. A key that is held already keeps its hold.

    Raises Stop(REFUSED) if too much is held.
    """

    read_holds(table)

    def transition(holds: Holds) -> None:
        for key, what in wanted.items():
            holds.held.setdefault(key, Hold(by, timestamp(), what))
        if len(holds.held) > MAX_HOLDS:
            raise Stop(Exit.REFUSED, f"More than {MAX_HOLDS} holds are too many.", "Hold causes, or --all.")

    return table.change_holds(transition)


def release(table: FailuresTable, keys: Iterable[str]) -> Holds:
    """Release what is held under these keys. Raises Stop(REFUSED), and releases nothing, if one isn't held."""
    wanted = list(keys)

    def transition(holds: Holds) -> None:
        for key in wanted:
            if key in holds.held:
                del holds.held[key]
            elif EVERYTHING in holds.held:
                everything = holds.held[EVERYTHING]
                raise Stop(
                    Exit.REFUSED,
                    f"{everything.by} holds {EVERYTHING_SAID} since {everything.at}.",
                    "Release everything with --all, then hold what must not heal.",
                )
            else:
                raise Stop(Exit.REFUSED, f"{key!r} is not held.", "`failures list` names what is held.")

    return table.change_holds(transition)
