#!/usr/bin/env python3
"""Build the artifact of a Lambda function: this package, its dependencies, and bytecode for both.

`sam build` runs this script for every function, several at the same time. All functions share one artifact. The
script makes the artifact once, caches it under a hash of its inputs, and links it into each build directory.
"""
# ruff: noqa: T201 - what this prints is for the person who runs `sam build`

import sys

# Before anything that an older Python doesn't know, so that `sam build` ends with a sentence and no traceback.
if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit(
        f"Python 3.10 or newer is needed to build, and {sys.executable} is "
        f"{sys.version_info[0]}.{sys.version_info[1]}: name a newer one, e.g. `PYTHON=python3.12 sam build`."
    )
if sys.platform == "win32":
    sys.exit("Windows can't build: run `sam build` in the Windows Subsystem for Linux.")

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
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Every AWS service that a function may call, by its boto3 name. boto3's data for all others is trimmed.
AWS_SERVICES = ("cloudwatch", "dynamodb", "dynamodbstreams", "events", "lambda", "s3", "sqs", "stepfunctions")

# Files that no function uses. METADATA stays: vulnerability scanners read it.
TRIMMED = (
    "bin",
    ".lock",
    "**/*.pyi",
    "**/py.typed",
    "**/examples-1.json",
    "boto3/examples",
    "aws_lambda_powertools/event_handler/openapi/swagger_ui/*.min.*",
    "aws_lambda_powertools/utilities/auth_alpha",
    "aws_lambda_powertools/utilities/circuit_breaker",
    "aws_lambda_powertools/utilities/data_masking",
    "aws_lambda_powertools/utilities/feature_flags",
    "aws_lambda_powertools/utilities/kafka",
    "aws_lambda_powertools/utilities/parser",
    "aws_lambda_powertools/utilities/streaming",
    "*.dist-info/[!M]*",
)

# Replaces every docstring class of boto3 and botocore.
NO_DOCSTRINGS = """
class NoDocstring(str):
    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        pass


def __getattr__(name):
    if name.endswith("Docstring"):
        return NoDocstring
    raise AttributeError(name)
"""

# manylinux2014 wheels run on both base systems of Lambda's Python runtimes, Amazon Linux 2 and 2023.
PLATFORMS = {"x86_64": "x86_64-manylinux2014", "arm64": "aarch64-manylinux2014", "native": None}
RUNTIMES = ("python3.11", "python3.12", "python3.13", "python3.14")
SOURCE = Path(__file__).resolve().parent
REQUIREMENTS = SOURCE / "requirements.txt"
MANIFEST = "artifact.json"
CACHE_DAYS = 14
UV_NEEDED = (0, 9)  # scripts/install asks for the same
COLUMNS = ("files", "source", "bytecode", "native", "data", "total", "zipped")

HELP = f"""
needs:
  Python 3.10 or newer (PYTHON=... names one for `sam build`), make, and uv 0.9 or newer, on Linux, macOS or WSL

environment:
  LAMBDA_RUNTIME       {", ".join(RUNTIMES)} (default python3.13)
  LAMBDA_ARCHITECTURE  {", ".join(PLATFORMS)} (default arm64; native: for this machine)
  BUILD_CACHE_DIR      where builds are kept (default .local/build-cache of the checkout; outside of one
                       order-pipeline-build in the user's cache directory)

examples:
  make -f src/Makefile build-AcceptOrderFunction ARTIFACTS_DIR=/tmp/artifact
  LAMBDA_RUNTIME=python3.12 LAMBDA_ARCHITECTURE=x86_64 python3 src/build_artifact.py /tmp/artifact
  python3 src/build_artifact.py --report .aws-sam/build/AcceptOrderFunction

exit codes: 0 done, 1 the build failed, 2 wrong usage"""


class BuildError(Exception):
    """The artifact can't be built; the message says what to do."""


