"""The files of a local cloud: their paths, the recorded state, and the lock of those who change it."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from orderctl.defaults import DEFAULT_NAME
from orderctl.exits import Exit, Stop

ROOT = Path(__file__).resolve().parents[3]
LOCAL = ROOT / ".local"
CLOUDS = LOCAL / "cloud"
DEPLOYED = "deployed.json"  # lies beside the saved data, because it says which deployment that data belongs to
STACK_NAME = "orders-local"  # as samconfig.toml names it


@dataclass
class CloudState:
    """The record of a running local cloud; a clean stop removes it.

    `process_identity` distinguishes the recorded process from a later one with the same id. `server` is the
    fingerprint of the server's own code. `deployed` is the fingerprint of the last complete deployment, "" while a
    deployment is under way. `persist` says that a clean stop saves the cloud's data. `outputs` are the stack's.
    """

    name: str
    port: int
    pid: int
    process_identity: str
    started_at: str
    runtime: str
    server: str = ""
    deployed: str = ""
    persist: bool = False
    outputs: dict[str, str] = field(default_factory=dict)

    @property
    def endpoint(self) -> str:
        """URL of the emulated AWS endpoint."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ready(self) -> bool:
        """Whether the stack is deployed completely."""
        return bool(self.deployed)

    @property
    def api_url(self) -> str:
        """The REST API's URL; "" before the first deployment.

        The URL has a path of the endpoint, because *.execute-api.localhost does not resolve on every machine.
        """
        api = self.outputs.get("ApiId")
        stage = self.outputs.get("ApiUrl", "v1").rstrip("/").rpartition("/")[2]
        return f"{self.endpoint}/_aws/execute-api/{api}/{stage}" if api else ""


class Cloud:
    """The files of the local cloud called `name`; Stop(USAGE) if the name can't be a directory name."""

    def __init__(self, name: str = DEFAULT_NAME) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,40}", name):
            raise Stop(
                Exit.USAGE,
                f"{name!r} can't be the name of a local cloud.",
                "Use lower-case letters, digits and hyphens.",
            )
        self.name = name
        self.directory = CLOUDS / name
        self.state_file = self.directory / "state.json"
        self.data = self.directory / "data"
        self.live = self.data / "live"  # tools/localcloud/src/localcloud/saving.py
        self.temporary = self.directory / "tmp"

    def log(self, step: str) -> Path:
        """Return the path of a step's log; the steps are "server", "build" and "deploy"."""
        return self.directory / f"{step}.log"

    def load(self) -> CloudState | None:
        """Return the recorded state; None if there is none or it can't be read."""
        try:
            recorded: dict[str, Any] = json.loads(self.state_file.read_text())
            known = {f.name for f in fields(CloudState)}
            return CloudState(**{key: value for key, value in recorded.items() if key in known})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, AttributeError):
            return None

    def save(self, state: CloudState) -> None:
        """Record the state atomically: a reader sees either the old file or the new one."""
        self.directory.mkdir(parents=True, exist_ok=True)
        _write(self.state_file, json.dumps(asdict(state), indent=2))
        _write(self.directory / "port", str(state.port))
        if state.persist and state.outputs and self.live.is_dir():
            _write(self.live / DEPLOYED, json.dumps({"deployed": state.deployed, "outputs": state.outputs}))

    def restore(self, state: CloudState) -> None:
        """Copy the saved data's deployment into `state` and record it."""
        if (self.live / DEPLOYED).exists():
            found = json.loads((self.live / DEPLOYED).read_text())
            state.deployed, state.outputs = found["deployed"], found["outputs"]
            self.save(state)

    @property
    def last_port(self) -> int | None:
        """The port of this cloud's last start; None before the first one."""
        with suppress(OSError, ValueError):
            return int((self.directory / "port").read_text())
        return None

    def saved_at(self) -> datetime | None:
        """Return when this cloud was last saved with a complete deployment; None if it never was."""
        for folder in (self.live, self.data / "saved"):
            with suppress(OSError, ValueError, KeyError):
                saved = datetime.fromisoformat(json.loads((folder / "saved.json").read_text())["savedAt"])
                return saved if (folder / DEPLOYED).exists() else None
        return None

    def forget(self) -> None:
        """Remove the record and the temporary files; keep the logs, the port and the saved data."""
        with suppress(FileNotFoundError):
            self.state_file.unlink()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def erase(self) -> None:
        """Remove the saved data."""
        shutil.rmtree(self.data, ignore_errors=True)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold this cloud's lock; Stop(STEP_FAILED) if another `up` or `down` holds it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise Stop(
                    Exit.STEP_FAILED,
                    f"Another orderctl is starting or stopping the local cloud {self.name!r}.",
                    "Wait until that one has finished, then repeat the command.",
                ) from error
            yield


def known_clouds() -> list[Cloud]:
    """Return the recorded local clouds of this checkout, sorted by name."""
    return [Cloud(path.parent.name) for path in sorted(CLOUDS.glob("*/state.json"))]


def shown(path: Path) -> str:
    """Return a path as the shortest text that opens the file from the working directory."""
    return min(str(path), os.path.relpath(path), key=len)


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(".part")
    partial.write_text(text)
    partial.replace(path)


def cloud_environment(cloud: Cloud) -> dict[str, str]:
    """Return the environment of a local cloud's programs, without the user's AWS settings and Python paths."""
    keep = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("AWS_") and key not in {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    }
    bypass = [host for host in (keep.get("NO_PROXY") or keep.get("no_proxy") or "").split(",") if host]
    hosts = ",".join([*bypass, "127.0.0.1", "localhost"])
    return {
        "UV_SYSTEM_CERTS": "1",
        **keep,
        **LOCAL_AWS_ENVIRONMENT,
        "NO_PROXY": hosts,
        "no_proxy": hosts,
        "PATH": os.pathsep.join([str(LOCAL / "uv" / "bin"), str(Path(sys.executable).parent), keep.get("PATH", "")]),
        "TMPDIR": str(cloud.temporary),
    }


LOCAL_REGION = "us-east-1"

# The emulator treats any key id that belongs to no emulated user as the account itself.
LOCAL_AWS_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": LOCAL_REGION,
    "AWS_DEFAULT_REGION": LOCAL_REGION,
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "SAM_CLI_TELEMETRY": "0",
}
