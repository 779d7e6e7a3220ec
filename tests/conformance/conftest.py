"""A local cloud of its own for the conformance tests.

The tests assert what AWS documents, through boto3. With LOCALCLOUD_BARE=1 they run against MiniStack without
the corrections: what passes there needs no correction any more.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.support import CLOUD_PYTHON, ROOT, LocalCloud, eventually, free_port, healthy

START_TIMEOUT_S = 60


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """Start a server for this test session; skip where its environment is not installed."""
    if not CLOUD_PYTHON.exists():
        pytest.skip("the environment .local/venv-cloud is not installed")
    directory = tmp_path_factory.mktemp("cloud")
    port = free_port()
    command: list[str | Path] = [CLOUD_PYTHON, "-m", "localcloud.server", "--port", str(port), "--retry-base", "0.05"]
    command += ["--data-dir", directory / "data", "--tmp-dir", directory / "tmp"]
    command += ["--wait-scale", "0.05", "--metrics-interval", "0.5"]
    if os.environ.get("LOCALCLOUD_BARE"):
        command.append("--bare")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tools/localcloud/src")}
    log = directory / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        endpoint = f"http://127.0.0.1:{port}"
        eventually(lambda: server.poll() is not None or healthy(endpoint), START_TIMEOUT_S)
        assert server.poll() is None, log.read_text()
        yield LocalCloud(endpoint)
    finally:
        server.terminate()
        server.wait(timeout=15)