def build(artifact: Path, runtime: str, architecture: str) -> None:
    """Fill the directory `artifact`: created if missing, replaced if an earlier build made it.

    Raises BuildError if a tool or a wheel is missing, if the code needs a trimmed module, or if the directory holds
    files of somebody else.
    """
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
        shutil.copytree(SOURCE / "orders", directory / "orders", ignore=shutil.ignore_patterns("__pycache__"))
        refuse_trimmed(directory / "orders", dependencies)
        compile_bytecode(directory, find_interpreter(runtime))

    platform = sys.platform if architecture == "native" else ""
    target = f"{runtime} {architecture} {platform} {bool(interpreter)}".encode()
    key = [target, Path(__file__).read_bytes(), REQUIREMENTS.read_bytes()]
    sources = [path for path in files(SOURCE / "orders") if path.suffix != ".pyc"]
    source_key = [part for path in sources for part in (str(path.relative_to(SOURCE)).encode(), path.read_bytes())]
    with contextlib.ExitStack() as stack:
        dependencies = stack.enter_context(cached("dependencies", key, fill_dependencies))
        application = stack.enter_context(cached("application", [*key, *source_key], fill_application))
        # The manifest is removed last and written first: it marks a half-filled directory as ours.
        if artifact.is_dir():
            for path in sorted(artifact.iterdir(), key=lambda path: path.name == MANIFEST):
                remove(path)
        artifact.mkdir(parents=True, exist_ok=True)
        (artifact / MANIFEST).touch()
        for part in (dependencies, application):
            shutil.copytree(part, artifact, copy_function=link_or_copy, dirs_exist_ok=True)
    if not json.loads((artifact / MANIFEST).read_bytes())["bytecode"]:
        print(
            f"No {runtime} here, and uv could not fetch one: this artifact has no bytecode, which makes "
            "a cold start two to three times as long."
        )


@contextlib.contextmanager
def cached(name: str, key: list[bytes], fill: Callable[[Path], None]) -> Iterator[Path]:
    """Yield a read-only directory that `fill` has filled for this key, now or in an earlier build.

    One process fills the directory, the others wait for its lock. A directory gets its final name when it is
    complete, so an abandoned one is never used. If the cache can't be written, a temporary directory is used.
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
                for path in files(partial):
                    path.chmod(0o555 if path.suffix == ".so" else 0o444)
                partial.rename(final)
            os.utime(final)
            fcntl.flock(lock, fcntl.LOCK_UN)
        yield final


def cache_directory() -> Path:
    """The checkout's .local/, so that deleting the checkout leaves nothing behind; else the user's cache."""
    if "BUILD_CACHE_DIR" in os.environ:
        return Path(os.environ["BUILD_CACHE_DIR"])
    if (SOURCE.parent / "uv.lock").exists():
        return SOURCE.parent / ".local" / "build-cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "order-pipeline-build"


def remove_unused(cache: Path) -> None:
    """Remove directories that no build used for CACHE_DAYS, and half-filled ones. The caller holds the lock."""
    for path in cache.iterdir():
        if path.suffix == ".partial" or path.stat().st_mtime < time.time() - CACHE_DAYS * 86_400:
            remove(path)


def remove(path: Path) -> None:
    """Remove a file or a directory tree, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def files(directory: Path) -> list[Path]:
    """Every file below the directory, in a fixed order."""
    return sorted(path for path in directory.rglob("*") if path.is_file())


def link_or_copy(source: str, target: str) -> None:
    """Link a file from the cache into an artifact; copying a thousand files takes five times as long."""
    remove(Path(target))
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def find_uv() -> list[str]:
    """The command that starts uv. Raises BuildError where there is none."""
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv:
        return [uv]
    if output([sys.executable, "-m", "uv", "--version"]):
        return [sys.executable, "-m", "uv"]
    raise BuildError(
        "uv is needed to build: `make` at the top of the checkout installs it, "
        "or see https://docs.astral.sh/uv/getting-started/installation/."
    )


def check_uv() -> None:
    """Raise BuildError if uv is older than UV_NEEDED."""
    found = output([*find_uv(), "--version"])
    version = re.match(r"uv (\d+)\.(\d+)", found)
    if not version or (int(version[1]), int(version[2])) < UV_NEEDED:
        raise BuildError(
            "uv {}.{} or newer is needed to build, and {} is {}: `make` at the top of the checkout installs one, "
            "or run `uv self update`.".format(*UV_NEEDED, find_uv()[0], found or "none")
        )


def find_interpreter(runtime: str) -> str | None:
    """A CPython of the target version on this machine; bytecode of any other version is of no use."""
    version = runtime.removeprefix("python")
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()

    def candidates() -> Iterator[str | None]:
        yield sys.executable
        yield from (str(path) for path in sorted(pyenv.glob(f"versions/{version}.*/bin/{runtime}")))
        yield shutil.which(runtime)
        yield output([*find_uv(), "python", "find", "--managed-python", version])

    probe, tag = "import sys; print(sys.implementation.cache_tag)", f"cpython-{version.replace('.', '')}"
    return next((path for path in candidates() if path and output([path, "-c", probe]) == tag), None)


