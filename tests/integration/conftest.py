"""AWS in memory, made anew for each test."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from moto import mock_aws

from tests.integration.world import ENVIRONMENT, World


@pytest.fixture(scope="package", autouse=True)
def environment() -> Iterator[None]:
    """The environment of a function; its module may be imported from here on."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        # Another suite may have imported functions in an environment of its own.
        for name in [name for name in sys.modules if name.startswith("orders.functions.")]:
            patch.delitem(sys.modules, name)
        yield


@pytest.fixture
def world(environment: None) -> Iterator[World]:
    with mock_aws():
        yield World()


@pytest.fixture
def logs(environment: None) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """All log lines since the last call."""
    from orders.runtime.telemetry import logger

    stream = io.StringIO()
    usual = logger.registered_handler.setStream(stream)  # type: ignore[attr-defined]

    def read() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in stream.getvalue().splitlines()]
        stream.seek(0)
        stream.truncate()
        return lines

    yield read
    logger.registered_handler.setStream(usual)  # type: ignore[attr-defined]
