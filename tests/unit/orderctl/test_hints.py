"""A proposed command leads to the stack that it was proposed for."""

from __future__ import annotations

from typing import Any

import pytest

from orderctl.hints import program
from orderctl.stack.target import choose


class Session:
    """boto3's session, with one stack."""

    def __init__(self, **_: Any) -> None:
        pass

    def client(self, _: str) -> Session:
        return self

    def describe_stacks(self, StackName: str) -> dict[str, Any]:  # noqa: N803
        return {"Stacks": [{"StackName": StackName, "Outputs": []}]}


@pytest.mark.parametrize(
    ("profile", "region", "options"),
    [
        (None, None, "--stack orders-prod"),
        ("ops team", None, "--stack orders-prod --profile 'ops team'"),
        ("ops", "eu-west-1", "--stack orders-prod --profile ops --region eu-west-1"),
    ],
)
def test_a_hint_keeps_the_account_that_was_chosen(
    monkeypatch: pytest.MonkeyPatch, profile: str | None, region: str | None, options: str
) -> None:
    monkeypatch.setattr("boto3.session.Session", Session)

    target = choose("orders-prod", "default", profile, region)

    assert target.command("failures list") == f"{program()} failures list {options}"
