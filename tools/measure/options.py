"""What several commands need to read their options."""

from __future__ import annotations

from collections.abc import Collection

from orderctl.exits import Exit, Stop


def require_known(noun: str, value: str, known: Collection[str]) -> None:
    """Return if an option's value is among those that are known, else raise Stop(USAGE) that names them."""
    if value not in known:
        raise Stop(Exit.USAGE, f"There is no {noun} {value!r}.", f"Choose one of: {', '.join(known)}.")
