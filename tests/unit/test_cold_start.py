"""What keeps a cold start short: garbage is neither looked for while a client is made, nor in what was made."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from orders.runtime import aws


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    yield
    gc.unfreeze()


def test_what_a_client_is_made_of_is_never_looked_through_again() -> None:
    gc.unfreeze()
    aws.client("sqs")
    assert gc.get_freeze_count() > 0


def test_no_garbage_is_looked_for_while_a_client_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[bool] = []
    session = aws._session()

    def remember() -> object:
        looked.append(gc.isenabled())
        return session

    monkeypatch.setattr(aws, "_session", remember)
    aws.client("sqs")
    assert looked == [False]


def test_one_session_makes_all_clients() -> None:
    assert aws._session() is aws._session()
