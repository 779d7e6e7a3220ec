"""Everything orderctl shows: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape

# Where nobody looks at a terminal, tables are as wide as they need to be.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
err = Console(stderr=True, highlight=False, soft_wrap=True)

HEARTBEAT_S = 10.0  # without a terminal, a long step says at least this often that it is alive


def emit_json(value: Any) -> None:
    """Write one JSON document to stdout, for a program to read."""
    sys.stdout.write(json.dumps(value, indent=2, default=str, ensure_ascii=False) + "\n")


def say(text: str) -> None:
    """Show one line of progress."""
    err.print(escape(text))


def complain(what: str, next_step: str = "") -> None:
    """Show an error: what happened and what to do next."""
    err.print(f"[bold red]error:[/] {escape(what)}")
    if next_step:
        err.print(f"       {escape(next_step)}")


Note = Callable[[str], None]


@contextmanager
def step(title: str) -> Iterator[Note]:
    """Show that a long step is at work and how long it took.

    Yields a function that takes the step's latest news (one line): a terminal shows it beside the spinner,
    a plain log repeats it every HEARTBEAT_S seconds.
    """
    began = time.monotonic()
    if err.is_terminal:
        with err.status(escape(title)) as status:

            def note_live(news: str) -> None:
                status.update(f"{escape(title)}  [dim]{escape(news[:90])}[/]")

            yield note_live
    else:
        say(f"{title} ...")
        last = began

        def note_plain(news: str) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= HEARTBEAT_S:
                last = now
                say(f"  {title}: {now - began:.0f} s so far; {news[:120]}")

        yield note_plain
    err.print(f"[green]done[/] {escape(title)} ({time.monotonic() - began:.1f} s)")
