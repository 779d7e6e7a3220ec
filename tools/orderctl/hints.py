"""Command lines that orderctl proposes as the next step, ready to paste into the caller's shell."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from orderctl.defaults import DEFAULT_NAME


def command(arguments: str, *, name: str = DEFAULT_NAME, stack: str | None = None) -> str:
    """Return a whole command line, such as `.venv/bin/orderctl failures list --name second`.

    `arguments` is the text after `orderctl`. The option `--stack` or `--name` (of the local cloud) is appended where
    the default means another target.
    """
    option = ""
    if stack:
        option = f" --stack {shlex.quote(stack)}"
    elif name != DEFAULT_NAME:
        option = f" --name {shlex.quote(name)}"
    return f"{program()} {arguments}{option}"


def program(name: str = "orderctl") -> str:
    """Return the shell word that starts a program of this checkout: its name if on PATH, else its shortest path."""
    this = Path(sys.prefix) / "bin" / name
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if folder and (Path(folder) / name).exists():
            if (Path(folder) / name).samefile(this):
                return name
            break
    return shlex.quote(min(str(this), os.path.relpath(this), key=len))
