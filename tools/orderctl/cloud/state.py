"""One local cloud on disk: where its files are, what is recorded about it, and who may change it."""

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

from orderctl.exits import Exit, Stop

ROOT = Path(__file__).resolve().parents[3]
LOCAL = ROOT / ".local"
CLOUDS = LOCAL / "cloud"
DEFAULT_NAME = "default"
DEFAULT_PORT = 4566
DEPLOYED = "deployed.json"  # lies with what is saved, because it tells what is deployed there
STACK_NAME = "orders-local"  # as samconfig.toml names it


@dataclass
class CloudState:
    """What is recorded about a local cloud while it runs; absent as soon as it is stopped.

    `process_identity` tells the recorded process from another one that got the same id later.
    `server` is the fingerprint of the server's own code, `deployed` that of what was last deployed completely,
    "" while a deployment is under way. `persist` says that a clean stop saves everything in it.
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
        """Whether the stack is there, complete."""
        return bool(self.deployed)


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
        """Where the output of a step ("server", "build", "deploy") is kept."""
        return self.directory / f"{step}.log"

    def load(self) -> CloudState | None:
        """Read the recorded state; None if there is none or it can't be read (then it counts as none)."""
        try:
            recorded: dict[str, Any] = json.loads(self.state_file.read_text())
            known = {f.name for f in fields(CloudState)}
            return CloudState(**{key: value for key, value in recorded.items() if key in known})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, AttributeError):
            return None

    def save(self, state: CloudState) -> None:
        """Record the state in one step: a reader sees the old file or the new one, never half of it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        _write(self.state_file, json.dumps(asdict(state), indent=2))
        _write(self.directory / "port", str(state.port))
        if state.persist and state.outputs and self.live.is_dir():
            _write(self.live / DEPLOYED, json.dumps({"deployed": state.deployed, "outputs": state.outputs}))

    def restore(self, state: CloudState) -> None:
        """Record in `state` which deployment came back with what was saved."""
        if (self.live / DEPLOYED).exists():
            found = json.loads((self.live / DEPLOYED).read_text())
            state.deployed, state.outputs = found["deployed"], found["outputs"]
            self.save(state)

    @property
    def last_port(self) -> int | None:
        """The port that this cloud had last; None before its first start."""
        with suppress(OSError, ValueError):
            return int((self.directory / "port").read_text())
        return None

    def saved_at(self) -> datetime | None:
        """When this cloud was last saved whole, with a complete deployment in it; None if it never was."""
        for folder in (self.live, self.data / "saved"):
            with suppress(OSError, ValueError, KeyError):
                saved = datetime.fromisoformat(json.loads((folder / "saved.json").read_text())["savedAt"])
                return saved if (folder / DEPLOYED).exists() else None
        return None

    def forget(self) -> None:
        """Remove the record and temporary files; the logs, the port and what was saved stay."""
        with suppress(FileNotFoundError):
            self.state_file.unlink()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def erase(self) -> None:
        """Remove everything that was saved."""
        shutil.rmtree(self.data, ignore_errors=True)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Let one `up` or `down` at a time work on this cloud; Stop(STEP_FAILED) if another one does."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise Stop(
                    Exit.STEP_FAILED,
                    f"Another orderctl is starting or stopping the local cloud {self.name!r}.",
                    "Wait until it is done, then try again.",
                ) from error
            yield


def known_clouds() -> list[Cloud]:
    """Return the local clouds that are recorded in this checkout, by name."""
    return [Cloud(path.parent.name) for path in sorted(CLOUDS.glob("*/state.json"))]


def shown(path: Path) -> str:
    """Return a file's path as one can open it from here."""
    return min(str(path), os.path.relpath(path), key=len)


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(".part")
    partial.write_text(text)
    partial.replace(path)


def cloud_environment(cloud: Cloud) -> dict[str, str]:
    """Environment for the programs of the local cloud: no AWS setting and no Python path leaks in."""
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

# The emulator takes any key id that is not that of an emulated user as the account itself.
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
