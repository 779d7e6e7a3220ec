#!/usr/bin/env python3
"""Builds what a Lambda function is deployed with: this package, its dependencies, bytecode for both.

`sam build` runs it for every function, several at the same time. All functions share one artifact, so
the slow half (wheels, trimming, bytecode) is done once and kept, keyed by everything it depends on.
"""
# ruff: noqa: T201 - what this prints is for the person who runs `sam build`

import argparse
import contextlib
import fcntl
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Every AWS service that a function may call, by its boto3 name. boto3's data for all others is trimmed.
AWS_SERVICES = ("dynamodb", "dynamodbstreams", "events", "s3", "sqs", "stepfunctions")

# Never read at run time. METADATA stays: vulnerability scanners find out from it what is deployed.
TRIMMED = (
    "bin",
    "**/*.pyi",
    "**/py.typed",
    "**/examples-1.json",
    "boto3/examples",
    "aws_lambda_powertools/event_handler/openapi/swagger_ui/*.min.*",
    *(f"*.dist-info/{name}" for name in ("RECORD", "WHEEL", "INSTALLER", "REQUESTED", "uv_cache.json")),
    *(f"*.dist-info/{name}" for name in ("licenses", "top_level.txt", "entry_points.txt", "zip-safe")),
)

# manylinux2014 wheels run on both base systems of Lambda's Python runtimes: Amazon Linux 2 and 2023.
PLATFORMS = {"x86_64": "x86_64-manylinux2014", "arm64": "aarch64-manylinux2014", "native": None}
RUNTIMES = ("python3.11", "python3.12", "python3.13")
MANIFEST = "artifact.json"
CACHE_DAYS = 14
COLUMNS = ("files", "source", "bytecode", "native", "data", "total", "zipped")

SOURCE = Path(__file__).resolve().parent
REQUIREMENTS = SOURCE / "requirements.txt"

HELP = f"""
environment:
  LAMBDA_RUNTIME       {", ".join(RUNTIMES)} (default python3.13)
  LAMBDA_ARCHITECTURE  {", ".join(PLATFORMS)} (default arm64); native is for this machine
  BUILD_CACHE_DIR      where built dependencies are kept (default: .local/build-cache of the checkout,
                       or the user's cache directory outside a checkout)

examples:
  make -f src/Makefile build-AcceptOrderFunction ARTIFACTS_DIR=/tmp/artifact
  LAMBDA_RUNTIME=python3.12 LAMBDA_ARCHITECTURE=x86_64 python3 src/build_artifact.py /tmp/artifact
  python3 src/build_artifact.py --report .aws-sam/build/AcceptOrderFunction

exit codes: 0 done, 1 the build failed, 2 wrong usage"""


class BuildError(Exception):
    """The artifact can't be built; the message is one sentence for the person at the terminal."""


def build(artifact: Path, runtime: str, architecture: str) -> None:
    """Fill the directory `artifact`: created if missing, replaced if an earlier build made it.

    Raises BuildError when a tool or wheel is missing, the code needs a service that is trimmed, or the
    directory holds something that no build put there.
    """
    orders = SOURCE / "orders"
    refuse_trimmed_services(orders)
    if artifact.is_dir() and any(artifact.iterdir()) and not (artifact / MANIFEST).exists():
        raise BuildError(f"{artifact} holds files that no build made: name an empty directory.")
    interpreter = find_interpreter(runtime)

    def fill_dependencies(directory: Path) -> None:
        install(directory, runtime, architecture)
        trim(directory)
        compiler = interpreter or fetch_interpreter(runtime)
        compile_bytecode(directory, compiler)
        write_manifest(directory, runtime, architecture, bytecode=compiler is not None)

    def fill_application(directory: Path) -> None:
        shutil.copytree(orders, directory / "orders", ignore=shutil.ignore_patterns("__pycache__"))
        compile_bytecode(directory, find_interpreter(runtime))

    platform = sys.platform if architecture == "native" else ""
    common = [
        f"{runtime} {architecture} {platform} {bool(interpreter)}".encode(),
        Path(__file__).read_bytes(),
    ]
    dependencies = cached("dependencies", [*common, REQUIREMENTS.read_bytes()], fill_dependencies)
    sources = [
        part for p in source_files(orders) for part in (str(p.relative_to(orders)).encode(), p.read_bytes())
    ]
    application = cached("application", [*common, *sources], fill_application)
    with dependencies as dependencies_dir, application as application_dir:
        # The manifest is the last to go and the first to come: a half-filled directory is known as ours.
        if artifact.is_dir():
            for path in sorted(artifact.iterdir(), key=lambda p: p.name == MANIFEST):
                remove(path)
        artifact.mkdir(parents=True, exist_ok=True)
        shutil.copy(dependencies_dir / MANIFEST, artifact)
        for part in (dependencies_dir, application_dir):
            shutil.copytree(part, artifact, dirs_exist_ok=True)
    if not json.loads((artifact / MANIFEST).read_bytes())["bytecode"]:
        print(
            f"No {runtime} here, and uv could not fetch one: this artifact has no bytecode, which makes "
            "a cold start two to three times as long."
        )


