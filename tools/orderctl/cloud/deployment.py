"""Build the project and deploy it to a local cloud with the SAM CLI."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from orderctl.cloud import processes
from orderctl.cloud.state import LOCAL, ROOT, Cloud, CloudState, cloud_environment, shown
from orderctl.exits import Exit, Stop
from orderctl.ui.console import Note

SAM = LOCAL / "venv-sam" / "bin" / "sam"
CLOUD_PYTHON = LOCAL / "venv-cloud" / "bin" / "python"
BUILDS = LOCAL / "builds"
BUILDS_KEPT = 3
DEPLOYED_SOURCES = ("src", "statemachine", "template.yaml", "samconfig.toml")
SERVER_SOURCES = ("tools/localcloud/src", "uv.lock")


def local_runtime() -> str:
    """Return the Lambda runtime of the local cloud's interpreter, such as "python3.13".

    Raises Stop(STEP_FAILED) if the local cloud is not installed.
    """
    try:
        shown = subprocess.run(
            [CLOUD_PYTHON, "-c", "import sys; print('python%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise Stop(
            Exit.STEP_FAILED,
            "The local cloud is not installed in this checkout.",
            "Run `make run`, or `scripts/install` for the installation alone.",
        ) from error
    return shown.stdout.strip()


def local_architecture() -> str:
    """Return this machine's processor as a value of the template's parameter Architecture."""
    return "arm64" if platform.machine().lower() in {"arm64", "aarch64"} else "x86_64"


def fingerprint(runtime: str, root: Path = ROOT) -> str:
    """Return a hash of everything that a deployment depends on: source files, runtime and processor."""
    return _hash_of(DEPLOYED_SOURCES, f"{runtime} {local_architecture()}", root)


def server_fingerprint(runtime: str, root: Path = ROOT) -> str:
    """Return a hash of the local cloud's own source files, lock file and runtime."""
    return _hash_of(SERVER_SOURCES, runtime, root)


def _hash_of(sources: tuple[str, ...], also: str, root: Path) -> str:
    digest = hashlib.sha256(f"{also}\n".encode())
    for source in sources:
        path = root / source
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                content = file.read_bytes()
                digest.update(f"{file.relative_to(root)} {len(content)}\n".encode())
                digest.update(content)
    return digest.hexdigest()[:16]


def parameter_overrides(runtime: str) -> list[str]:
    """Return the template parameters of a local build and of a local deployment."""
    return [
        "--parameter-overrides",
        "Target=local",
        "Environment=local",
        f"LambdaRuntime={runtime}",
        f"Architecture={local_architecture()}",
    ]


def sam(subcommand: str) -> list[str]:
    """Return the start of a SAM CLI command with the settings of the environment `local`."""
    config = str(ROOT / "samconfig.toml")  # by default SAM looks for the file beside the template
    return [str(SAM), subcommand, "--config-file", config, "--config-env", "local"]


def build(cloud: Cloud, wanted: str, runtime: str, note: Note) -> Path:
    """Run `sam build`, unless a build of the fingerprint `wanted` exists; returns the built template's path.

    Only a complete build gets its final directory name, so an interrupted one is never used. Raises
    Stop(STEP_FAILED) with the last lines of SAM's output.
    """
    finished = BUILDS / wanted
    if (finished / "template.yaml").exists():
        finished.touch()
        return finished / "template.yaml"
    partial = BUILDS / f"{wanted}.{os.getpid()}.part"
    command = [*sam("build"), "--template-file", str(ROOT / "template.yaml")]
    command += ["--build-dir", str(partial), *parameter_overrides(runtime)]
    environment = {
        **cloud_environment(cloud),
        "LAMBDA_RUNTIME": runtime,
        "LAMBDA_ARCHITECTURE": "native",  # this machine's own wheels, on macOS too
    }
    try:
        _run_sam("build", command, cloud, environment, note)
        with suppress(OSError):  # another `up` has finished the same build first
            partial.rename(finished)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _remove_old_builds()
    return finished / "template.yaml"


def _remove_old_builds() -> None:
    finished = [path for path in BUILDS.iterdir() if path.suffix != ".part"]
    for path in sorted(finished, key=lambda p: p.stat().st_mtime, reverse=True)[BUILDS_KEPT:]:
        shutil.rmtree(path, ignore_errors=True)


def deploy(cloud: Cloud, state: CloudState, template: Path, note: Note) -> None:
    """Run `sam deploy --config-env local`; Stop(STEP_FAILED) with the last lines of SAM's output."""
    command = [*sam("deploy"), "--template-file", str(template), "--no-progressbar"]
    command += [*parameter_overrides(state.runtime), f"CaseSensitiveEmail={case_sensitive(state.outputs)}"]
    environment = {**cloud_environment(cloud), "AWS_ENDPOINT_URL": state.endpoint}
    _run_sam("deploy", command, cloud, environment, note)


def case_sensitive(outputs: dict[str, str]) -> str:
    """Return the parameter CaseSensitiveEmail for a stack with these outputs: its user pool stays as it was made.

    A stack without outputs is new; one without this output was made by release 1.0.0.
    """
    return outputs.get("CaseSensitiveEmail", "true") if outputs else "false"


def _run_sam(step: str, command: list[str], cloud: Cloud, environment: dict[str, str], note: Note) -> None:
    log = cloud.log(step)
    code = processes.run_logged(command, log, environment, ROOT, note)
    if code:
        raise Stop(
            Exit.STEP_FAILED,
            f"`sam {step}` failed (exit code {code}). Its last lines:\n{processes.last_lines(log, 15)}",
            f"The whole output is in {shown(log)}.",
        )
