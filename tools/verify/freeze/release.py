"""A release on disk: releases/<version>/ with the frozen package, what was in flight, and a manifest of both."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orderctl.cloud.state import ROOT
from orderctl.exits import Exit, Stop
from verify.freeze import kinds
from verify.freeze.reading import Thing

Json = dict[str, Any]

RELEASES = ROOT / "releases"
IN_FLIGHT = "in_flight"
MANIFEST = "manifest.json"
# What a version is deployed from, and where it lies in a release.
DEPLOYED = {
    "src/orders": "orders",
    "src/requirements.txt": "requirements.txt",
    "template.yaml": "template.yaml",
    "statemachine": "statemachine",
}
_VERSION = re.compile(r"\d+\.\d+\.\d+\Z")
# Where the local cloud unpacks a function's code; on AWS the code lies in /var/task.
_UNPACKED = re.compile(rf"{re.escape(str(ROOT))}/[^\"\\\s]*?/[0-9a-f]{{64}}/")


def folder_of(version: str) -> Path:
    """The folder of a version such as 1.0.0. Raises Stop for anything else."""
    if not _VERSION.match(version):
        raise Stop(Exit.USAGE, f"{version!r} is no version.", "A version has three numbers, such as 1.0.0.")
    return RELEASES / version


def commit() -> str:
    """The commit that is deployed. Raises Stop if a deployed file differs from that commit."""
    changed = _git("status", "--porcelain", "--", *DEPLOYED)
    if changed:
        raise Stop(Exit.REFUSED, f"These files differ from the last commit:\n{changed}", "Commit them first.")
    return _git("rev-parse", "HEAD")


def missing(things: dict[str, list[Thing]], required: dict[str, list[str]]) -> list[str]:
    """The kinds without a thing, each as `group: kind`."""
    return [
        f"{group}: {kind}"
        for group, wanted in required.items()
        for kind in wanted
        if not any(kind in thing.kinds for thing in things.get(group, []))
    ]


def write(
    version: str, at: str, things: dict[str, list[Thing]], by_hand: dict[str, dict[str, str]], endpoint: str
) -> Json:
    """Write a release, instead of one that is there; returns its manifest.

    `at` is the commit, `by_hand` the kinds that were not brought about, with the reason. A release gets its folder
    only when it is complete.
    """
    folder = folder_of(version)
    partial = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    _copy_package(partial)
    counts = {}
    kinds_of: dict[str, list[str]] = {}
    for group, found in things.items():
        counts[group] = dict(sorted(Counter(kind for thing in found for kind in thing.kinds).items()))
        (partial / IN_FLIGHT / group).mkdir(parents=True)
        for name, thing in _named(found):
            path = partial / IN_FLIGHT / group / name
            path.write_text(
                neutral(json.dumps(thing.content, indent=2, sort_keys=True, default=str), endpoint) + "\n"
            )
            kinds_of[str(path.relative_to(partial))] = thing.kinds
    manifest = {
        "version": version,
        "commit": at,
        "frozenAt": datetime.now(UTC).isoformat(timespec="seconds"),
        "counts": counts,
        "sentByHand": by_hand,
        "files": {
            path: {"sha256": digest, **({"kinds": kinds_of[path]} if path in kinds_of else {})}
            for path, digest in digests(partial).items()
        },
    }
    (partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return manifest


def neutral(text: str, endpoint: str) -> str:
    """The text without this machine: its paths and the port of its local cloud."""
    text = _UNPACKED.sub("/var/task/", text).replace(str(ROOT), "/checkout").replace(f"{Path.home()}/", "~/")
    return text.replace(endpoint, "http://127.0.0.1:4566")


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file of a release but its manifest, by path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST and "__pycache__" not in path.parts
    }


def load(folder: Path) -> dict[str, list[Thing]]:
    """What a release holds in flight, by group, in the order of the files' names."""
    listed: dict[str, Json] = json.loads((folder / MANIFEST).read_text())["files"]
    things: dict[str, list[Thing]] = {}
    for path, entry in sorted(listed.items()):
        if "kinds" in entry:
            group = Path(path).parent.name
            things.setdefault(group, []).append(Thing(entry["kinds"], json.loads((folder / path).read_text())))
    return things


def _named(found: list[Thing]) -> list[tuple[str, Thing]]:
    """A file name for each thing: its kinds and a number."""
    used: Counter[str] = Counter()
    named = []
    for thing in found:
        label = "-".join(kind.split("-", 1)[-1] if len(thing.kinds) > 1 else kind for kind in thing.kinds)
        used[label] += 1
        named.append((f"{label}-{used[label]:02d}.json", thing))
    return named


def _copy_package(folder: Path) -> None:
    for source, name in DEPLOYED.items():
        path, copy = ROOT / source, folder / name
        if path.is_dir():
            shutil.copytree(path, copy, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        else:
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    shutil.copyfile(kinds.__file__, folder / "kinds.py")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Stop(
            Exit.STEP_FAILED, f"git {arguments[0]} failed: {error}", "A freeze names the commit it is of."
        ) from error
    return done.stdout.strip()