def source_files(package: Path) -> list[Path]:
    """Every file of the package in a fixed order, without bytecode that happens to lie around."""
    return sorted(p for p in package.rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def refuse_trimmed_services(package: Path) -> None:
    """Raise BuildError if the package makes a client for a service that the artifact has no data for."""
    for path in source_files(package):
        if path.suffix == ".py":
            for service in re.findall(r"\b(?:client|resource)\(\s*[\"']([a-z0-9-]+)[\"']", path.read_text()):
                if service not in AWS_SERVICES:
                    raise BuildError(
                        f'{path.relative_to(SOURCE)} uses "{service}", which is trimmed from the artifact: '
                        "add it to AWS_SERVICES in src/build_artifact.py."
                    )


@contextlib.contextmanager
def cached(name: str, key: list[bytes], fill: Callable[[Path], None]) -> Iterator[Path]:
    """Yield a directory that `fill` has filled for this key, now or in an earlier build.

    One process fills, the others wait for its lock. A directory gets its final name only when it is complete,
    so one that was abandoned half-way is never used. Where the cache can't be written, a temporary
    directory is filled and dropped.
    """
    digest = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in key)).hexdigest()[:16]
    cache = cache_directory()
    final, partial = cache / f"{name}-{digest}", cache / f"{name}-{digest}.partial"
    with contextlib.ExitStack() as stack:
        try:
            cache.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((cache / "lock").open("w"))
        except OSError:
            if not final.is_dir():
                final = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="order-pipeline-")))
                fill(final)
        else:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not final.is_dir():
                remove_unused(cache)
                partial.mkdir()
                fill(partial)
                partial.rename(final)
            os.utime(final)
            fcntl.flock(lock, fcntl.LOCK_UN)
        yield final


def cache_directory() -> Path:
    """The checkout's .local/, so that deleting the checkout leaves nothing behind; else the user's cache."""
    checkout = SOURCE.parent
    if "BUILD_CACHE_DIR" in os.environ:
        return Path(os.environ["BUILD_CACHE_DIR"])
    if (checkout / "uv.lock").exists():
        return checkout / ".local" / "build-cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "order-pipeline-build"


def remove_unused(cache: Path) -> None:
    """Remove what no build used for CACHE_DAYS and, as the caller holds the lock, what one left half-done."""
    for path in cache.iterdir():
        if path.suffix == ".partial" or path.stat().st_mtime < time.time() - CACHE_DAYS * 86_400:
            remove(path)


