"""The server process of a local cloud: start, look whether it lives, stop."""

from __future__ import annotations

import errno
import json
import socket
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime

from orderctl import interrupts, processes
from orderctl.cloud import ROOT, Cloud, CloudState, cloud_environment
from orderctl.console import Note
from orderctl.deployment import CLOUD_PYTHON, server_fingerprint
from orderctl.exits import Exit, Stop

START_TIMEOUT_S = 60.0  # a first start also compiles the emulator's bytecode
HEALTH_PATH = "/_ministack/health"


def alive(state: CloudState) -> bool:
    """Whether the recorded process still runs, and is not another one with the same id."""
    return bool(state.process_identity) and processes.identity(state.pid) == state.process_identity


def healthy(endpoint: str, timeout_s: float = 2.0) -> bool:
    """Whether the server at `endpoint` answers and says that it is well."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{endpoint}{HEALTH_PATH}", timeout=timeout_s) as answer:
            return "services" in json.load(answer)
    except (OSError, ValueError, urllib.error.URLError):
        return False


def refuse_taken_port(port: int) -> None:
    """Raise Stop(STEP_FAILED) if another program listens on the port, or we may not."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            reason = {
                errno.EADDRINUSE: f"Port {port} on 127.0.0.1 is in use by another program.",
                errno.EACCES: f"Port {port} may only be used by root.",
            }.get(error.errno or 0, f"Port {port} can't be used: {error.strerror}.")
            raise Stop(
                Exit.STEP_FAILED,
                reason,
                "Free it, or choose another one: make run PORT=4600 (orderctl up --port 4600).",
            ) from error


def free_port() -> int:
    """Return a port on 127.0.0.1 that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(cloud: Cloud, port: int, runtime: str, *, persist: bool = False) -> CloudState:
    """Start the server process and record it; it is not yet healthy when this returns."""
    refuse_taken_port(port)
    cloud.data.mkdir(parents=True, exist_ok=True)
    cloud.temporary.mkdir(parents=True, exist_ok=True)
    command = [str(CLOUD_PYTHON), "-m", "localcloud.server", "--port", str(port)]
    command += ["--data-dir", str(cloud.data), "--tmp-dir", str(cloud.temporary)]
    command += ["--persist"] if persist else []
    environment = {**cloud_environment(cloud), "PYTHONPATH": str(ROOT)}
    with interrupts.deferred():
        process = processes.start_group(command, cloud.log("server"), environment, ROOT)
        state = CloudState(
            name=cloud.name,
            port=port,
            pid=process.pid,
            process_identity=processes.identity(process.pid),
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            runtime=runtime,
            persist=persist,
            server=server_fingerprint(runtime),
        )
        cloud.save(state)
    return state


def wait_until_healthy(cloud: Cloud, state: CloudState, note: Note) -> None:
    """Wait for the server to answer; Stop(STEP_FAILED) with its last lines if it ends or takes too long."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not healthy(state.endpoint):
        ended = state.pid not in processes.group_members(state.pid)
        if ended or time.monotonic() > deadline:
            what = "ended while starting" if ended else f"did not answer within {START_TIMEOUT_S:.0f} s"
            log = cloud.log("server")
            raise Stop(
                Exit.STEP_FAILED,
                f"The local cloud {what}. Its last lines:\n{processes.last_lines(log, 15)}",
                f"The whole log is in {log.relative_to(ROOT)}.",
            )
        note(processes.last_lines(cloud.log("server"), 1))
        time.sleep(0.05)


def stop(cloud: Cloud, state: CloudState) -> int:
    """End the server and its workers, remove the record; returns how many processes there were.

    A process id that was handed to another program in the meantime is left alone.
    Raises Stop(STEP_FAILED) if a process survives.
    """
    with interrupts.deferred():
        current = processes.identity(state.pid)
        members = processes.group_members(state.pid)
        if current and current != state.process_identity:
            members = []
        left = processes.end_group(state.pid) if members else []
        if left:
            raise Stop(
                Exit.STEP_FAILED,
                f"These processes of the local cloud could not be ended: {', '.join(map(str, left))}.",
                "End them by hand, then run `make down` again.",
            )
        cloud.forget()
        return len(members)
