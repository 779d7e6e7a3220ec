"""Where the program `orderctl` begins: the signals are caught before the long imports, not after them."""

from __future__ import annotations

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `main` catches it; Python's own answer is a traceback

import sys  # noqa: E402

from orderctl import interrupts  # noqa: E402
from orderctl.exits import Exit, Interrupted  # noqa: E402


def main() -> None:
    """Run the command line; an interruption ends it with one line, however early it comes."""
    try:
        interrupts.install()
        with interrupts.deferred():  # an exception in the middle of an import may come out as another one
            from orderctl.main import app  # noqa: PLC0415

        app()
    except (Interrupted, KeyboardInterrupt):
        sys.stderr.write("error: interrupted.\n")
        raise SystemExit(int(Exit.INTERRUPTED)) from None