def fetch_interpreter(runtime: str) -> str | None:
    """Let uv download the interpreter; None where it can't (no network, downloads forbidden)."""
    output([*find_uv(), "python", "install", "--quiet", runtime.removeprefix("python")])
    return find_interpreter(runtime)


def output(command: list[str]) -> str:
    """The command's standard output, or an empty text if the command fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def install(directory: Path, runtime: str, architecture: str) -> None:
    """Unpack the locked wheels for the target into `directory`. Raises BuildError with uv's message."""
    platform = PLATFORMS[architecture]
    check_uv()
    command = [
        *find_uv(), "pip", "install", "--quiet", "--target", str(directory),
        "--requirement", str(REQUIREMENTS), "--require-hashes", "--only-binary", ":all:",
        "--python", sys.executable, "--python-version", runtime.removeprefix("python"),
        *(["--python-platform", platform] if platform else []),
        "--link-mode", "copy",  # a link would let trimming change uv's cache
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"uv could not install for {runtime} {architecture}:\n{done.stderr.strip()}")


def trim(directory: Path) -> None:
    """Remove from installed dependencies what no function uses. Raises BuildError if botocore changed."""
    for path in [path for pattern in TRIMMED for path in directory.glob(pattern)]:
        remove(path)
    data = directory / "botocore" / "data"
    for service in [*data.glob("*/"), *directory.glob("boto3/data/*/")]:
        versions = sorted(service.iterdir()) if service.is_dir() else []
        if service.is_dir() and service.name not in AWS_SERVICES:
            remove(service)
        for version in versions[:-1]:
            remove(version)

    # A cold start parses these files; four fifths of them are documentation and other services' endpoints.
    prefixes = set()
    for name in AWS_SERVICES:
        found = list(data.glob(f"{name}/*/service-2.json.gz"))
        if not found:
            raise BuildError(f"botocore has no service {name}: see AWS_SERVICES.")
        model = json.loads(gzip.decompress(found[0].read_bytes()))
        prefixes.add(model["metadata"]["endpointPrefix"])
        found[0].write_bytes(gzip.compress(to_json(without_documentation(model)), mtime=0))
    endpoints = json.loads((data / "endpoints.json").read_bytes())
    for partition in endpoints["partitions"]:
        partition["services"] = {k: v for k, v in partition["services"].items() if k in prefixes}
    (data / "endpoints.json").write_bytes(to_json(endpoints))

    # No documentation is left, so the docstring classes are not needed; importing them is a tenth of a cold start.
    for package in ("botocore", "boto3"):
        for path in (directory / package / "docs").iterdir():
            if path.name != "utils.py":
                remove(path)
        (directory / package / "docs" / "__init__.py").write_text("")
        (directory / package / "docs" / "docstring.py").write_text(NO_DOCSTRINGS)

    # This module asks for the version of h2, which is not deployed; its imports are a fiftieth of a cold start.
    (directory / "urllib3" / "http2" / "__init__.py").write_text("")

    # botocore shows this message for a trimmed service; the message must say why, and what to do.
    exceptions, placeholder = directory / "botocore" / "exceptions.py", '"{known_service_names}"'
    text = exceptions.read_text()
    if text.count(placeholder) != 1:
        raise BuildError("botocore words its UnknownServiceError differently now: adapt trim().")
    advice = ". The others were trimmed at build: see AWS_SERVICES in src/build_artifact.py"
    exceptions.write_text(text.replace(placeholder, f'{placeholder[:-1]}{advice}"'))


def without_documentation(model: Any) -> Any:
    """A service model, or a part of one, with empty documentation. The fields stay: botocore reads some of them."""
    if isinstance(model, dict):
        return {
            key: "" if key == "documentation" and isinstance(value, str) else without_documentation(value)
            for key, value in model.items()
        }
    return [without_documentation(part) for part in model] if isinstance(model, list) else model


def to_json(content: Any) -> bytes:
    """Compact JSON."""
    return json.dumps(content, separators=(",", ":")).encode()


def refuse_trimmed(package: Path, dependencies: Path) -> None:
    """Raise BuildError if the package imports a module, or makes a client, that the artifact lacks."""
    for path in package.rglob("*.py"):
        text = path.read_text()
        for service in re.findall(r"\b(?:client|resource)\(\s*[\"']([a-z0-9-]+)[\"']", text):
            if service not in AWS_SERVICES:
                raise BuildError(
                    f"{path.name} uses {service}, which is trimmed: see AWS_SERVICES in src/build_artifact.py"
                )
        for module in re.findall(r"^\s*(?:from|import) ([\w.]+)", text, re.MULTILINE):
            top, place = dependencies / module.split(".")[0], dependencies / module.replace(".", "/")
            if top.is_dir() and not place.is_dir() and not any(place.parent.glob(f"{place.name}.*")):
                raise BuildError(
                    f"{path.name} imports {module}, which is trimmed: see TRIMMED in src/build_artifact.py."
                )


