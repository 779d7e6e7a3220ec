"""What is recorded about a local cloud, and how it is recovered from."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from orderctl import lifecycle
from orderctl.cloud import deployment, processes, server_process
from orderctl.cloud import state as clouds
from orderctl.cloud.state import Cloud, CloudState, cloud_environment
from orderctl.exits import Exit, Stop
from orderctl.stack.target import local_target


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    monkeypatch.setattr(clouds, "CLOUDS", tmp_path)
    return Cloud("unit")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process group with a leader and a child, as a server and its worker."""
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    yield process
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # the child may have outlived its leader
    process.wait()


def state_of(cloud: Cloud, pid: int, process_identity: str = "", deployed: str = "") -> CloudState:
    return CloudState(
        name=cloud.name,
        port=1,
        pid=pid,
        process_identity=process_identity or processes.identity(pid),
        started_at="2026-01-01T00:00:00+00:00",
        runtime="python3.13",
        server="s",
        deployed=deployed,
    )


def test_a_state_is_read_back_as_it_was_recorded(cloud: Cloud) -> None:
    state = state_of(cloud, os.getpid(), deployed="abc")
    cloud.save(state)
    assert cloud.load() == state


@pytest.mark.parametrize("content", ["", "{", "[]", '{"name": "unit"}', '"text"', "null"])
def test_a_state_that_cannot_be_read_counts_as_none(cloud: Cloud, content: str) -> None:
    # GIVEN a damaged record
    cloud.directory.mkdir(parents=True)
    cloud.state_file.write_text(content)

    # THEN it says nothing
    assert cloud.load() is None


def test_fields_of_another_version_do_not_matter(cloud: Cloud) -> None:
    # GIVEN a record with a field that this version does not know
    cloud.save(state_of(cloud, os.getpid()))
    cloud.state_file.write_text(cloud.state_file.read_text().replace("{", '{"colour": "red",', 1))

    # THEN the rest is read
    assert cloud.load() == state_of(cloud, os.getpid())


@pytest.mark.parametrize("name", ["", "../etc", "Über", "a b", "-x", "x" * 42])
def test_a_name_that_is_no_directory_name_is_refused(name: str) -> None:
    with pytest.raises(Stop) as stop:
        Cloud(name)
    assert stop.value.code is Exit.USAGE


def test_two_cannot_work_on_the_same_cloud_at_once(cloud: Cloud) -> None:
    with cloud.exclusive():
        with pytest.raises(Stop) as stop, cloud.exclusive():
            pass
        assert stop.value.code is Exit.STEP_FAILED
    with cloud.exclusive():
        pass  # and again, once the first is done


def test_a_process_is_alive_only_while_it_is_the_recorded_one(cloud: Cloud, sleeper: subprocess.Popen[bytes]) -> None:
    assert server_process.alive(state_of(cloud, sleeper.pid))
    assert not server_process.alive(state_of(cloud, sleeper.pid, process_identity="started at another time"))


def test_a_process_that_nobody_has_reaped_is_not_alive(cloud: Cloud, sleeper: subprocess.Popen[bytes]) -> None:
    # GIVEN a recorded server
    state = state_of(cloud, sleeper.pid)

    # WHEN it is killed, and its end was not taken note of
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)

    # THEN it counts as gone
    assert not server_process.alive(state)


def test_stopping_ends_the_server_and_its_workers(cloud: Cloud, sleeper: subprocess.Popen[bytes]) -> None:
    # GIVEN a server with a worker
    state = state_of(cloud, sleeper.pid)
    cloud.save(state)
    while len(processes.group_members(sleeper.pid)) < 2:
        assert sleeper.poll() is None

    # WHEN it is stopped
    ended = server_process.stop(cloud, state)

    # THEN both are gone, and so is the record
    assert ended == 2
    assert processes.group_members(sleeper.pid) == []
    assert cloud.load() is None


def test_stopping_leaves_a_stranger_with_the_same_id_alone(cloud: Cloud, sleeper: subprocess.Popen[bytes]) -> None:
    # GIVEN a record whose process id now belongs to somebody else
    state = state_of(cloud, sleeper.pid, process_identity="started at another time")
    cloud.save(state)

    # WHEN the cloud is stopped
    ended = server_process.stop(cloud, state)

    # THEN only the record is gone
    assert ended == 0
    assert sleeper.poll() is None
    assert cloud.load() is None


