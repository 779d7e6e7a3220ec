"""Where the program `measure` begins: `measure`, or `python -m measure`."""

from __future__ import annotations

import sys

from orderctl import interrupts
from orderctl.exits import Exit, Interrupted


def main() -> None:
    """Run the command line. Ctrl-C ends it with one line and exit code 130."""
    try:
        interrupts.install()
        with interrupts.deferred():  # an exception in the middle of an import may come out as another one
            from measure.main import app  # noqa: PLC0415

        app(prog_name="measure")
    except (Interrupted, KeyboardInterrupt):
        sys.stderr.write("error: interrupted.\n")
        raise SystemExit(int(Exit.INTERRUPTED)) from None


if __name__ == "__main__":
    main()
