"""What is recorded about a local cloud, and how it is recovered from."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orderctl import cloud as clouds
from orderctl import deployment, lifecycle, processes, server
from orderctl.cloud import Cloud, CloudState, cloud_environment
from orderctl.exits import Exit, Stop


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
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
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
    assert server.alive(state_of(cloud, sleeper.pid))
    assert not server.alive(state_of(cloud, sleeper.pid, process_identity="started at another time"))


def test_a_process_that_nobody_has_reaped_is_not_alive(cloud: Cloud, sleeper: subprocess.Popen[bytes]) -> None:
    # GIVEN a recorded server
    state = state_of(cloud, sleeper.pid)

    # WHEN it is killed, and its end was not taken note of
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)

    # THEN it counts as gone
    assert not server.alive(state)


def test_stopping_ends_the_server_and_its_workers(cloud: Cloud, sleeper: subprocess.Popen[bytes]) -> None:
    # GIVEN a server with a worker
    state = state_of(cloud, sleeper.pid)
    cloud.save(state)
    while len(processes.group_members(sleeper.pid)) < 2:
        assert sleeper.poll() is None

    # WHEN it is stopped
    ended = server.stop(cloud, state)

    # THEN both are gone, and so is the record
    assert ended == 2
    assert processes.group_members(sleeper.pid) == []
    assert cloud.load() is None


def test_stopping_leaves_a_stranger_with_the_same_id_alone(cloud: Cloud, sleeper: subprocess.Popen[bytes]) -> None:
    # GIVEN a record whose process id now belongs to somebody else
    state = state_of(cloud, sleeper.pid, process_identity="started at another time")
    cloud.save(state)

    # WHEN the cloud is stopped
    ended = server.stop(cloud, state)

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


def test_a_recorded_cloud_whose_process_is_gone_is_dead(cloud: Cloud) -> None:
    cloud.save(state_of(cloud, 2**22 + 1, process_identity="started long ago"))
    assert lifecycle.status(cloud)["status"] == "dead"


def test_a_taken_port_is_refused_by_name(cloud: Cloud) -> None:
    # GIVEN a port that somebody listens on
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        # WHEN it is asked for
        with pytest.raises(Stop) as stop:
            server.refuse_taken_port(cloud, port)

    # THEN the message names it
    assert stop.value.code is Exit.STEP_FAILED
    assert str(port) in stop.value.what


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
    (tmp_path / "src" / "orders").mkdir(parents=True)
    (tmp_path / "src" / "orders" / "model.py").write_text("x = 1\n")
    (tmp_path / "statemachine").mkdir()
    (tmp_path / "statemachine" / "order.asl.yaml").write_text("States: {}\n")
    (tmp_path / "template.yaml").write_text("Resources: {}\n")
    (tmp_path / "samconfig.toml").write_text("version = 0.1\n")
    return tmp_path


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
    for name in ("src/orders/model.py", "statemachine/order.asl.yaml", "template.yaml", "samconfig.toml"):
        before = deployment.fingerprint("python3.13", project)
        (project / name).write_text((project / name).read_text() + "# changed\n")
        assert deployment.fingerprint("python3.13", project) != before, name
    before = deployment.fingerprint("python3.13", project)
    (project / "src" / "orders" / "model.py").rename(project / "src" / "orders" / "renamed.py")
    assert deployment.fingerprint("python3.13", project) != before
