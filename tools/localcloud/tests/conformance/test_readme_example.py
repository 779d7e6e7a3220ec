"""The README's example works as it is written there."""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.support import PYTHON, LocalCloud, eventually, free_port, start

README = (Path(__file__).parents[2] / "README.md").read_text()
SAM = shutil.which("sam", path=f"{PYTHON.parents[2]}/venv-sam/bin:{os.environ['PATH']}")

pytestmark = [
    pytest.mark.skipif(not (PYTHON.exists() and SAM), reason="localcloud or the SAM CLI is not installed"),
    pytest.mark.skipif(bool(os.environ.get("LOCALCLOUD_BARE")), reason="MiniStack alone sends no record"),
]


def blocks(language: str) -> list[str]:
    """Return the README's code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def sam_commands() -> Iterator[tuple[list[str], str]]:
    """Yield the arguments of each `sam` command of the README, and the output that the README shows."""
    for line, output in re.findall(r"^\$ sam (.*)\n((?:[^$`].*\n)*)", README, re.MULTILINE):
        yield shlex.split(line), output.strip()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalCloud]:
    """Start a server with its usual delays."""
    process, cloud = start(free_port(), tmp_path)
    try:
        yield cloud
    finally:
        process.terminate()
        process.wait(timeout=20)


def test_the_example_works(server: LocalCloud, tmp_path: Path) -> None:
    # GIVEN the example's files
    version = subprocess.run([PYTHON, "--version"], capture_output=True, text=True, check=True).stdout
    runtime = "python" + ".".join(version.split()[1].split(".")[:2])
    project = tmp_path / "project"
    (project / "hello").mkdir(parents=True)
    (project / "hello" / "app.py").write_text(blocks("python")[0])
    (project / "template.yaml").write_text(blocks("yaml")[0].replace("python3.11", runtime))
    environment = {
        **os.environ,
        "PATH": f"{PYTHON.parent}:{os.environ['PATH']}",  # `sam build` asks for an interpreter of this version
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "SAM_CLI_TELEMETRY": "0",
    }
    # WHEN its commands are typed
    for arguments, shown in sam_commands():
        ended = subprocess.run(
            [str(SAM), *arguments], cwd=project, env=environment, capture_output=True, text=True, check=False
        )
        # THEN each succeeds with the output that is shown
        assert ended.returncode == 0, ended.stderr
        assert shown in ended.stdout
    # THEN the record of the failed event is on the queue
    sqs = server.client("sqs")
    (url,) = (each for each in sqs.list_queues()["QueueUrls"] if "Failures" in each)
    (message,) = eventually(lambda: sqs.receive_message(QueueUrl=url).get("Messages"), 30)
    record = json.loads(message["Body"])["requestContext"]
    assert (record["condition"], record["approximateInvokeCount"]) == ("RetriesExhausted", 3)
