"""What a customer wrote is shown and never obeyed, whichever way it takes to the terminal."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from orderctl.exits import Exit, Interrupted, Stop
from orderctl.ui import console, tables
from orderctl.ui.console import Screen, harmless

TERMINAL = {"TERM": "xterm"}
OBEYED = [
    *(chr(code) for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"),
    *"\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
    "\ud800",
    "\udfff",
]
HOSTILE = "".join(f"a{character}" for character in OBEYED) + " \x1b]0;title\x07\x1b[2J\x9b31m"


def obeyed_in(text: str) -> set[str]:
    return {character for character in OBEYED if character in text}


@pytest.mark.parametrize("character", OBEYED, ids=lambda character: f"{ord(character):04x}")
def test_what_a_terminal_obeys_is_written_out(character: str) -> None:
    assert harmless(f"a{character}b") == f"a\\u{ord(character):04x}b"


def test_other_text_stays_as_it_is() -> None:
    text = "Zoë, 北京, 🫖, العربية,\ttab\nline"
    assert harmless(text) == text


@pytest.mark.parametrize(
    "wrapped",
    [
        HOSTILE,
        Text(HOSTILE),
        escape(HOSTILE),
        tables.details,
        tables.table,
        lambda *_: Table(title=HOSTILE, caption=HOSTILE),
    ],
    ids=["string", "text", "escaped", "details", "table", "title"],
)
@pytest.mark.parametrize("markup", [True, False])
@pytest.mark.parametrize("width", [20, 80, 200])
def test_no_way_of_printing_lets_it_through(wrapped: Any, markup: bool, width: int) -> None:
    screen = Screen(file=io.StringIO(), width=width, soft_wrap=True, highlight=False)
    if callable(wrapped):
        wrapped = wrapped() if wrapped is tables.details else wrapped("A", "B")
        wrapped.add_row(escape(HOSTILE), Text(HOSTILE))

    screen.print(wrapped, markup=markup)

    assert not obeyed_in(screen.file.getvalue())  # type: ignore[attr-defined]


def test_a_live_table_moves_the_cursor_and_shows_only_harmless_text() -> None:
    screen = Screen(file=io.StringIO(), force_terminal=True, width=80, height=20, highlight=False, _environ=TERMINAL)
    with Live(HOSTILE, console=screen, auto_refresh=False) as live:
        live.update(HOSTILE, refresh=True)
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b[?25l" in shown  # the cursor is hidden: rich's own control codes pass
    assert "\x1b]0;title" not in shown
    assert not obeyed_in(shown) - {"\x1b", "\r"}


def test_errors_and_progress_are_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    console.complain(HOSTILE, HOSTILE)
    console.say(HOSTILE)
    with console.step(HOSTILE) as note:
        note(HOSTILE)
    with console.working(HOSTILE) as note:
        note(HOSTILE)
    assert not obeyed_in(capsys.readouterr().err)


@given(st.recursive(st.text() | st.text(alphabet=st.sampled_from(OBEYED)), st.lists))
def test_json_stays_json_and_says_the_same(value: Any) -> None:
    document = harmless(json.dumps({"x": value}, ensure_ascii=False))
    # Two halves of a surrogate pair side by side are one character to every reader of JSON.
    assert json.loads(document) == json.loads(json.dumps({"x": value}))
    assert not obeyed_in(document)


@pytest.mark.parametrize("write", [console.emit_json, console.emit_json_line])
def test_json_is_written_harmless(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    write({HOSTILE: [HOSTILE, "Zoë"]})
    written = capsys.readouterr().out
    assert not obeyed_in(written)
    assert "Zoë" in written
    assert json.loads(written) == {HOSTILE: [HOSTILE, "Zoë"]}


@pytest.mark.parametrize(("number", "said"), [(0, "0 failures"), (1, "1 failure"), (1200, "1,200 failures")])
def test_plurals(number: int, said: str) -> None:
    assert console.count(number, "failure") == said


def test_watching_needs_a_terminal() -> None:
    with pytest.raises(Stop) as stop:
        console.watch(lambda: "x")
    assert stop.value.code is Exit.USAGE


def test_watching_ends_well_by_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN a terminal, and a user who interrupts after three looks
    screen = Screen(file=io.StringIO(), force_terminal=True, width=80, height=20, highlight=False, _environ=TERMINAL)
    monkeypatch.setattr(console, "out", screen)
    monkeypatch.setattr(console, "REFRESH_S", 0)
    looks: list[str] = []

    def look() -> str:
        if len(looks) == 3:
            raise Interrupted
        looks.append(f"look {len(looks)}")
        return looks[-1]

    # WHEN it is watched
    console.watch(look)

    # THEN each look was shown, and the terminal is as it was before
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert all(each in shown for each in looks)
    assert "\x1b[?1049l" in shown


def test_a_table_measures_what_it_shows() -> None:
    screen = Screen(file=io.StringIO(), width=80, soft_wrap=True, highlight=False)
    table = tables.table(tables.whole("Id"), "Text")
    table.add_row("12345678", escape(HOSTILE))
    screen.print(table)
    lines = screen.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(len(line) for line in lines) <= 80
    assert "".join("".join(lines).split()).count("\\u009b") == 2  # nothing of it is lost