def test_workers_that_outlived_their_server_are_ended(cloud: Cloud, sleeper: subprocess.Popen[bytes]) -> None:
    # GIVEN a server that was killed and left its worker behind
    while len(processes.group_members(sleeper.pid)) < 2:
        assert sleeper.poll() is None
    state = state_of(cloud, sleeper.pid)
    cloud.save(state)
    sleeper.kill()
    sleeper.wait()
    assert len(processes.group_members(sleeper.pid)) == 1

    # WHEN the cloud is stopped
    lifecycle.down(cloud)

    # THEN the worker is gone too
    assert processes.group_members(sleeper.pid) == []


def test_stopping_what_does_not_run_is_fine(cloud: Cloud) -> None:
    assert lifecycle.down(cloud) == 0
    assert lifecycle.status(cloud)["status"] == "down"


def save_as_of(cloud: Cloud, when: str) -> None:
    """What a clean stop leaves behind."""
    saved = cloud.data / "saved"
    saved.mkdir(parents=True, exist_ok=True)
    (saved / "saved.json").write_text(json.dumps({"savedAt": when, "port": 1}))
    (saved / "deployed.json").write_text(json.dumps({"deployed": "abc", "outputs": {"ApiId": "x"}}))


GONE = 2**22 + 1  # more than Linux gives out


@pytest.mark.parametrize(
    ("saved", "told"),
    [
        (None, ["died", "since 2026-01-01", "are lost", "There were no others"]),
        ("2025-12-31T12:00:00+00:00", ["died", "since 2026-01-01", "are lost", "2025-12-31", "are kept"]),
        ("2026-01-01T08:00:00+00:00", ["ended without `down`", "All its orders are kept"]),
    ],
    ids=["never saved", "saved by an earlier stop", "saved by the system's SIGTERM"],
)
def test_of_a_cloud_that_died_the_fate_of_its_orders_is_told(
    cloud: Cloud, saved: str | None, told: list[str]
) -> None:
    # GIVEN a recorded cloud whose process is gone
    cloud.save(state_of(cloud, GONE, process_identity="started long ago"))
    cloud.log("server").write_text("the last line")
    if saved:
        save_as_of(cloud, saved)

    # WHEN somebody asks for it, or wants to use it
    status = lifecycle.status(cloud)
    with pytest.raises(Stop) as stop:
        local_target(cloud)

    # THEN both hear that it is gone, since when, what that did to its orders, where its log is, and what to type
    assert status["status"] == "dead"
    assert " ".join(stop.value.what.split()) == status["fate"]
    assert all(words in status["fate"] for words in ("its process", "last sign of life", *told))
    assert "server.log" in stop.value.next_step
    assert "orderctl run --name unit" in stop.value.next_step


def test_who_asks_for_a_cloud_that_is_down_hears_of_those_that_run(
    cloud: Cloud, sleeper: subprocess.Popen[bytes]
) -> None:
    # GIVEN another cloud that runs
    other = Cloud("other")
    other.save(state_of(other, sleeper.pid))

    # THEN it is named, with its port
    with pytest.raises(Stop) as stop:
        local_target(cloud)
    assert "other (port 1)" in stop.value.what
    assert lifecycle.status(cloud)["running"] == ["other"]


def test_the_port_stays_when_the_cloud_is_down(cloud: Cloud, sleeper: subprocess.Popen[bytes]) -> None:
    assert cloud.last_port is None
    state = state_of(cloud, sleeper.pid)
    cloud.save(state)
    server_process.stop(cloud, state)
    assert cloud.last_port == state.port


def test_what_was_deployed_comes_back_with_what_was_saved(cloud: Cloud) -> None:
    # GIVEN a server that started with what an earlier stop has saved
    save_as_of(cloud, "2026-01-01T00:00:00+00:00")
    (cloud.data / "saved").rename(cloud.live)
    state = state_of(cloud, os.getpid())

    # WHEN that is recorded
    cloud.restore(state)

    # THEN nothing needs to be deployed again
    assert (state.deployed, state.outputs) == ("abc", {"ApiId": "x"})
    assert cloud.load() == state


