"""The entry point of the program `orderctl`: the signal handlers are installed before the long imports."""

from __future__ import annotations

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `main` installs its handlers; Python's default is a traceback

import sys  # noqa: E402

from orderctl import interrupts  # noqa: E402
from orderctl.exits import Exit, Interrupted  # noqa: E402


def main() -> None:
    """Run the command line; an interruption ends the process with one line, even during the imports."""
    try:
        interrupts.install()
        with interrupts.deferred():  # an import may turn an exception into another one
            from orderctl.main import app  # noqa: PLC0415

        app()
    except (Interrupted, KeyboardInterrupt):
        sys.stderr.write("error: interrupted.\n")
        raise SystemExit(int(Exit.INTERRUPTED)) from None
