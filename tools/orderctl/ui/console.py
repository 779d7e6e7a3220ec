"""The output of orderctl: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.segment import Segment
from rich.text import Text

from orderctl.exits import Exit, Interrupted, Stop

# Characters that a terminal obeys instead of showing: C0 except tab and newline, DEL, C1, line separators and
# directions of writing. Surrogates are here because UTF-8 can't encode them.
OBEYED = [
    *(code for code in range(0x20) if chr(code) not in "\t\n"),
    *range(0x7F, 0xA0),
    0x061C,
    *range(0x200E, 0x2010),
    *range(0x2028, 0x202F),
    *range(0x2066, 0x206A),
    *range(0xD800, 0xE000),
]
ESCAPES = {code: f"\\u{code:04x}" for code in OBEYED}

HEARTBEAT_S = 10.0  # without a terminal, a long step reports at this interval
REFRESH_S = 2.0


def harmless(text: str) -> str:
    """Return the text with every character in OBEYED escaped as in JSON: \\u001b."""
    return text.translate(ESCAPES)


class Screen(Console):
    """A console that shows only harmless text, from any author and in any renderable."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Turn a string into text. Escaped here, so that a table measures the escaped text."""
        return super().render_str(harmless(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render anything. Text objects are escaped here; rich's own control codes are kept."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(harmless(segment.text), segment.style)


# Without a terminal, tables are wide.
out = Screen(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
err = Screen(stderr=True, highlight=False, soft_wrap=True)


def emit_json(value: Any) -> None:
    """Write one JSON document to stdout."""
    _write_json(json.dumps(value, indent=2, default=str, ensure_ascii=False))


def emit_json_line(value: Any) -> None:
    """Write one of many JSON documents to stdout, on a line of its own."""
    _write_json(json.dumps(value, default=str, ensure_ascii=False))


def _write_json(document: str) -> None:
    # These characters occur only inside JSON strings, where an escape has the same meaning.
    sys.stdout.write(harmless(document) + "\n")
    sys.stdout.flush()


def count(number: int, noun: str) -> str:
    """Return a number with its noun: "1 failure", "2 failures"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def watch(look: Callable[[], RenderableType]) -> None:
    """Show the result of `look`, refreshed, until the user interrupts; Stop(USAGE) without a terminal."""
    if not out.is_terminal:
        raise Stop(Exit.USAGE, "--watch needs a terminal.", "Without one, repeat the command with --json.")
    try:
        with Live(look(), console=out, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(REFRESH_S)
                live.update(look(), refresh=True)
    except (Interrupted, KeyboardInterrupt):
        return


def say(text: str) -> None:
    """Show one line of progress."""
    err.print(escape(text))


def complain(what: str, next_step: str = "") -> None:
    """Show an error and the next step."""
    err.print(f"[bold red]error:[/] {escape(what)}")
    if next_step:
        err.print(f"       {escape(next_step)}")


Note = Callable[[str], None]


@contextmanager
def step(title: str) -> Iterator[Note]:
    """Show that a long step is running, and at its end how long it took.

    Yields a function that takes the step's latest news, one line: a terminal shows it beside the spinner, a plain log
    every HEARTBEAT_S seconds.
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


@contextmanager
def working(title: str) -> Iterator[Note]:
    """Show that something is running whose end the caller reports; yields a function that takes the latest news."""
    if err.is_terminal:
        with err.status(escape(title)) as status:
            yield lambda news: status.update(f"{escape(title)}  [dim]{escape(news)}[/]")
    else:
        say(f"{title} ...")
        yield lambda _: None
