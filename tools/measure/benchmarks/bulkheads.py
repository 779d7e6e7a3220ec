"""Simulation of a payment provider that hangs, with and without a limit on concurrent payments.

The functions of an account share its concurrency. Payments that hang fill it, and then API Gateway can't invoke the
function that accepts orders: the customer gets a 5xx. A reserved concurrency takes a part from the account for
payments and leaves the rest to the other functions.
"""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass
from enum import IntEnum

ACCOUNT = 1_000  # Lambda's default quota of concurrent executions
HANG_S = 10.0  # the function's own time-out
ATTEMPTS = 5  # statemachine/order.asl.yaml, ProcessPayment
OTHER_S = {"accept": 0.02, "rest": 0.06}  # doubled durations: accepting; events, validation and mail


class Step(IntEnum):
    """What happens to an order next; `ENDS` gives concurrency back."""

    ENDS = 0
    ACCEPT = 1
    REST = 2
    PAY = 3


@dataclass
class Outcome:
    """What became of `orders` requests; `peak` is the most executions at once, `throttled` counts payments."""

    orders: int = 0
    answered_5xx: int = 0
    throttled: int = 0
    stuck: int = 0
    peak: int = 0


def hang(rate: float, limit: int | None, seconds: float = 300, account: int = ACCOUNT, seed: int = 1) -> Outcome:
    """Simulate a provider that hangs from the beginning on: each payment takes 10 s and fails."""
    chance = random.Random(seed)
    number = itertools.count()
    free = {"payments": limit or 0, "others": account - (limit or 0)}
    payments = "payments" if limit else "others"
    queue: list[tuple[float, int, Step, int, str]] = []
    outcome = Outcome()
    clock = 0.0

    def go(at: float, step: Step, attempt: int = 0, pool: str = "") -> None:
        heapq.heappush(queue, (at, next(number), step, attempt, pool))

    def begins(now: float, pool: str, lasts_s: float) -> bool:
        if not free[pool]:
            return False
        free[pool] -= 1
        outcome.peak = max(outcome.peak, account - sum(free.values()))
        go(now + lasts_s, Step.ENDS, pool=pool)
        return True

    while clock < seconds:
        clock += chance.expovariate(rate)
        go(clock, Step.ACCEPT)
    while queue:
        now, _, step, attempt, pool = heapq.heappop(queue)
        if step is Step.ENDS:
            free[pool] += 1
        elif step is Step.ACCEPT:
            outcome.orders += 1
            if begins(now, "others", OTHER_S["accept"]):
                go(now + OTHER_S["accept"], Step.REST)
            else:
                outcome.answered_5xx += 1
        elif step is Step.REST:
            # The stream, Step Functions and SQS repeat what is throttled.
            done = begins(now, "others", OTHER_S["rest"])
            go(now + (OTHER_S["rest"] if done else 1.0), Step.PAY if done else Step.REST)
        else:
            done = begins(now, payments, HANG_S)
            outcome.throttled += not done
            if attempt + 1 < ATTEMPTS:
                back_off_s = chance.uniform(0, min(16, 2**attempt))
                go(now + (HANG_S if done else 0) + back_off_s, Step.PAY, attempt + 1)
            else:
                outcome.stuck += 1
    return outcome
