"""Simulation of orders of one product, whose stock is kept in one item or in shards.

Two transactions of an order, the reservation and the sale, write each shard that the order takes from. AWS cancels a
transaction that meets another one on an item, and does not say how long a transaction holds its items.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from dataclasses import dataclass, field
from enum import IntEnum

from orders.domain.order import Taken
from orders.domain.stock import Shard, Stock, choose

HOLD_S = 0.010  # how long a transaction holds an item
READ_TO_WRITE_S = 0.03  # from the reading of the stock by ValidateOrder to the reservation
GIVES_UP_AFTER_S = 60  # statemachine/order.asl.yaml, ReservationRefused
CONFLICT_PAUSES_S = (0.05, 0.1, 0.2, 0.4)  # as ship_order has them
RECEIVES = 5  # maxReceiveCount of the fulfilment queue
WITHOUT_END = 10**9


class Step(IntEnum):
    """What an order does next."""

    CHOOSE = 0
    RESERVE = 1
    SELL = 2


@dataclass
class Buyer:
    """An order of `quantity` pieces, and the shards that it has chosen."""

    arrived: float
    quantity: int
    taken: list[Taken] = field(default_factory=list)
    sale_attempts: int = 0


@dataclass
class Outcome:
    """What became of the orders; `conflicts` are cancelled transactions, `refused` found too little stock."""

    orders: int = 0
    sold_pieces: int = 0
    sold_out: int = 0
    stuck: int = 0
    reservation_conflicts: int = 0
    sale_conflicts: int = 0
    refused: int = 0

    @property
    def retries_an_order(self) -> float:
        """Transactions that were repeated, for each order."""
        return (self.reservation_conflicts + self.sale_conflicts + self.refused) / self.orders


def sell(rate: float, shards: int, orders: int, *, stock: int | None = None, most: int = 1, seed: int = 1) -> Outcome:
    """Simulate orders of 1 to `most` pieces at `rate` a second; `stock` is spread evenly, and endless if None."""
    return _Shop(shards, stock, orders, random.Random(seed)).run(rate, most)


class _Shop:
    """The shards of one product, and the orders under way."""

    def __init__(self, shards: int, stock: int | None, orders: int, chance: random.Random) -> None:
        self._chance = chance
        self._available = [
            WITHOUT_END if stock is None else stock // shards + (shard < stock % shards) for shard in range(shards)
        ]
        self._free_at = [0.0] * shards
        self._number = itertools.count()
        self._queue: list[tuple[float, int, Step, Buyer]] = []
        self._outcome = Outcome(orders)

    def run(self, rate: float, most: int) -> Outcome:
        clock = 0.0
        for _ in range(self._outcome.orders):
            clock += self._chance.expovariate(rate)
            self._go(clock, Step.CHOOSE, Buyer(clock, self._chance.randint(1, most)))
        act = {Step.CHOOSE: self._choose, Step.RESERVE: self._reserve, Step.SELL: self._sell}
        while self._queue:
            now, _, step, buyer = heapq.heappop(self._queue)
            act[step](now, buyer)
        return self._outcome

    def _go(self, at: float, step: Step, buyer: Buyer) -> None:
        heapq.heappush(self._queue, (at, next(self._number), step, buyer))

    def _choose(self, now: float, buyer: Buyer) -> None:
        found = Stock([Shard(shard, pieces) for shard, pieces in enumerate(self._available)])
        buyer.taken = choose(buyer.quantity, found, self._chance.choice)
        if buyer.taken:
            self._go(now + READ_TO_WRITE_S, Step.RESERVE, buyer)
        else:
            self._outcome.sold_out += 1

    def _reserve(self, now: float, buyer: Buyer) -> None:
        conflict = self._conflicts(now, buyer)
        if not conflict and all(self._available[taken.shard] >= taken.quantity for taken in buyer.taken):
            for taken in buyer.taken:
                self._available[taken.shard] -= taken.quantity
            self._hold(now, buyer)
            self._go(now + self._chance.uniform(0.3, 3), Step.SELL, buyer)  # it is paid and shipped meanwhile
            return
        self._outcome.reservation_conflicts += conflict
        self._outcome.refused += not conflict
        if now - buyer.arrived >= GIVES_UP_AFTER_S:
            self._outcome.stuck += 1
        else:
            self._go(now + (self._chance.randint(1, 3) if conflict else 0), Step.CHOOSE, buyer)

    def _sell(self, now: float, buyer: Buyer) -> None:
        if not self._conflicts(now, buyer):
            self._hold(now, buyer)
            self._outcome.sold_pieces += buyer.quantity
            return
        self._outcome.sale_conflicts += 1
        receive, attempt = divmod(buyer.sale_attempts, len(CONFLICT_PAUSES_S) + 1)
        buyer.sale_attempts += 1
        if attempt < len(CONFLICT_PAUSES_S):
            self._go(now + CONFLICT_PAUSES_S[attempt] * self._chance.uniform(0.5, 1.5), Step.SELL, buyer)
        elif receive + 1 < RECEIVES:
            self._go(now + 2.0 ** (receive + 1), Step.SELL, buyer)
        else:
            self._outcome.stuck += 1

    def _conflicts(self, now: float, buyer: Buyer) -> bool:
        return any(self._free_at[taken.shard] > now for taken in buyer.taken)

    def _hold(self, now: float, buyer: Buyer) -> None:
        for taken in buyer.taken:
            self._free_at[taken.shard] = now + HOLD_S


def retries_formula(rate: float, shards: int = 1, hold_s: float = HOLD_S) -> float:
    """Return the retries an order: two transactions, each cancelled u/(1-u) times where an item is busy u.

    A cancelled transaction holds nothing. An item is held for u = 2 * rate * hold / shards of the time, so an
    attempt meets a busy item with probability u.
    """
    busy = 2 * rate * hold_s / shards
    return 2 * busy / (1 - busy) if busy < 1 else math.inf


def conflict_share(rate: float, shards: int) -> float:
    """Return the share of transactions on a shard that are cancelled."""
    return min(1.0, 2 * rate * HOLD_S / shards)
