"""`python -m verify freeze`: one run on a local cloud of its own, from its start to the written release."""

from __future__ import annotations

import os
import shutil

from orderctl import interrupts, lifecycle
from orderctl.cloud import server_process
from orderctl.cloud.state import ROOT, Cloud, shown
from orderctl.exits import Exit, Interrupted, Stop
from orderctl.stack import target
from orderctl.ui import console
from verify.freeze import kinds, release
from verify.freeze.situations import SENT_BY_HAND, Situations


def run(version: str, *, force: bool) -> int:
    """Freeze the present version under releases/<version>/. Returns the exit code; errors are shown."""
    interrupts.install()
    try:
        freeze(version, force=force)
    except Stop as stop:
        console.complain(stop.what, stop.next_step)
        return int(stop.code)
    except (Interrupted, KeyboardInterrupt):
        console.complain("interrupted.")
        return int(Exit.INTERRUPTED)
    return 0


def freeze(version: str, *, force: bool) -> None:
    """Freeze the present version. Raises Stop, naming each kind that could not be brought about."""
    folder = release.folder_of(version)
    if folder.exists() and not force:
        raise Stop(Exit.REFUSED, f"{shown(folder)} is there already.", "With --force it is made anew.")
    commit, required = release.commit(), kinds.required(ROOT)
    cloud = Cloud(f"freeze-{os.getpid()}")
    try:
        state, _ = lifecycle.up(cloud, server_process.free_port())
        there = target.of_state(state)
        with console.step("Bringing about everything that can be in flight") as note:
            situations = Situations(there, note)
            situations.bring_about()
    finally:
        with interrupts.deferred():
            lifecycle.down(cloud)
            shutil.rmtree(cloud.directory, ignore_errors=True)
    if lacking := release.missing(situations.frozen, required):
        raise Stop(
            Exit.NOT_AS_EXPECTED,
            f"The run did not bring about: {', '.join(lacking)}.",
            "Teach tools/verify/freeze/situations.py what is new in this version.",
        )
    with interrupts.deferred():
        manifest = release.write(version, commit, situations.frozen, SENT_BY_HAND, there.endpoint or "")
    found = sum(len(things) for things in situations.frozen.values())
    console.say(f"{shown(folder)}: {found} things in flight, {len(manifest['files'])} files.")
