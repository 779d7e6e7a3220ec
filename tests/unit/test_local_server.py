"""What the local cloud's server does differently on another system."""

from __future__ import annotations

import resource

import pytest

from localcloud import server

UNLIMITED = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("limits", "most", "wanted"),
    [
        ((1024, 524_288), 524_288, [(524_288, 524_288)]),
        ((256, UNLIMITED), 10_240, [(10_240, UNLIMITED)]),
    ],
    ids=["Linux", "macOS: unlimited, and refused"],
)
def test_as_many_open_files_as_the_system_lets_us(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], most: int, wanted: list[tuple[int, int]]
) -> None:
    # GIVEN a system with these limits
    found: list[tuple[int, int]] = []

    def setrlimit(_: int, new: tuple[int, int]) -> None:
        if new[0] == UNLIMITED or new[0] > most:
            raise ValueError("not allowed to exceed maximum limit")
        found.append(new)

    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", setrlimit)

    # WHEN the server starts
    server.raise_file_limit()

    # THEN it has the most that it may have
    assert found == wanted
