"""Saved state: everything as it was at the last clean stop, or nothing.

The server works in the folder `live`. A clean stop writes the file SAVED into `live` last, and then renames `live` to
`saved`. A start replaces `live` by a copy of `saved`.
"""

import json
import shutil
from pathlib import Path

SAVED = "saved.json"
"""Written last: a folder with this file is complete. It holds `savedAt` and `port`."""


def prepare(data_dir: Path, port: int) -> None:
    """Make `live` a copy of `saved`, with the port in its addresses changed to `port`; empty without `saved`."""
    keep(data_dir)
    live, saved = data_dir / "live", data_dir / "saved"
    shutil.rmtree(live, ignore_errors=True)
    if not (saved / SAVED).exists():
        live.mkdir(parents=True)
        return
    shutil.copytree(saved, live, ignore=shutil.ignore_patterns(SAVED))
    before = int(json.loads((saved / SAVED).read_text())["port"])
    if before != port:
        for file in [*live.glob("*.json"), *(live / "state").glob("*.json")]:
            file.write_text(file.read_text().replace(f"127.0.0.1:{before}/", f"127.0.0.1:{port}/"))


def keep(data_dir: Path) -> None:
    """Replace `saved` by `live` if `live` is complete."""
    live, saved = data_dir / "live", data_dir / "saved"
    if (live / SAVED).exists():
        shutil.rmtree(saved, ignore_errors=True)
        live.rename(saved)
