"""The clients of AWS: they give up before the function that waits for them does, and send no more than they must."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError, ParamValidationError

from orders.runtime import aws, snapstart


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")


@pytest.mark.parametrize("checked", [True, False])
def test_a_call_gives_up_in_time_and_is_tried_three_times(checked: bool) -> None:
    config: Any = aws.client("dynamodb", checked=checked).meta.config

    assert (config.connect_timeout, config.read_timeout, config.tcp_keepalive) == (2, 5, True)
    # "total_max_attempts" counts the first one too; botocore's client keeps the retries after it.
    assert config.retries == {"mode": "standard", "total_max_attempts": 3}
    assert config.user_agent == "order-pipeline"


def test_requests_are_checked_unless_the_caller_has_tested_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")

    with pytest.raises(ParamValidationError):
        aws.client("dynamodb").list_tables(Limit="many")  # type: ignore[arg-type]
    with pytest.raises(EndpointConnectionError):
        aws.client("dynamodb", checked=False).list_tables(Limit="many")  # type: ignore[arg-type]


def test_garbage_is_collected_again_once_a_client_is_made() -> None:
    aws.client("sqs")
    assert gc.isenabled()


def test_garbage_is_collected_again_though_a_client_cannot_be_made() -> None:
    with pytest.raises(Exception, match="no-such-service"):
        aws.client("no-such-service")  # type: ignore[call-overload]
    assert gc.isenabled()


def test_while_aws_is_left_out_calls_are_answered_and_sent_nowhere_and_afterwards_they_are_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    client = aws.client("dynamodb")

    with snapstart.aws_left_out(client):
        assert client.list_tables().get("TableNames") is None

    with pytest.raises(EndpointConnectionError):
        client.list_tables()


def test_aws_is_not_left_out_any_longer_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    client = aws.client("dynamodb")

    with pytest.raises(LookupError), snapstart.aws_left_out(client):
        raise LookupError
    with pytest.raises(EndpointConnectionError):
        client.list_tables()
