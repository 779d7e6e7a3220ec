"""AWS in memory, made anew for each test."""

from __future__ import annotations

import json
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
        yield


@pytest.fixture
def world(environment: None) -> Iterator[World]:
    with mock_aws():
        yield World()


@pytest.fixture
def logs(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[dict[str, Any]]]:
    """The log lines since the last call; metrics, which go the same way, are left out."""

    def read() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
        return [line for line in lines if "level" in line]

    return read
