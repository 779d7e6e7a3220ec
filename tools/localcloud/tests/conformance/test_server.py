"""How the server starts and stops."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conformance.support import (
    PYTHON,
    LocalCloud,
    command,
    environment,
    eventually,
    free_port,
    start,
    table_with_stream,
)

SOURCES = Path(__file__).parents[2] / "src"
FUNCTION = "import os\ndef handler(event, context): return os.getpid()\n"

pytestmark = [
    pytest.mark.skipif(not PYTHON.exists(), reason="localcloud is not installed"),
    pytest.mark.skipif(bool(os.environ.get("LOCALCLOUD_BARE")), reason="MiniStack's own server is another one"),
]


def run(*options: str, port: int, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a server that ends by itself."""
    return subprocess.run(
        command(port, directory, *options),
        cwd=directory,
        env=environment(directory),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def alive(pid: int) -> bool:
    """Whether a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_function_process_outlives_the_server(tmp_path: Path, number: signal.Signals) -> None:
    # GIVEN a server with a warm function
    server, cloud = start(free_port(), tmp_path)
    try:
        _, worker = cloud.invoke(cloud.function(FUNCTION))
        assert alive(worker)
        # WHEN the server ends
        server.send_signal(number)
        server.wait(timeout=20)
        # THEN the function's process ends too
        eventually(lambda: not alive(worker))
    finally:
        server.kill()
        server.wait()
    # THEN a server that was not killed leaves nothing but the log
    assert number == signal.SIGKILL or {each.name for each in tmp_path.rglob("*")} == {"server.log", "tmp"}


def test_state_survives_a_restart_with_persistence(tmp_path: Path) -> None:
    # GIVEN a server with persistence, a queue with a message and a function
    port = free_port()
    server, cloud = start(port, tmp_path, "--persist")
    try:
        queue, function = cloud.queue(), cloud.function(FUNCTION)
        queue.send({"item": 1})
        server.terminate()
        assert server.wait(timeout=20) == 0
        # WHEN it is started again
        server, cloud = start(port, tmp_path, "--persist")
        # THEN both are there
        assert queue.next()["Body"] == '{"item": 1}'
        assert cloud.invoke(function)[0] is None
    finally:
        server.kill()
        server.wait()


def test_a_killed_server_leaves_what_its_last_clean_stop_has_saved(tmp_path: Path) -> None:
    # GIVEN a server that was stopped with one object in a bucket, and started again
    port = free_port()
    server, cloud = start(port, tmp_path, "--persist")
    try:
        cloud.client("s3").create_bucket(Bucket="documents")
        put(cloud, "first")
        server.terminate()
        assert server.wait(timeout=20) == 0
        server, cloud = start(port, tmp_path, "--persist")
        # WHEN it is killed after a second object, which MiniStack has written through
        put(cloud, "second")
        server.kill()
        server.wait()
        server, cloud = start(port, tmp_path, "--persist")
        # THEN bucket and objects are as they were saved together
        assert [each["Key"] for each in cloud.client("s3").list_objects_v2(Bucket="documents")["Contents"]] == [
            "first"
        ]
    finally:
        server.kill()
        server.wait()


def put(cloud: LocalCloud, key: str) -> None:
    """Put an object into the bucket."""
    cloud.client("s3").put_object(Bucket="documents", Key=key, Body=b"x")


def test_a_damaged_state_is_not_loaded_in_part(tmp_path: Path) -> None:
    # GIVEN a saved state with a damaged file
    port = free_port()
    server, cloud = start(port, tmp_path, "--persist")
    try:
        cloud.queue()
        server.terminate()
        assert server.wait(timeout=20) == 0
    finally:
        server.kill()
        server.wait()
    (tmp_path / "data" / "saved" / "state" / "sqs.json").write_text("{")
    # WHEN a server is started with it
    ended = run("--persist", port=port, directory=tmp_path)
    # THEN it refuses, and names the service
    assert ended.returncode == 1
    assert "The saved state of sqs can't be read." in ended.stderr + ended.stdout


def test_an_api_that_is_made_anew_has_the_same_address(cloud: LocalCloud) -> None:
    # GIVEN an API, made and removed
    apis = cloud.client("apigateway")
    first = apis.create_rest_api(name="made-anew")["id"]
    apis.delete_rest_api(restApiId=first)
    # WHEN it is made again, twice
    again, another = (apis.create_rest_api(name="made-anew")["id"] for _ in range(2))
    # THEN it has its id again, and the second one has another
    assert again == first != another


def test_what_is_on_a_stream_is_there_after_a_restart(tmp_path: Path) -> None:
    # GIVEN a server with persistence, and a table whose stream has two records
    port = free_port()
    server, cloud = start(port, tmp_path, "--persist")
    try:
        name, arn = table_with_stream(cloud)
        for each in ("1", "2"):
            cloud.client("dynamodb").put_item(TableName=name, Item={"id": {"S": each}})
        before = [record["eventID"] for record in records_on(cloud, arn)]
        server.terminate()
        assert server.wait(timeout=20) == 0
        # WHEN it is started again and a third is written
        server, cloud = start(port, tmp_path, "--persist")
        cloud.client("dynamodb").put_item(TableName=name, Item={"id": {"S": "3"}})
        # THEN a reader finds all of them
        found = records_on(cloud, arn)
        assert [record["dynamodb"]["Keys"]["id"]["S"] for record in found] == ["1", "2", "3"]
        assert [record["eventID"] for record in found[:2]] == before
    finally:
        server.kill()
        server.wait()


def records_on(cloud: LocalCloud, stream: str) -> list[Any]:
    """All records of a stream with one shard."""
    streams = cloud.client("dynamodbstreams")
    (shard,) = streams.describe_stream(StreamArn=stream)["StreamDescription"]["Shards"]
    iterator = streams.get_shard_iterator(
        StreamArn=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
    )["ShardIterator"]
    return list(streams.get_records(ShardIterator=iterator)["Records"])


def test_a_port_in_use_is_one_sentence(cloud: LocalCloud, tmp_path: Path) -> None:
    # GIVEN a port on which a server listens
    port = int(cloud.endpoint.rsplit(":", 1)[1])
    # WHEN another one is started there
    ended = run(port=port, directory=tmp_path)
    # THEN it says so
    assert ended.returncode == 1
    assert ended.stderr.strip() == f"Port {port} on 127.0.0.1 is in use. Choose another one with --port."


@pytest.mark.parametrize(
    ("sabotage", "sentence"),
    [
        ("import importlib.metadata as m; m.version = lambda name: '9.9'", "9.9 is installed"),
        ("import ministack.services.sqs as s; del s._dlq_sweep", "no longer has ministack.services.sqs._dlq_sweep"),
    ],
)
def test_another_ministack_is_one_sentence(tmp_path: Path, sabotage: str, sentence: str) -> None:
    # GIVEN a MiniStack of another version, or without something that is needed
    arguments = command(free_port(), tmp_path)[3:]
    script = f"{sabotage}\nfrom localcloud.server import main\nmain({arguments!r})"
    # WHEN the server is started
    ended = subprocess.run(
        [str(PYTHON), "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    # THEN it refuses, and says why in a line
    assert ended.returncode == 1
    assert sentence in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_the_corrections_are_listed(tmp_path: Path) -> None:
    # WHEN the corrections are asked for
    ended = run("--list-corrections", "--json", port=free_port(), directory=tmp_path)
    # THEN each says what it corrects
    corrections = json.loads(ended.stdout)
    assert len({each["name"] for each in corrections}) == len(corrections) > 20
    assert {"name", "service", "aws", "ministack", "here"} == set(corrections[0])


def test_the_server_runs_where_it_is_installed_only(tmp_path: Path) -> None:
    # GIVEN an interpreter without MiniStack
    script = f"import sys; sys.path.insert(0, {str(SOURCES)!r})\nfrom localcloud.server import main\nmain([])"
    # WHEN the server is started with it
    ended = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    # THEN it says what is missing
    assert ended.returncode == 1
    assert "MiniStack is not installed here" in ended.stderr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--port", "70000"], "70000 is not a port"),
        (["--tmp-dir", "/dev/null"], "/dev/null/localcloud-"),
        (["--persist", "--data-dir", "/dev/null/data"], "/dev/null/data/live can't be used: Not a directory."),
        (["--python", "/nowhere/python"], "Functions can't run on /nowhere/python"),
    ],
    ids=["port", "temporary directory", "data directory", "interpreter"],
)
def test_a_setting_that_cannot_be_used_is_one_sentence(tmp_path: Path, options: list[str], sentence: str) -> None:
    # WHEN a server is started with a setting that can't be used
    ended = run(*options, port=free_port(), directory=tmp_path)
    # THEN it ends with a sentence, and without a trace
    assert ended.returncode in (1, 2)
    assert sentence in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_the_command_is_installed_and_explains_itself() -> None:
    # WHEN the installed command is asked for its help and its version
    answers = [
        subprocess.run([PYTHON.parent / "localcloud", option], capture_output=True, text=True, check=True).stdout
        for option in ("--help", "--version")
    ]
    # THEN the help has examples, and the version names MiniStack's
    assert "examples:\n  localcloud " in answers[0]
    assert re.fullmatch(r"localcloud \d+\.\d+\.\d+ \(MiniStack \d+\.\d+\.\d+\)\n", answers[1])


def test_a_server_says_when_it_is_ready(tmp_path: Path) -> None:
    # GIVEN a server that answers
    port = free_port()
    server, _ = start(port, tmp_path, "--log-level", "WARNING")
    try:
        # THEN its output soon ends with its address
        log = tmp_path / "server.log"
        eventually(lambda: log.read_text().endswith(f"is ready on http://127.0.0.1:{port}. Ctrl-C stops it.\n"))
    finally:
        server.terminate()
        server.wait(timeout=20)
