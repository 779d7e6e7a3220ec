"""How the server starts and stops."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.support import (
    CLOUD_PYTHON,
    ROOT,
    LocalCloud,
    eventually,
    free_port,
    healthy,
    table_with_stream,
)
from tests.conformance.test_permissions import ANSWERER, allow, limited_role
from tests.conformance.test_stepfunctions import machine, token_on, waiting_for_token
from tests.conformance.test_stepfunctions import start as start_execution

FUNCTION = "import os\ndef handler(event, context): return os.getpid()\n"

pytestmark = [
    pytest.mark.skipif(not CLOUD_PYTHON.exists(), reason="the environment .local/venv-cloud is not installed"),
    pytest.mark.skipif(bool(os.environ.get("LOCALCLOUD_BARE")), reason="the server is our own"),
]


def command(port: int, directory: Path, *options: str) -> list[str]:
    """Return the command line of a server."""
    paths = ["--data-dir", str(directory / "data"), "--tmp-dir", str(directory / "tmp")]
    return [str(CLOUD_PYTHON), "-m", "localcloud.server", "--port", str(port), *paths, *options]


def run(*arguments: str, port: int, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a server that is expected to end by itself."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tools/localcloud/src")}
    line = command(port, directory, *arguments)
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


def start(port: int, directory: Path, *options: str) -> tuple[subprocess.Popen[bytes], LocalCloud]:
    """Start a server and wait until it answers."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tools/localcloud/src")}
    with (directory / "server.log").open("ab") as log:
        server = subprocess.Popen(
            command(port, directory, *options), cwd=ROOT, env=environment, stdout=log, stderr=log
        )
    eventually(lambda: healthy(f"http://127.0.0.1:{port}"), 60)
    return server, LocalCloud(f"http://127.0.0.1:{port}")


def alive(pid: int) -> bool:
    """Whether a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
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
    # THEN nothing temporary is left by a server that could tidy up
    assert number == signal.SIGKILL or not list((tmp_path / "tmp").iterdir())


def test_state_survives_a_restart_with_persistence(tmp_path: Path) -> None:
    # GIVEN a server with persistence, a queue with a message and a function
    port = free_port()
    server, cloud = start(port, tmp_path, "--persist")
    try:
        queue, function = cloud.queue(), cloud.function(FUNCTION)
        queue.send({"order": 1})
        server.terminate()
        assert server.wait(timeout=20) == 0
        # WHEN it is started again
        server, cloud = start(port, tmp_path, "--persist")
        # THEN both are there
        assert queue.next()["Body"] == '{"order": 1}'
        assert cloud.invoke(function)[0] is None
    finally:
        server.kill()
        server.wait()


def test_a_killed_server_leaves_what_its_last_clean_stop_has_saved(tmp_path: Path) -> None:
    # GIVEN a server that was stopped with one object in a bucket, and started again
    port = free_port()
    server, cloud = start(port, tmp_path, "--persist")
    try:
        cloud.client("s3").create_bucket(Bucket="receipts")
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
        assert [each["Key"] for each in cloud.client("s3").list_objects_v2(Bucket="receipts")["Contents"]] == [
            "first"
        ]
    finally:
        server.kill()
        server.wait()


def put(cloud: LocalCloud, key: str) -> None:
    """Put an object into the bucket."""
    cloud.client("s3").put_object(Bucket="receipts", Key=key, Body=b"x")


def test_what_cannot_be_read_is_not_half_loaded(tmp_path: Path) -> None:
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
    # THEN it refuses, and says what it can't read
    assert ended.returncode == 1
    assert "What was saved of sqs can't be read." in ended.stderr + ended.stdout


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


def test_a_token_from_before_a_restart_is_unknown_and_not_refused(tmp_path: Path) -> None:
    # GIVEN a machine that waits for a token, and a function that may answer this machine's tokens only
    port = free_port()
    server, cloud = start(port, tmp_path, "--persist")
    try:
        queue = cloud.queue()
        arn = machine(cloud, {"Ship": waiting_for_token(queue)})
        start_execution(cloud, arn)
        role = limited_role(cloud, "lambda.amazonaws.com", allow("states:SendTaskSuccess", arn))
        function = cloud.function(ANSWERER, Role=role)
        token = token_on(queue)
        server.terminate()
        assert server.wait(timeout=20) == 0
        # WHEN the server, which doesn't keep running executions, is started again, and the token is answered
        server, cloud = start(port, tmp_path, "--persist")
        _, answer = cloud.invoke(function, token)
        # THEN the function learns that nobody waits for it
        assert answer["errorType"] in ("TaskDoesNotExist", "TaskTimedOut")
    finally:
        server.kill()
        server.wait()


def test_a_port_in_use_is_one_sentence(cloud: LocalCloud, tmp_path: Path) -> None:
    # GIVEN a port on which a server listens
    port = int(cloud.endpoint.rsplit(":", 1)[1])
    # WHEN another one is started there
    ended = run(port=port, directory=tmp_path)
    # THEN it says so
    assert ended.returncode == 1
    assert ended.stderr.strip() == f"Port {port} on 127.0.0.1 is in use."


@pytest.mark.parametrize(
    ("sabotage", "sentence"),
    [
        ("import importlib.metadata as m; m.version = lambda name: '9.9'", "9.9 is installed"),
        ("import ministack.services.sqs as s; del s._dlq_sweep", "no ministack.services.sqs._dlq_sweep"),
    ],
)
def test_another_ministack_is_one_sentence(tmp_path: Path, sabotage: str, sentence: str) -> None:
    # GIVEN a MiniStack of another version, or without something that is needed
    arguments = command(free_port(), tmp_path)[3:]
    script = f"{sabotage}\nfrom localcloud.server import main\nmain({arguments!r})"
    # WHEN the server is started
    ended = subprocess.run(
        [str(CLOUD_PYTHON), "-c", script],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tools/localcloud/src")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # THEN it refuses, and says why in a line
    assert ended.returncode == 1
    assert sentence in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_the_corrections_are_listed(tmp_path: Path) -> None:
    # GIVEN nothing
    # WHEN the corrections are asked for
    ended = run("--list-corrections", "--json", port=free_port(), directory=tmp_path)
    # THEN each has a name and a summary
    assert '"lambda-runtime"' in ended.stdout
    assert '"summary"' in ended.stdout


def test_the_server_runs_where_it_is_installed_only() -> None:
    # GIVEN an interpreter without MiniStack
    # WHEN the server is started with it
    ended = subprocess.run(
        [sys.executable, "-m", "localcloud.server"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    # THEN it says what is missing
    assert ended.returncode == 1
    assert "MiniStack is not installed here" in ended.stderr