def compile_bytecode(directory: Path, interpreter: str | None) -> None:
    """Put bytecode beside each source file: a function's file system is read-only, so Python can't write bytecode.

    The bytecode is unchecked: SAM dates every file in the zip 1980, so Python would take the bytecode for stale.
    """
    if interpreter:
        options = ["-q", "--invalidation-mode", "unchecked-hash", "-s", str(directory), "-p", "/var/task"]
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        subprocess.run([interpreter, "-m", "compileall", *options, str(directory)], env=environment, check=True)


def write_manifest(directory: Path, runtime: str, architecture: str, *, bytecode: bool) -> None:
    """Write the artifact's manifest: runtime, architecture, packages."""
    names = sorted(path.name.removesuffix(".dist-info") for path in directory.glob("*.dist-info"))
    manifest = {
        "runtime": runtime,
        "architecture": architecture,
        "bytecode": bytecode,
        "awsServices": AWS_SERVICES,
        "packages": {name.replace("_", "-"): version for name, _, version in (n.partition("-") for n in names)},
    }
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def report(artifact: Path) -> dict[str, Any]:
    """An artifact's manifest, and for each top-level entry the number of files and their bytes.

    Raises BuildError if the directory is no artifact.
    """
    if not (artifact / MANIFEST).is_file():
        raise BuildError(f"{artifact} is no artifact: run `sam build` first.")
    entries: dict[str, dict[str, int]] = {}
    for path in files(artifact):
        relative, content = path.relative_to(artifact), path.read_bytes()
        entry = entries.setdefault(relative.parts[0], dict.fromkeys(COLUMNS, 0))
        kind = {".py": "source", ".pyc": "bytecode", ".so": "native"}.get(path.suffix, "data")
        # The zip's own record of a file takes 76 bytes and its name twice (APPNOTE.TXT 4.3.7 and 4.3.12).
        zipped = len(zlib.compress(content)) + 76 + 2 * len(str(relative))
        for column, amount in (
            ("files", 1),
            (kind, len(content)),
            ("total", len(content)),
            ("zipped", zipped),
        ):
            entry[column] += amount
    totals = {column: sum(entry[column] for entry in entries.values()) for column in COLUMNS}
    return {**json.loads((artifact / MANIFEST).read_bytes()), "entries": entries, "totals": totals}


def print_table(contents: dict[str, Any]) -> None:
    """Print what `report` found, largest first, in kilobytes."""
    print("{runtime} {architecture}, bytecode: {bytecode}".format(**contents))
    print(f"AWS services: {', '.join(contents['awsServices'])}\n\n{'kB':40}", end="")
    print("".join(f"{column:>10}" for column in COLUMNS))
    rows = sorted(contents["entries"].items(), key=lambda row: -row[1]["total"])
    for name, entry in [*rows, ("total", contents["totals"])]:
        sizes = "".join(f"{entry[column] / 1000:10.1f}" for column in COLUMNS[1:])
        print(f"{name:40}{entry['files']:10}{sizes}")


def main(arguments: list[str] | None = None) -> int:
    """Build or report; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifact", type=Path, help="the directory to fill, or with --report to look at")
    parser.add_argument("--report", action="store_true", help="show what is in an artifact instead of building")
    parser.add_argument("--json", action="store_true", help="with --report: as JSON, sizes in bytes")
    options = parser.parse_args(arguments)
    runtime = os.environ.get("LAMBDA_RUNTIME") or "python3.13"
    architecture = os.environ.get("LAMBDA_ARCHITECTURE") or "arm64"
    for name, value, known in (
        ("LAMBDA_RUNTIME", runtime, RUNTIMES),
        ("LAMBDA_ARCHITECTURE", architecture, PLATFORMS),
    ):
        if value not in known:
            parser.error(f"{name} is {value!r}: choose from {', '.join(known)}")
    try:
        if options.report:
            contents = report(options.artifact)
            print(json.dumps(contents, indent=2)) if options.json else print_table(contents)
        else:
            build(options.artifact, runtime, architecture)
    except (BuildError, OSError, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
