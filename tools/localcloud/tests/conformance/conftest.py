"""A server of its own for the conformance tests.

The tests assert what AWS documents, through boto3. With LOCALCLOUD_BARE=1 they run against MiniStack without the
corrections: a test that passes there needs no correction any more.
"""

import os
from collections.abc import Iterator

import pytest

from conformance.support import PYTHON, LocalCloud, free_port, start


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """Start a server for this test session; skip if localcloud is not installed."""
    if not PYTHON.exists():
        pytest.skip("localcloud is not installed")
    options = ["--retry-base", "0.05", "--wait-scale", "0.05", "--metrics-interval", "0.5"]
    options += ["--bare"] if os.environ.get("LOCALCLOUD_BARE") else []
    server, running = start(free_port(), tmp_path_factory.mktemp("cloud"), *options)
    try:
        yield running
    finally:
        server.terminate()
        server.wait(timeout=15)
