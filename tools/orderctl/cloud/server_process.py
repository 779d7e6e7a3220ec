"""The server process of a local cloud: start, health, stop."""

from __future__ import annotations

import errno
import json
import re
import socket
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

from orderctl import hints, interrupts
from orderctl.cloud import processes
from orderctl.cloud.deployment import CLOUD_PYTHON, server_fingerprint
from orderctl.cloud.state import ROOT, Cloud, CloudState, cloud_environment, known_clouds, shown
from orderctl.exits import Exit, Stop
from orderctl.ui import console
from orderctl.ui.console import Note

START_TIMEOUT_S = 60.0  # a first start also compiles the emulator's bytecode
SAVE_TIMEOUT_S = 120.0
HEALTH_PATH = "/_ministack/health"


def alive(state: CloudState) -> bool:
    """Whether the recorded process still runs; another process with the same id does not count."""
    return bool(state.process_identity) and processes.identity(state.pid) == state.process_identity


def healthy(endpoint: str, timeout_s: float = 2.0) -> bool:
    """Whether the server at `endpoint` answers its health check within `timeout_s` seconds."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{endpoint}{HEALTH_PATH}", timeout=timeout_s) as answer:
            return "services" in json.load(answer)
    except (OSError, ValueError, urllib.error.URLError):
        return False


def refuse_taken_port(cloud: Cloud, port: int) -> None:
    """Return if the port is free and permitted; else Stop(STEP_FAILED), which names the port's user if known."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            reason, way_out = f"Port {port} can't be used: {error.strerror}.", ""
            if error.errno == errno.EACCES:
                reason = f"Port {port} may only be used by root."
            elif error.errno == errno.EADDRINUSE:
                reason, way_out = _user_of(port)
            another = hints.command(f"run --port {free_port()}", name=cloud.name)
            raise Stop(Exit.STEP_FAILED, reason, f"{way_out}Start on another port: {another}") from error


def _user_of(port: int) -> tuple[str, str]:
    """Return two sentences: who listens on a port, and how to stop that program ("" if unknown)."""
    for command in processes.command_lines().values():
        if found := re.search(rf"localcloud --port {port} --data-dir (.+?)/\.local/cloud/([^/]+)/data ", command):
            checkout, name = found.groups()
            if Path(checkout) == ROOT:
                stop = hints.command("down", name=name)
                return (
                    f"Port {port} is used by this checkout's local cloud {name!r}.",
                    f"Stop that one: {stop}\n       ",
                )
            return f"Port {port} is used by the local cloud {name!r} of the checkout {checkout}.", ""
    return f"Port {port} is used by another program.", ""


def free_port() -> int:
    """Return a port on 127.0.0.1 that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(cloud: Cloud, port: int, runtime: str, *, persist: bool = False) -> CloudState:
    """Start the server process, record its state and return that; `wait_until_healthy` comes next."""
    refuse_taken_port(cloud, port)
    cloud.data.mkdir(parents=True, exist_ok=True)
    cloud.temporary.mkdir(parents=True, exist_ok=True)
    command = [str(CLOUD_PYTHON), "-m", "localcloud", "--port", str(port)]
    command += ["--data-dir", str(cloud.data), "--tmp-dir", str(cloud.temporary)]
    command += ["--persist"] if persist else []
    with interrupts.deferred():
        process = processes.start_group(command, cloud.log("server"), cloud_environment(cloud), ROOT)
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
    """Wait for the first health check that succeeds; Stop(STEP_FAILED) if the server ends or is too slow."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not healthy(state.endpoint):
        ended = state.pid not in processes.group_members(state.pid)
        if ended or time.monotonic() > deadline:
            what = "ended while starting" if ended else f"did not answer within {START_TIMEOUT_S:.0f} s"
            log = cloud.log("server")
            raise Stop(
                Exit.STEP_FAILED,
                f"The local cloud {what}. Its last lines:\n{processes.last_lines(log, 15)}",
                f"The whole log is {shown(log)}.{_without_orders(cloud)}",
            )
        note(processes.last_lines(cloud.log("server"), 1))
        time.sleep(0.05)


def _without_orders(cloud: Cloud) -> str:
    return (
        f"\n       Start without the saved orders: {hints.command('up --fresh', name=cloud.name)}"
        if cloud.saved_at()
        else ""
    )


def stop(cloud: Cloud, state: CloudState, *, save: bool = True) -> int:
    """End the server and its workers, remove the record, and return how many processes there were.

    The server saves its data first, unless it was started without `persist` or `save` is False. Another program
    that meanwhile got the recorded process id is left alone. Raises Stop(STEP_FAILED) if a process survives.
    """
    with interrupts.deferred():
        current = processes.identity(state.pid)
        members = processes.group_members(state.pid)
        if current and current != state.process_identity:
            members = []
        if members and save and state.persist:
            before = cloud.saved_at()
            with console.step(f"Stopping the local cloud {cloud.name!r} and saving its orders"):
                processes.end(state.pid, SAVE_TIMEOUT_S)
            if state.outputs and cloud.saved_at() == before:
                since = local_time(datetime.fromisoformat(state.started_at))
                console.say(
                    f"Its orders since {since} could not be saved; the reason is in {shown(cloud.log('server'))}."
                )
        left = processes.end_group(state.pid, 8.0 if save else 0.0) if members else []
        if left:
            raise Stop(
                Exit.STEP_FAILED,
                f"These processes of the local cloud could not be ended: {', '.join(map(str, left))}.",
                f"End them by hand, then type: {hints.command('down', name=cloud.name)}",
            )
        cloud.forget()
        return len(members)


def running() -> list[CloudState]:
    """Return the states of this checkout's running local clouds, sorted by name."""
    states = (cloud.load() for cloud in known_clouds())
    return [state for state in states if state and alive(state)]


def fate(cloud: Cloud, state: CloudState) -> list[str]:
    """Return sentences on a local cloud whose process is gone: when it ended, and which orders are kept or lost."""
    log, saved, started = cloud.log("server"), cloud.saved_at(), datetime.fromisoformat(state.started_at)
    said = datetime.fromtimestamp(log.stat().st_mtime, UTC) if log.exists() else started
    gone = f"its process {state.pid} is gone."
    sign = f"Its last sign of life was at {local_time(said)}."
    if saved and saved >= started:
        return [f"The local cloud {cloud.name!r} ended without `down`: {gone}", sign, "All its orders are kept."]
    lost = f"Its orders since {local_time(started)} are lost: orders are saved when the cloud is stopped."
    others = f"The orders saved at {local_time(saved)} are kept." if saved else "There were no others."
    return [f"The local cloud {cloud.name!r} died: {gone}", sign, lost, others]


def local_time(when: datetime) -> str:
    """Return a time in this machine's time zone, with the date unless it is today's."""
    local = when.astimezone()
    return f"{local:%H:%M:%S}" if local.date() == datetime.now().astimezone().date() else f"{local:%Y-%m-%d %H:%M:%S}"
