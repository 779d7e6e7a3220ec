"""What every suite may ask for: a local cloud of this test run, and customers of it.

The cloud is started when the first test asks for it, on a free port and under a name of its own, so that it
neither needs nor disturbs one that is up already. All workers of a parallel run share it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from orderctl import lifecycle
from orderctl.cloud import server_process
from orderctl.cloud.state import CLOUDS, Cloud
from orderctl.exits import Stop
from orderctl.stack.rest import OrdersApi
from orderctl.stack.signin import TokenSource, token_source
from orderctl.stack.target import Target, forget_aws_environment, of_state

NAME_VARIABLE = "ORDERS_TEST_CLOUD"
PREFIX = "test-"


def pytest_configure(config: pytest.Config) -> None:
    """Keep the developer's AWS settings out of every test, and name this run's cloud."""
    forget_aws_environment()
    # Read once, when the first suite imports the package's telemetry, whichever suite that is.
    os.environ.update(POWERTOOLS_SERVICE_NAME="orders", POWERTOOLS_METRICS_NAMESPACE="OrderPipeline")
    if not hasattr(config, "workerinput"):
        os.environ[NAME_VARIABLE] = f"{PREFIX}{os.getpid()}"
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: with the clean-up below


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Stop this run's cloud, however the run has ended; its logs stay if something went wrong."""
    mine = Cloud(os.environ[NAME_VARIABLE])
    if not hasattr(session.config, "workerinput") and mine.directory.exists():
        lifecycle.down(mine)
        if exitstatus == pytest.ExitCode.OK:
            shutil.rmtree(mine.directory)


def _stop_abandoned_clouds() -> None:
    for directory in CLOUDS.glob(f"{PREFIX}[0-9]*"):
        try:
            os.kill(int(directory.name.removeprefix(PREFIX)), 0)
        except ProcessLookupError:
            with suppress(Stop):  # another run is at it
                lifecycle.down(Cloud(directory.name))
                shutil.rmtree(directory)
        except (ValueError, PermissionError):
            continue


@pytest.fixture(scope="session")
def cloud(request: pytest.FixtureRequest) -> Target:
    """Return this run's local cloud with the project deployed to it."""
    CLOUDS.mkdir(parents=True, exist_ok=True)
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with (CLOUDS / "test-start.lock").open("w") as lock, capture.global_and_fixture_disabled():
        fcntl.flock(lock, fcntl.LOCK_EX)
        _stop_abandoned_clouds()
        mine = Cloud(os.environ[NAME_VARIABLE])
        running = mine.load()
        state, _ = lifecycle.up(mine, running.port if running else server_process.free_port())
    return of_state(state)


@pytest.fixture(scope="session")
def new_customer(cloud: Target) -> Callable[[], TokenSource]:
    """Return a function that signs a new customer up and returns their tokens."""

    def sign_up() -> TokenSource:
        return token_source(cloud, f"{uuid.uuid4()}@example.com", None)

    return sign_up


@pytest.fixture
def api(cloud: Target, new_customer: Callable[[], TokenSource]) -> Iterator[OrdersApi]:
    """Return the REST API as a customer sees it who has no orders yet."""
    with OrdersApi(cloud.api_url, new_customer()) as customer_api:
        yield customer_api
