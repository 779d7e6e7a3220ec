"""Commands to paste: what orderctl proposes as the next step, in the form that works where it was called."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

DEFAULT_CLOUD = "default"


def command(arguments: str, *, name: str = DEFAULT_CLOUD, stack: str | None = None) -> str:
    """Return a whole command line, such as `.venv/bin/orderctl failures list --name second`.

    `arguments` is what follows `orderctl`. `name` (the local cloud) or `stack` is added where the default would
    lead elsewhere. The program is written as the shell finds it: bare if it is on PATH, else by its path.
    """
    there = (
        f" --stack {shlex.quote(stack)}" if stack else f" --name {shlex.quote(name)}" if name != DEFAULT_CLOUD else ""
    )
    return f"{program()} {arguments}{there}"


def program(name: str = "orderctl") -> str:
    """Return how a program of this checkout is called: by name if PATH leads to it, else by its shortest path."""
    this = Path(sys.prefix) / "bin" / name
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if folder and (Path(folder) / name).exists():
            if (Path(folder) / name).samefile(this):
                return name
            break
    return shlex.quote(min(str(this), os.path.relpath(this), key=len))
