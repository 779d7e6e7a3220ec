"""Amazon States Language specification: retriers."""

import pytest

from localcloud.retrying import retry_delay_s


@pytest.mark.parametrize(
    ("retrier", "delays"),
    [
        ({}, [1, 2, 4]),
        ({"IntervalSeconds": 3, "BackoffRate": 1}, [3, 3, 3]),
        ({"IntervalSeconds": 10, "BackoffRate": 10}, [10, 100, 1000]),
        ({"IntervalSeconds": 10, "BackoffRate": 10, "MaxDelaySeconds": 60}, [10, 60, 60]),
    ],
)
def test_delays_grow_up_to_their_limit(retrier: dict[str, float], delays: list[float]) -> None:
    # GIVEN a retrier
    # WHEN its first three delays are computed
    computed = [retry_delay_s(retrier, retries) for retries in range(3)]
    # THEN they follow the specification
    assert computed == delays


def test_full_jitter_takes_a_random_time_up_to_the_delay() -> None:
    # GIVEN a retrier with jitter and a limit
    retrier = {"IntervalSeconds": 10, "MaxDelaySeconds": 15, "JitterStrategy": "FULL"}
    # WHEN the second delay is computed
    bounds: list[tuple[float, float]] = []
    retry_delay_s(retrier, 1, lambda low, high: bounds.append((low, high)) or low)  # type: ignore[func-returns-value]
    # THEN it lies between nothing and the limited delay
    assert bounds == [(0.0, 15.0)]