def test_a_deployment_that_never_was_complete_is_not_kept(cloud: Cloud) -> None:
    save_as_of(cloud, "2026-01-01T00:00:00+00:00")
    (cloud.data / "saved" / "deployed.json").unlink()
    assert cloud.saved_at() is None


@pytest.mark.parametrize("save", [True, False])
def test_a_server_saves_before_it_ends_unless_what_it_holds_is_not_complete(
    cloud: Cloud, tmp_path: Path, capsys: pytest.CaptureFixture[str], save: bool
) -> None:
    # GIVEN a server that saves on SIGTERM
    script = (
        "import pathlib, signal, sys, time\n"
        "def save(*_):\n"
        "    pathlib.Path(sys.argv[1]).write_text('all of it')\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "saved")]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline()
        state = state_of(cloud, process.pid)
        state.persist, state.outputs = True, {"ApiId": "x"}

        # WHEN it is stopped
        server_process.stop(cloud, state, save=save)

    # THEN it has saved only if that was wanted
    assert (tmp_path / "saved").exists() is save
    # AND as no complete state was left behind, that is told
    assert ("could not be saved" in capsys.readouterr().err) is save


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


@pytest.mark.parametrize(
    ("data_dir", "told"),
    [
        (clouds.ROOT / ".local/cloud/second/data", "this checkout's local cloud 'second'"),
        (Path("/elsewhere/my orders/.local/cloud/default/data"), "'default' of the checkout /elsewhere/my orders"),
        (None, "another program"),
    ],
    ids=["own", "another checkout's", "a stranger"],
)
def test_who_has_a_taken_port_is_named(
    cloud: Cloud, taken_port: int, monkeypatch: pytest.MonkeyPatch, data_dir: Path | None, told: str
) -> None:
    # GIVEN a port on which that program listens
    server_line = f"python -m localcloud --port {taken_port} --data-dir {data_dir} --tmp-dir /x --persist "
    monkeypatch.setattr(processes, "command_lines", lambda: {1: "init ", 7: server_line if data_dir else "nginx "})

    # WHEN the port is asked for
    with pytest.raises(Stop) as stop:
        server_process.refuse_taken_port(cloud, taken_port)

    # THEN the message says whose it is, and how to go on
    assert stop.value.code is Exit.STEP_FAILED
    assert f"Port {taken_port} is used by " in stop.value.what
    assert told in stop.value.what
    assert "orderctl run --port" in stop.value.next_step
    assert ("orderctl down --name second" in stop.value.next_step) is ("second" in told)


@pytest.mark.parametrize("proc", [Path("/proc"), Path("/nowhere")], ids=["proc", "ps"])
class TestProcesses:
    """What is known of processes, where there is a /proc and where there is none (macOS)."""

    @pytest.fixture(autouse=True)
    def way(self, proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if proc.name == "proc" and not proc.is_dir():
            pytest.skip("this system has no /proc")
        if proc.name != "proc" and not shutil.which("ps"):
            pytest.skip("this system has no ps")
        monkeypatch.setattr(processes, "PROC", proc)

    def test_a_group_is_found_and_ended(self, sleeper: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + 10
        while len(members := processes.group_members(sleeper.pid)) < 2:
            assert time.monotonic() < deadline
        assert sleeper.pid in members
        assert "time.sleep(600)" in processes.command_lines()[sleeper.pid]
        assert processes.end_group(sleeper.pid) == []

    def test_a_process_keeps_its_identity_until_it_ends(
        self, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = processes.identity(sleeper.pid)
        for zone in ("Asia/Tokyo", "America/Lima"):
            monkeypatch.setenv("TZ", zone)
            assert processes.identity(sleeper.pid) == before != ""
        sleeper.kill()
        os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
        assert processes.identity(sleeper.pid) == ""
        assert processes.identity(GONE) == ""


def test_no_setting_of_the_user_reaches_the_local_cloud(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN a user with an AWS profile, a Python environment and a proxy
    for key in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN", "PYTHONPATH", "VIRTUAL_ENV"):
        monkeypatch.setenv(key, "theirs")
    monkeypatch.setenv("NO_PROXY", "intranet")

    # THEN the local cloud gets none of it, and is not looked for behind the proxy
    environment = cloud_environment(cloud)
    assert "theirs" not in environment.values()
    assert environment["NO_PROXY"].split(",") == ["intranet", "127.0.0.1", "localhost"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "src" / "orders" / "domain").mkdir(parents=True)
    (tmp_path / "src" / "orders" / "domain" / "order.py").write_text("x = 1\n")
    (tmp_path / "statemachine").mkdir()
    (tmp_path / "statemachine" / "order.asl.yaml").write_text("States: {}\n")
    (tmp_path / "template.yaml").write_text("Resources: {}\n")
    (tmp_path / "samconfig.toml").write_text("version = 0.1\n")
    return tmp_path


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        pytest.param({}, "false", id="a new stack"),
        pytest.param({"ApiId": "x"}, "true", id="made by 1.0.0"),
        pytest.param({"CaseSensitiveEmail": "true"}, "true", id="made by 1.0.0, deployed again"),
        pytest.param({"CaseSensitiveEmail": "false"}, "false", id="made by this release"),
    ],
)
def test_a_deployment_leaves_the_user_pool_as_it_was_made(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, outputs: dict[str, str], expected: str
) -> None:
    # GIVEN a user pool whose case AWS never changes
    commands: list[list[str]] = []
    monkeypatch.setattr(deployment, "_run_sam", lambda step, command, *_: commands.append(command))
    state = state_of(cloud, os.getpid())
    state.outputs = outputs
    # WHEN
    deployment.deploy(cloud, state, Path("template.yaml"), lambda _: None)
    # THEN
    assert f"CaseSensitiveEmail={expected}" in commands[0]


def test_what_is_deployed_decides_the_fingerprint(project: Path) -> None:
    # GIVEN a project
    original = deployment.fingerprint("python3.13", project)

    # THEN the same content has the same fingerprint, whatever lies about
    (project / "README.md").write_text("new\n")
    (project / "src" / "orders" / "__pycache__").mkdir()
    (project / "src" / "orders" / "__pycache__" / "model.pyc").write_bytes(b"x")
    os.utime(project / "template.yaml", (0, 0))
    assert deployment.fingerprint("python3.13", project) == original

    # AND any change that is deployed changes it
    assert deployment.fingerprint("python3.12", project) != original
    for name in ("src/orders/domain/order.py", "statemachine/order.asl.yaml", "template.yaml", "samconfig.toml"):
        before = deployment.fingerprint("python3.13", project)
        (project / name).write_text((project / name).read_text() + "# changed\n")
        assert deployment.fingerprint("python3.13", project) != before, name
    before = deployment.fingerprint("python3.13", project)
    (project / "src" / "orders" / "domain" / "order.py").rename(project / "src" / "orders" / "renamed.py")
    assert deployment.fingerprint("python3.13", project) != before


@pytest.mark.parametrize(("saved", "asked"), [(datetime.now(UTC), 1), (None, 0)], ids=["orders", "nothing"])
def test_orders_that_were_under_way_at_the_last_stop_are_taken_up(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, saved: datetime | None, asked: int
) -> None:
    # GIVEN a local cloud that starts with what its last stop has saved
    started, payloads = state_of(cloud, os.getpid()), []

    class Stack:
        def output(self, name: str) -> str:
            return name

        def client(self, _: str) -> Stack:
            return self

        def invoke(self, *, FunctionName: str, Payload: bytes) -> None:  # noqa: N803
            assert FunctionName == "SweepOrdersFunction"
            payloads.append(json.loads(Payload))

    monkeypatch.setattr(Cloud, "saved_at", lambda _: saved)
    monkeypatch.setattr(Cloud, "restore", lambda *_: None)
    monkeypatch.setattr(deployment, "local_runtime", lambda: "python3.11")
    monkeypatch.setattr(server_process, "start", lambda *_, **__: started)
    monkeypatch.setattr(server_process, "wait_until_healthy", lambda *_: None)
    monkeypatch.setattr(lifecycle, "_complete", lambda *_: None)
    monkeypatch.setattr(lifecycle, "of_state", lambda _: Stack())

    lifecycle.up(cloud, persist=True)

    # THEN the sweep restarts them at once: nobody else works on any order
    assert len(payloads) == asked
    assert all(payload["promiseSeconds"] < 1 and payload["maxRestarts"] > 10**5 for payload in payloads)
