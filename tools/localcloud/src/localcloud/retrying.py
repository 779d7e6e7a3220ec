"""The delay before a retry of Step Functions."""

import random
from collections.abc import Callable, Mapping
from typing import Any


def retry_delay_s(
    retrier: Mapping[str, Any], retries: int, uniform: Callable[[float, float], float] = random.uniform
) -> float:
    """Return the seconds to wait before the retry that follows `retries` earlier ones of this retrier.

    Amazon States Language, "Retrier": IntervalSeconds (default 1) times BackoffRate (default 2) for each retry
    before, at most MaxDelaySeconds; with JitterStrategy FULL a random time between 0 and that.
    """
    delay = float(retrier.get("IntervalSeconds", 1)) * float(retrier.get("BackoffRate", 2.0)) ** retries
    if "MaxDelaySeconds" in retrier:
        delay = min(delay, float(retrier["MaxDelaySeconds"]))
    return uniform(0.0, delay) if retrier.get("JitterStrategy") == "FULL" else delay