def remove(path: Path) -> None:
    """Remove a file or a directory tree; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def find_uv() -> list[str]:
    """The command that starts uv. Raises BuildError where there is none."""
    if uv := os.environ.get("UV") or shutil.which("uv"):
        return [uv]
    module = [sys.executable, "-m", "uv"]
    if subprocess.run([*module, "--version"], capture_output=True, check=False).returncode == 0:
        return module
    raise BuildError(
        "uv is needed to build: `make` at the top of the checkout installs it, "
        "or see https://docs.astral.sh/uv/getting-started/installation/."
    )


def install(directory: Path, runtime: str, architecture: str) -> None:
    """Unpack the locked wheels for the target into `directory`. Raises BuildError with uv's own words."""
    platform = PLATFORMS[architecture]
    # Copies, never links: trimming must not reach into uv's cache.
    command = [
        *find_uv(), "pip", "install", "--quiet", "--link-mode", "copy", "--require-hashes",
        "--only-binary", ":all:", "--python", sys.executable,
        "--python-version", runtime.removeprefix("python"),
        *(["--python-platform", platform] if platform else []),
        "--target", str(directory), "--requirement", str(REQUIREMENTS),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"uv could not install for {runtime} {architecture}:\n{done.stderr.strip()}")


def trim(directory: Path) -> None:
    """Remove from installed dependencies what no function can use. Raises BuildError if botocore changed."""
    for pattern in TRIMMED:
        for path in sorted(directory.glob(pattern)):
            remove(path)
    (directory / ".lock").unlink(missing_ok=True)
    data = directory / "botocore" / "data"
    for catalogue in (data, directory / "boto3" / "data"):
        for service in sorted(p for p in catalogue.iterdir() if p.is_dir()):
            for version in sorted(service.iterdir())[: -1 if service.name in AWS_SERVICES else None]:
                remove(version)
            if not any(service.iterdir()):
                service.rmdir()
    if missing := [name for name in AWS_SERVICES if not (data / name).is_dir()]:
        raise BuildError(f"botocore knows no service named {', '.join(missing)}: see AWS_SERVICES.")

    # 1.25 MB of JSON is parsed for every first client; ours need a few lines of it.
    endpoints = json.loads((data / "endpoints.json").read_bytes())
    prefixes = {endpoint_prefix(data / name) for name in AWS_SERVICES}
    for partition in endpoints["partitions"]:
        partition["services"] = {k: v for k, v in partition["services"].items() if k in prefixes}
    (data / "endpoints.json").write_text(json.dumps(endpoints, separators=(",", ":")))

    exceptions, placeholder = directory / "botocore" / "exceptions.py", '"{known_service_names}"'
    text = exceptions.read_text()
    if text.count(placeholder) != 1:
        raise BuildError("botocore words its UnknownServiceError differently now: adapt trim().")
    advice = ". The others were trimmed at build: see AWS_SERVICES in src/build_artifact.py"
    exceptions.write_text(text.replace(placeholder, f'{placeholder[:-1]}{advice}"'))


def endpoint_prefix(service: Path) -> str:
    """The key of a service (its botocore data directory) in endpoints.json."""
    (model,) = service.glob("*/service-2.json.gz")
    prefix: str = json.loads(gzip.decompress(model.read_bytes()))["metadata"]["endpointPrefix"]
    return prefix


def find_interpreter(runtime: str) -> str | None:
    """A CPython of the target version that is on this machine; bytecode of another version is of no use."""
    version = runtime.removeprefix("python")
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    candidates = [
        sys.executable,
        shutil.which(runtime),
        *(str(path) for path in sorted(pyenv.glob(f"versions/{version}.*/bin/{runtime}"))),
        output([*find_uv(), "python", "find", "--managed-python", version]),
    ]
    tag = f"cpython-{version.replace('.', '')}"
    probe = ["-c", "import sys; print(sys.implementation.cache_tag)"]
    return next((python for python in candidates if python and output([python, *probe]) == tag), None)


def fetch_interpreter(runtime: str) -> str | None:
    """Let uv download the interpreter; None where it can't (no network, downloads forbidden)."""
    output([*find_uv(), "python", "install", "--quiet", runtime.removeprefix("python")])
    return find_interpreter(runtime)


