"""What all measurements share: tables for people, the same figures as JSON, and the files that keep them."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Column, Table

from orderctl.cloud.state import ROOT, shown
from orderctl.ui import console

RESULTS = ROOT / ".local" / "bench"


def table(title: str, columns: Sequence[str | Column], rows: Iterable[Sequence[object]]) -> Table:
    """Return a table of cells in rich markup. The first column is text, the others are aligned to the right.

    A column that is given as a `Column` is aligned as that says.
    """
    first, *others = columns
    aligned = [Column(other, justify="right") if isinstance(other, str) else other for other in others]
    result = Table(first, *aligned, title=f"\n{title}", title_justify="left", box=None, show_header=any(columns))
    for row in rows:
        result.add_row(*map(str, row))
    return result


def save(name: str, figures: dict[str, Any]) -> Path:
    """Write a benchmark's figures, with when and where they were measured, and return the file."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    measured = {
        "measuredAt": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
    }
    path.write_text(json.dumps({**measured, **figures}, indent=2) + "\n")
    return path


def deliver(name: str, figures: dict[str, Any], tables: Iterable[RenderableType], *, as_json: bool) -> None:
    """Save a benchmark's figures in .local/bench/, then write them to stdout: as JSON, or as tables."""
    path = save(name, figures)
    if as_json:
        console.emit_json(figures)
        return
    for each in tables:
        console.out.print(each)
    console.say(f"\nThe figures are in {shown(path)}.")
