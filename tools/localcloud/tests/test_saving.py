"""A server starts with everything of its last clean stop, or with nothing; never with a part."""

from __future__ import annotations

import json
from pathlib import Path

from localcloud import saving


def work(data: Path, text: str, *, port: int = 4566, stopped: bool) -> None:
    """What a server does: start, write, and end, cleanly or not."""
    saving.prepare(data, port)
    (data / "live" / "state").mkdir(exist_ok=True)
    (data / "live" / "state" / "sqs.json").write_text(text)
    if stopped:
        (data / "live" / saving.SAVED).write_text(json.dumps({"savedAt": "2026-01-01T00:00:00+00:00", "port": port}))
        saving.keep(data)


def found(data: Path, port: int = 4566) -> str | None:
    """What the next server finds."""
    saving.prepare(data, port)
    state = data / "live" / "state" / "sqs.json"
    return state.read_text() if state.exists() else None


def test_the_first_start_is_empty(tmp_path: Path) -> None:
    assert found(tmp_path) is None
    assert (tmp_path / "live").is_dir()


def test_a_clean_stop_keeps_everything(tmp_path: Path) -> None:
    work(tmp_path, "first", stopped=True)
    assert found(tmp_path) == "first"


def test_of_a_killed_server_nothing_is_left_but_the_last_clean_stop(tmp_path: Path) -> None:
    work(tmp_path, "first", stopped=True)
    work(tmp_path, "second", stopped=False)
    assert found(tmp_path) == "first"


def test_without_a_clean_stop_a_killed_server_leaves_nothing(tmp_path: Path) -> None:
    work(tmp_path, "first", stopped=False)
    assert found(tmp_path) is None


def test_a_server_that_was_killed_between_saving_and_moving_has_saved(tmp_path: Path) -> None:
    # GIVEN an older clean stop, and a server that was killed after its last file
    work(tmp_path, "first", stopped=True)
    work(tmp_path, "second", stopped=False)
    (tmp_path / "live" / saving.SAVED).write_text('{"savedAt": "2026-01-01T00:00:00+00:00", "port": 4566}')

    # THEN the newer state counts
    assert found(tmp_path) == "second"


def test_a_start_without_a_clean_stop_afterwards_does_not_use_up_what_was_saved(tmp_path: Path) -> None:
    work(tmp_path, "first", stopped=True)
    assert [found(tmp_path), found(tmp_path)] == ["first", "first"]


def test_addresses_move_with_the_port(tmp_path: Path) -> None:
    work(tmp_path, '["http://127.0.0.1:4566/0/queue", "127.0.0.1:45667/"]', stopped=True)
    assert found(tmp_path, port=4600) == '["http://127.0.0.1:4600/0/queue", "127.0.0.1:45667/"]'
