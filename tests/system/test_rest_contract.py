"""The deployed API does what its own description says, for requests that fit it and for such that don't."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from orderctl.stack.signin import TokenSource
from orderctl.stack.target import Target
from orders.api import openapi

DESCRIPTION = openapi.document("v1")
# What takes no input can't be asked wrongly.
CASES = [
    (path, method, mode)
    for path, methods in DESCRIPTION["paths"].items()
    for method, operation in methods.items()
    for mode in GenerationMode
    if mode is GenerationMode.POSITIVE or {"parameters", "requestBody"} & operation.keys()
]
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


@pytest.fixture(scope="module")
def token(new_customer: Callable[[], TokenSource]) -> str:
    return new_customer().current()


def test_the_deployed_description_is_this_versions(cloud: Target) -> None:
    assert httpx.get(f"{cloud.api_url}/openapi.json").json() == DESCRIPTION


@pytest.mark.parametrize(("path", "method", "mode"), CASES)
def test_the_api_does_what_it_says(cloud: Target, token: str, path: str, method: str, mode: GenerationMode) -> None:
    conforms(cloud.api_url, token, path, method, mode)


def conforms(api_url: str, token: str, path: str, method: str, mode: GenerationMode) -> None:
    """Send requests of one operation that fit the description, or don't; raises if an answer doesn't."""
    schema = schemathesis.openapi.from_dict(DESCRIPTION)
    schema.config.update(base_url=api_url)
    operation = schema[path][method.upper()]

    @settings(
        max_examples=10,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        case.call_and_validate(headers={"Authorization": token}, checks=CHECKS, timeout=10)

    send()
