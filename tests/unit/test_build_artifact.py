"""The build step behind `sam build`: what is in an artifact, what is not, and what happens when things go wrong."""

import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import build_artifact
from build_artifact import AWS_SERVICES, CACHE_DAYS, REQUIREMENTS, SOURCE, BuildError, cached

RUNTIME = f"python3.{sys.version_info.minor}"
SOURCES = sorted((SOURCE / "orders").rglob("*.py"))
ELF_MACHINES = {"x86_64": 0x3E, "arm64": 0xB7}  # System V ABI, e_machine

pytestmark = pytest.mark.skipif(
    RUNTIME not in build_artifact.RUNTIMES, reason="Lambda has no runtime for this Python"
)


def digests(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in build_artifact.files(directory)
    }


def make(source: Path, artifact: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """Runs what SAM runs: another working directory, its own ARTIFACTS_DIR, a target named like the function."""
    return subprocess.run(
        ["make", "--makefile", str(source / "Makefile"), "build-AcceptOrderFunction"],
        cwd=cache,
        env={
            **os.environ,
            "ARTIFACTS_DIR": str(artifact),
            "BUILD_CACHE_DIR": str(cache),
            "LAMBDA_RUNTIME": RUNTIME,
            "LAMBDA_ARCHITECTURE": "native",
            "PYTHON": sys.executable,
        },
        capture_output=True,
        text=True,
        check=True,
    )


def run_in(artifact: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Runs code as Lambda would: nothing but the artifact and the standard library can be imported."""
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(artifact)!r})\n{code}"],
        env={
            **{name: "some" for path in SOURCES for name in re.findall(r"environ\[\"(\w+)", path.read_text())},
            "PAYMENT_PROVIDER": "simulated",
            "WAREHOUSE": "simulated",
            "MAILER": "simulated",
            "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "LAMBDA_TASK_ROOT": str(artifact),
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, which somebody may be editing."""
    directory = tmp_path_factory.mktemp("source") / "src"
    shutil.copytree(SOURCE, directory, ignore=shutil.ignore_patterns("__pycache__"))
    return directory


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, source: Path, cache: Path) -> Path:
    directory = tmp_path_factory.mktemp("sam") / "AcceptOrderFunction"
    make(source, directory, cache)
    return directory


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "cache"
    monkeypatch.setenv("BUILD_CACHE_DIR", str(directory))
    return directory


def filler(calls: list[Path]) -> Callable[[Path], None]:
    def fill(directory: Path) -> None:
        calls.append(directory)
        (directory / "file").write_text("content")

    return fill


# What is in the artifact


def test_the_pinned_requirements_are_those_of_the_lock_file() -> None:
    # GIVEN the arguments that src/Makefile exports with
    group = ["--only-group", "deployed", "--no-emit-project"]
    arguments = ["export", "--frozen", "--quiet", *group, "--no-annotate", "--no-header"]
    # WHEN
    exported = subprocess.run(
        [*build_artifact.find_uv(), *arguments], cwd=SOURCE.parent, capture_output=True, text=True, check=True
    )
    # THEN
    assert exported.stdout == REQUIREMENTS.read_text(), "run: make -C src requirements.txt"


def test_every_module_of_the_package_imports_from_the_artifact_alone(artifact: Path) -> None:
    # GIVEN
    names = [".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in SOURCES]
    # WHEN
    done = run_in(artifact, f"import importlib\nfor name in {names!r}: importlib.import_module(name)")
    # THEN
    assert done.returncode == 0, done.stderr


def test_a_client_can_be_made_for_each_service_on_the_list(artifact: Path) -> None:
    # WHEN
    done = run_in(
        artifact,
        f"import boto3\nfor name in {AWS_SERVICES!r}: print(boto3.client(name).meta.endpoint_url)",
    )
    # THEN the endpoints are those that the complete data gives
    assert done.stdout.split() == [
        "https://monitoring.eu-central-1.amazonaws.com",
        "https://dynamodb.eu-central-1.amazonaws.com",
        "https://streams.dynamodb.eu-central-1.amazonaws.com",
        "https://events.eu-central-1.amazonaws.com",
        "https://lambda.eu-central-1.amazonaws.com",
        "https://s3.eu-central-1.amazonaws.com",
        "https://sqs.eu-central-1.amazonaws.com",
        "https://states.eu-central-1.amazonaws.com",
    ], done.stderr


def test_a_client_for_any_other_service_says_that_it_was_trimmed_and_where(artifact: Path) -> None:
    # WHEN
    done = run_in(artifact, 'import boto3\nboto3.client("ec2")')
    # THEN
    assert "Unknown service: 'ec2'" in done.stderr
    assert "trimmed at build: see AWS_SERVICES in src/build_artifact.py" in done.stderr


def test_each_source_file_has_bytecode_that_no_date_can_make_stale(artifact: Path) -> None:
    # GIVEN
    sources = list(artifact.rglob("*.py"))
    # WHEN
    flags = {
        (path.parent / "__pycache__" / f"{path.stem}.{sys.implementation.cache_tag}.pyc").read_bytes()[4:8]
        for path in sources
    }
    # THEN (PEP 552: hash-based, not checked against the source)
    assert flags == {b"\x01\x00\x00\x00"}


def test_the_artifact_is_small_enough(artifact: Path) -> None:
    # WHEN
    totals = build_artifact.report(artifact)["totals"]
    # THEN
    assert totals["total"] <= 16_000_000
    assert totals["zipped"] <= 5_500_000


@pytest.mark.parametrize("architecture", ELF_MACHINES)
@pytest.mark.parametrize("runtime", build_artifact.RUNTIMES)
def test_native_code_is_for_the_target_whatever_machine_builds(
    tmp_path: Path, runtime: str, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN the dependencies that have native code
    pins = re.findall(r"^(?:msgspec|wrapt)==.*\n(?: .*\n)+", REQUIREMENTS.read_text(), re.MULTILINE)
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("".join(pins))
    monkeypatch.setattr(build_artifact, "REQUIREMENTS", requirements)
    # WHEN
    build_artifact.install(tmp_path / "wheels", runtime, architecture)
    # THEN
    libraries = list(tmp_path.rglob("*.so"))
    assert len(libraries) == 2
    for path in libraries:
        assert runtime.replace("python", "cpython-").replace(".", "") in path.name
        assert int.from_bytes(path.read_bytes()[18:20], "little") == ELF_MACHINES[architecture]


def test_the_same_input_gives_the_same_bytes(source: Path, artifact: Path, tmp_path: Path) -> None:
    # WHEN everything is built once more from nothing
    make(source, tmp_path / "again", tmp_path)
    # THEN
    assert digests(tmp_path / "again") == digests(artifact)


def test_the_report_adds_up_and_names_versions(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # WHEN
    code = build_artifact.main(["--report", "--json", str(artifact)])
    # THEN
    contents = json.loads(capsys.readouterr().out)
    assert code == 0
    assert contents["totals"]["total"] == sum(path.stat().st_size for path in build_artifact.files(artifact))
    assert contents["totals"]["files"] == len(build_artifact.files(artifact))
    assert f"boto3=={contents['packages']['boto3']}" in REQUIREMENTS.read_text()
    assert contents["runtime"] == RUNTIME


def test_each_service_can_be_called_with_what_is_left_of_its_model(artifact: Path) -> None:
    # GIVEN AWS answers every request with nothing
    code = """
import boto3
from botocore.awsrequest import AWSResponse

class Body:
    def __init__(self, content):
        self.content = content

    def stream(self, **arguments):
        return iter([self.content])

def answer(request, **arguments):
    return AWSResponse(request.url, 200, {}, Body(b"" if "s3." in request.url else b"{}"))

for service, operation, arguments in CALLS:
    client = boto3.client(service)
    client.meta.events.register("before-send", answer)
    print(getattr(client, operation)(**arguments)["ResponseMetadata"]["HTTPStatusCode"])
"""
    calls = [
        ("cloudwatch", "describe_alarms", {"AlarmNames": ["late"]}),
        ("dynamodb", "put_item", {"TableName": "orders", "Item": {"orderId": {"S": "1"}}}),
        ("dynamodbstreams", "get_records", {"ShardIterator": "shard"}),
        ("events", "put_events", {"Entries": [{"Source": "orders", "DetailType": "OrderPlaced", "Detail": "{}"}]}),
        ("lambda", "invoke", {"FunctionName": "receipts", "InvocationType": "Event", "Payload": b"{}"}),
        ("s3", "put_object", {"Bucket": "receipts", "Key": "1", "Body": b"receipt", "ContentType": "text/plain"}),
        ("s3", "get_object", {"Bucket": "receipts", "Key": "1"}),
        ("sqs", "send_message", {"QueueUrl": "https://sqs.eu-central-1.amazonaws.com/1/q", "MessageBody": "{}"}),
        ("stepfunctions", "start_execution", {"stateMachineArn": "a", "input": "{}"}),
    ]
    assert {service for service, *_ in calls} == set(AWS_SERVICES)
    # WHEN
    done = run_in(artifact, f"CALLS = {calls!r}\n{code}")
    # THEN
    assert done.stdout.split() == ["200"] * len(calls), done.stderr


def test_boto3s_resources_work_without_the_makers_of_docstrings(artifact: Path) -> None:
    # GIVEN what is not there
    code = 'import boto3\nprint(repr(boto3.resource("dynamodb").Table("orders").put_item.__doc__))'
    # WHEN
    done = run_in(artifact, code)
    # THEN
    assert done.stdout == "''\n", done.stderr


def test_a_model_loses_its_texts_and_no_member() -> None:
    # GIVEN a structure with a member that is called documentation
    members = {"documentation": {"shape": "String", "documentation": "What it says."}}
    model = {"shapes": {"Page": {"type": "structure", "members": members, "documentation": "A page."}}}
    # WHEN
    slim = build_artifact.without_documentation(model)
    # THEN
    members = {"documentation": {"shape": "String", "documentation": ""}}
    assert slim == {"shapes": {"Page": {"type": "structure", "members": members, "documentation": ""}}}


# Building again, half-way, without permission


def test_building_again_replaces_what_was_there(source: Path, artifact: Path, cache: Path, tmp_path: Path) -> None:
    # GIVEN a build that died half-way: it has the manifest, lacks a package, and has a file of an older version
    half = tmp_path / "half"
    shutil.copytree(artifact, half)
    shutil.rmtree(half / "boto3")
    (half / "gone.py").write_text("")
    # WHEN
    make(source, half, cache)
    # THEN
    assert digests(half) == digests(artifact)


def test_a_directory_that_no_build_made_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # GIVEN
    (tmp_path / "thesis.txt").write_text("years of work")
    # WHEN
    code = build_artifact.main([str(tmp_path)])
    # THEN
    assert code == 1
    assert "name an empty directory" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_builds_at_the_same_time_share_one_that_fills_the_cache(empty_cache: Path) -> None:
    # GIVEN
    calls: list[Path] = []
    seen: list[str] = []

    def use() -> None:
        with cached("part", [b"key"], filler(calls)) as directory:
            seen.append((directory / "file").read_text())

    threads = [threading.Thread(target=use) for _ in range(6)]
    # WHEN
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # THEN
    assert len(calls) == 1
    assert seen == ["content"] * 6


def test_what_a_failed_or_killed_build_left_is_never_used(empty_cache: Path) -> None:
    # GIVEN
    def fail(directory: Path) -> None:
        (directory / "half").write_text("half")
        raise BuildError("no wheel")

    with pytest.raises(BuildError), cached("part", [b"key"], fail):
        pass
    # WHEN
    calls: list[Path] = []
    with cached("part", [b"key"], filler(calls)) as directory:
        names = [path.name for path in directory.iterdir()]
    # THEN
    assert names == ["file"]
    assert not list(empty_cache.glob("*.partial"))


def test_another_input_is_another_entry(empty_cache: Path) -> None:
    # WHEN
    with cached("part", [b"a", b"b"], filler([])) as first, cached("part", [b"ab", b""], filler([])) as second:
        # THEN
        assert first != second


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BUILD_CACHE_DIR", str(tmp_path / "file" / "cache"))
    # WHEN
    with cached("part", [b"key"], filler([])) as directory:
        content = (directory / "file").read_text()
    # THEN
    assert content == "content"
    assert not directory.exists()


def test_entries_go_once_no_build_has_used_them_for_long(empty_cache: Path) -> None:
    # GIVEN
    with cached("part", [b"old"], filler([])) as old, cached("part", [b"used"], filler([])) as used:
        pass
    long_ago = time.time() - (CACHE_DAYS + 1) * 86_400
    for directory in (old, used):
        os.utime(directory, (long_ago, long_ago))
    with cached("part", [b"used"], filler([])):
        pass
    # WHEN
    with cached("part", [b"new"], filler([])):
        pass
    # THEN
    assert not old.exists()
    assert used.exists()


def test_a_cached_file_cannot_be_changed_through_one_artifact(artifact: Path) -> None:
    # GIVEN files that all functions' artifacts share
    # THEN
    assert {path.stat().st_mode & 0o222 for path in build_artifact.files(artifact)} == {0}


# What the person at the terminal is told


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ('import boto3\nclient = boto3.client("ec2")', "task.py uses ec2, which is trimmed: see AWS_SERVICES"),
        (
            "def parse():\n    from aws_lambda_powertools.utilities.parser import parse",
            "task.py imports aws_lambda_powertools.utilities.parser, which is trimmed: see TRIMMED",
        ),
    ],
)
def test_code_that_needs_what_is_trimmed_stops_the_build(
    artifact: Path, tmp_path: Path, code: str, message: str
) -> None:
    # GIVEN
    (tmp_path / "task.py").write_text(code)
    # WHEN
    with pytest.raises(BuildError) as error:
        build_artifact.refuse_trimmed(tmp_path, artifact)
    # THEN
    assert message in str(error.value)


def test_where_no_interpreter_can_be_had_the_build_goes_on_and_says_so(
    tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # GIVEN
    monkeypatch.setattr(build_artifact, "find_interpreter", lambda runtime: None)
    monkeypatch.setattr(build_artifact, "fetch_interpreter", lambda runtime: None)
    monkeypatch.setenv("LAMBDA_ARCHITECTURE", "native")
    monkeypatch.setenv("LAMBDA_RUNTIME", RUNTIME)
    # WHEN
    code = build_artifact.main([str(tmp_path / "artifact")])
    # THEN
    assert code == 0
    assert f"No {RUNTIME} here" in capsys.readouterr().out
    assert not list((tmp_path / "artifact").rglob("*.pyc"))
    assert (tmp_path / "artifact" / "orders" / "__init__.py").exists()


def test_without_uv_the_build_says_how_to_get_it(
    tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # GIVEN
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    # WHEN
    code = build_artifact.main([str(tmp_path / "artifact")])
    # THEN
    assert code == 1
    assert "uv is needed to build: `make` at the top of the checkout installs it" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "value"), [("LAMBDA_RUNTIME", "python2.7"), ("LAMBDA_ARCHITECTURE", "z80")])
def test_an_unknown_target_is_refused_with_the_known_ones(
    tmp_path: Path,
    name: str,
    value: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # GIVEN
    monkeypatch.setenv(name, value)
    # WHEN
    with pytest.raises(SystemExit) as exit_:
        build_artifact.main([str(tmp_path)])
    # THEN
    assert exit_.value.code == 2
    assert f"{name} is '{value}': choose from" in capsys.readouterr().err


def test_a_wheel_that_cannot_be_had_gives_the_tools_own_words(
    tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # GIVEN
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(f"msgspec==0.0.999 --hash=sha256:{'0' * 64}\n")
    monkeypatch.setattr(build_artifact, "REQUIREMENTS", requirements)
    monkeypatch.setenv("UV_OFFLINE", "1")
    # WHEN
    code = build_artifact.main([str(tmp_path / "artifact")])
    # THEN
    assert code == 1
    assert "uv could not install for python3.13 arm64" in capsys.readouterr().err
    assert not (tmp_path / "artifact").exists()


# ---- What a machine needs


def as_python(version: tuple[int, ...], platform: str = "linux") -> subprocess.CompletedProcess[str]:
    """Runs the script by a Python that says it is another version, on another system."""
    code = f"import sys; sys.version_info = {version}; sys.platform = {platform!r}; sys.argv = ['build', '--help']; "
    code += f"import runpy; runpy.run_path({str(SOURCE / 'build_artifact.py')!r}, run_name='__main__')"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("version", [(3, 6), (3, 8), (3, 9, 18)])
def test_an_older_python_is_refused_by_a_sentence(version: tuple[int, ...]) -> None:
    ended = as_python(version)
    assert ended.returncode == 1
    assert ended.stderr.startswith("Python 3.10 or newer is needed to build, and ")
    assert ended.stderr.count("\n") == 1


def test_an_older_python_reads_the_script_to_that_sentence() -> None:
    # A syntax that Python doesn't know would end in a traceback before anything runs.
    ast.parse((SOURCE / "build_artifact.py").read_text(), feature_version=(3, 6))


def test_python_3_10_builds() -> None:
    assert as_python((3, 10, 0)).returncode == 0


def test_windows_is_told_where_to_build() -> None:
    ended = as_python((3, 12, 0), platform="win32")
    assert ended.returncode == 1
    assert "Windows Subsystem for Linux" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_no_python_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as raised:
        make_with(tmp_path, PYTHON="python-of-nobody")
    assert "Python 3.10 or newer is needed to build, and there is no python-of-nobody" in raised.value.stderr


@pytest.mark.parametrize("version", ["uv 0.8.22", "uv 0.4.1 (abc 2024-08-28)", "something else"])
def test_an_older_uv_is_refused_by_a_sentence(tmp_path: Path, version: str) -> None:
    uv = tmp_path / "uv"
    uv.write_text(f"#!/bin/sh\necho '{version}'\n")
    uv.chmod(0o755)
    with pytest.raises(subprocess.CalledProcessError) as raised:
        make_with(tmp_path, UV=str(uv))
    assert f"uv 0.9 or newer is needed to build, and {uv} is {version}" in raised.value.stderr


def make_with(folder: Path, **environment: str) -> None:
    """Builds for SAM with nothing in the cache."""
    command = ["make", "--makefile", str(SOURCE / "Makefile"), "build-AcceptOrderFunction"]
    given = {
        "ARTIFACTS_DIR": str(folder / "artifact"),
        "BUILD_CACHE_DIR": str(folder / "cache"),
        "LAMBDA_RUNTIME": RUNTIME,
        "LAMBDA_ARCHITECTURE": "native",
        "PYTHON": sys.executable,
    }
    subprocess.run(command, env={**os.environ, **given, **environment}, capture_output=True, text=True, check=True)
