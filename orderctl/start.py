"""Where the program `orderctl` begins: the signals are caught before the long imports, not after them."""

from __future__ import annotations

import sys

from orderctl import interrupts
from orderctl.exits import Exit, Interrupted


def main() -> None:
    """Run the command line; an interruption ends it with one line, however early it comes."""
    try:
        interrupts.install()
        from orderctl.main import app  # noqa: PLC0415 - takes half a second

        app()
    except (Interrupted, KeyboardInterrupt):
        sys.stderr.write("error: interrupted.\n")
        raise SystemExit(int(Exit.INTERRUPTED)) from None