def output(command: list[str]) -> str:
    """What the command prints, or nothing if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def compile_bytecode(directory: Path, interpreter: str | None) -> None:
    """Put bytecode beside each source file: a function's file system is read-only, so it can't keep its own.

    Unchecked, because SAM dates every file in the zip 1980 and Python would take dated bytecode for stale.
    """
    if interpreter:
        options = ["-q", "--invalidation-mode", "unchecked-hash", "-s", str(directory), "-p", "/var/task"]
        subprocess.run(
            [interpreter, "-m", "compileall", *options, str(directory)],
            env={**os.environ, "PYTHONHASHSEED": "0"},
            check=True,
        )


def write_manifest(directory: Path, runtime: str, architecture: str, *, bytecode: bool) -> None:
    """Record what the artifact is, for --report and for whoever finds one."""
    names = [path.name.removesuffix(".dist-info").partition("-") for path in directory.glob("*.dist-info")]
    manifest = {
        "runtime": runtime,
        "architecture": architecture,
        "bytecode": bytecode,
        "awsServices": AWS_SERVICES,
        "packages": {name: version for name, _, version in sorted(names)},
    }
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def report(artifact: Path) -> dict[str, Any]:
    """What is in an artifact: its manifest, and for each top-level entry the bytes of its files.

    Raises BuildError if the directory is no artifact.
    """
    if not (artifact / MANIFEST).is_file():
        raise BuildError(f"{artifact} is no artifact: run `sam build` first.")
    entries: dict[str, dict[str, int]] = {}
    for path in sorted(p for p in artifact.rglob("*") if p.is_file()):
        relative, content = path.relative_to(artifact), path.read_bytes()
        entry = entries.setdefault(relative.parts[0], dict.fromkeys(COLUMNS, 0))
        kind = {".py": "source", ".pyc": "bytecode", ".so": "native"}.get(path.suffix, "data")
        entry["files"] += 1
        entry[kind] += len(content)
        entry["total"] += len(content)
        # The zip's own record of a file takes 76 bytes and its name twice (APPNOTE.TXT 4.3.7 and 4.3.12).
        entry["zipped"] += len(zlib.compress(content)) + 76 + 2 * len(str(relative))
    totals = {column: sum(entry[column] for entry in entries.values()) for column in COLUMNS}
    return {**json.loads((artifact / MANIFEST).read_bytes()), "entries": entries, "totals": totals}


def print_table(contents: dict[str, Any]) -> None:
    """Print what `report` found, largest first, in kilobytes."""
    print("{runtime} {architecture}, bytecode: {bytecode}, AWS services: ".format(**contents), end="")
    print(", ".join(contents["awsServices"]))
    print(f"\n{'':34}" + "".join(f"{column:>10}" for column in COLUMNS))
    rows = sorted(contents["entries"].items(), key=lambda item: -item[1]["total"])
    for name, entry in [*rows, ("total (kB)", contents["totals"])]:
        sizes = "".join(f"{entry[column] / 1000:10.1f}" for column in COLUMNS[1:])
        print(f"{name:34}{entry['files']:10}{sizes}")


def main(arguments: list[str] | None = None) -> int:
    """Build or report; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifact", type=Path, help="the directory to fill, or with --report to look at")
    parser.add_argument(
        "--report", action="store_true", help="show what is in an artifact instead of building"
    )
    parser.add_argument("--json", action="store_true", help="with --report: as JSON, sizes in bytes")
    options = parser.parse_args(arguments)
    runtime = os.environ.get("LAMBDA_RUNTIME") or "python3.13"
    architecture = os.environ.get("LAMBDA_ARCHITECTURE") or "arm64"
    if runtime not in RUNTIMES:
        parser.error(f"LAMBDA_RUNTIME is {runtime!r}: choose from {', '.join(RUNTIMES)}")
    if architecture not in PLATFORMS:
        parser.error(f"LAMBDA_ARCHITECTURE is {architecture!r}: choose from {', '.join(PLATFORMS)}")
    try:
        if options.report:
            contents = report(options.artifact)
            print(json.dumps(contents, indent=2)) if options.json else print_table(contents)
        else:
            build(options.artifact, runtime, architecture)
    except (BuildError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
