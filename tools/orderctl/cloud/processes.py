"""Processes of a local cloud: its server leads a process group, and its workers stay in that group."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from orderctl import interrupts
from orderctl.ui.console import Note

PROC = Path("/proc")
ENDED = ("Z", "X", "")  # a zombie has ended; its parent has not read its exit code


def identity(pid: int) -> str:
    """Return a process's start time, which distinguishes it from a later one with the same id; "" if it has ended."""
    if PROC.is_dir():
        fields = _stat_fields(pid)
        ended = not fields or fields[0] in ENDED
        return "" if ended else fields[19]  # field 22, counted after pid and command: proc_pid_stat(5)
    state, _, started = _ps("-o", "stat=,lstart=", "-p", str(pid)).strip().partition(" ")
    return "" if state[:1] in ENDED else started.strip()


def group_members(group: int) -> list[int]:
    """Return the ids of a process group's running processes, without zombies."""
    members = []
    if PROC.is_dir():
        for entry in PROC.iterdir():
            if entry.name.isdigit() and (fields := _stat_fields(int(entry.name))):
                state, process_group = fields[0], int(fields[2])
                if process_group == group and state not in ENDED:
                    members.append(int(entry.name))
        return members
    for line in _ps("-A", "-o", "pid=,pgid=,stat=").splitlines():
        pid, of_group, state = line.split(None, 2)
        if int(of_group) == group and state[:1] not in ENDED:
            members.append(int(pid))
    return members


def command_lines() -> dict[int, str]:
    """Return every process's command line, by process id."""
    if PROC.is_dir():
        found = {}
        for entry in PROC.iterdir():
            with suppress(OSError):
                if entry.name.isdigit():
                    found[int(entry.name)] = (entry / "cmdline").read_text(errors="replace").replace("\0", " ")
        return found
    lines = (line.split(None, 1) for line in _ps("-A", "-ww", "-o", "pid=,command=").splitlines())
    return {int(words[0]): words[1] for words in lines if len(words) > 1}


def _ps(*options: str) -> str:
    """Run `ps` for systems without /proc; locale and time zone are fixed, so that start times compare equal."""
    environment = {**os.environ, "LC_ALL": "C", "TZ": "UTC0"}
    return subprocess.run(["ps", *options], capture_output=True, text=True, check=False, env=environment).stdout


def _stat_fields(pid: int) -> list[str]:
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()  # the command may hold spaces and parentheses


def memory_mb(group: int) -> int | None:
    """Return a process group's memory in MB, shared pages counted once; None without /proc."""
    if not PROC.is_dir():
        return None
    shares_kb = 0
    for pid in group_members(group):
        with suppress(OSError):
            lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
            shares_kb += next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
    return shares_kb // 1024 or None


def end(pid: int, grace_s: float) -> None:
    """Send SIGTERM to one process and wait at most `grace_s` seconds for its end."""
    with interrupts.deferred(), suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while identity(pid) and time.monotonic() < deadline:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            time.sleep(0.02)


def end_group(group: int, grace_s: float = 8.0) -> list[int]:
    """End a process group: SIGTERM, then SIGKILL after `grace_s` seconds; with 0, SIGKILL at once.

    Returns the ids of the processes that survive: an empty list, unless the system refuses the signals.
    """
    with interrupts.deferred():
        for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
            if not patience_s:
                continue
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, number)
            deadline = time.monotonic() + patience_s
            while group_members(group):
                if time.monotonic() > deadline:
                    break
                with suppress(ChildProcessError):
                    os.waitpid(group, os.WNOHANG)
                time.sleep(0.02)
            else:
                return []
        return group_members(group)


def start_group(command: list[str], log: Path, environment: dict[str, str], cwd: Path) -> subprocess.Popen[bytes]:
    """Start a program as the leader of a new session and process group; its output goes to `log`.

    The terminal's Ctrl-C does not reach the program. Call this inside interrupts.deferred() and keep the result.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def run_logged(command: list[str], log: Path, environment: dict[str, str], cwd: Path, note: Note) -> int:
    """Run a program to its end and return its exit code.

    The output goes to `log`, its last line to `note`. An exception ends the program and its children, too.
    """
    process: subprocess.Popen[bytes] | None = None
    try:
        with interrupts.deferred():
            process = start_group(command, log, environment, cwd)
        while True:
            try:
                return process.wait(timeout=0.25)
            except subprocess.TimeoutExpired:
                note(last_lines(log, 1))
    finally:
        if process and (process.poll() is None or group_members(process.pid)):
            end_group(process.pid, grace_s=3.0)


def last_lines(log: Path, count: int) -> str:
    """Return the last `count` non-empty lines of a log; "" if the log can't be read."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 16_384))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join([line.rstrip() for line in text.splitlines() if line.strip()][-count:])
