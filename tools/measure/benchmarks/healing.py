"""`measure healing`: how fast an inbox empties by itself after an outage, simulated with the deployed rules.

The rules and the healer are those that run on AWS. Simulated are the clock, the inbox, the workflow and the provider:
while the provider is down, a redriven order comes back to the inbox once its workflow's retries are used up.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Annotated, Any

import msgspec
import typer
from rich.console import RenderableType
from rich.table import Column

from measure import report
from orderctl.options import Json
from orders.domain.clock import timestamp_after
from orders.domain.order import Status
from orders.inbox.healing import Cause, Holds, Pace, outlook
from orders.inbox.record import (
    Action,
    Failure,
    FailureRecord,
    FailureStatus,
    Kind,
    Redrive,
    claimed,
    first_seen,
    seen_again,
    sent,
    settled,
)
from orders.redrive.healer import Healed, Healer, Standing, Standings

BEGIN = "2026-01-01T00:00:00.000Z"
MINUTE_S = 60
CAUSE = Cause("ProcessPayment", "PaymentProviderError")
MACHINE = "arn:aws:states:eu-central-1:123456789012:stateMachine:orders-order-express"
# A healthy workflow takes seconds. One whose provider is down reports after its retries (docs/workflow.md).
ADVANCES_AFTER_S = 5
FAILS_AFTER_S = 250
LONGEST_S = 26 * 3600
BAR = 40


@dataclass
class Simulation:
    """An inbox in memory, with a clock in seconds; the healer sees the inbox as it sees the failures table.

    `fails` says whether the order with this number fails again if redriven at this time.
    """

    fails: Callable[[int, float], bool]
    seconds: float = 0.0
    records: dict[str, FailureRecord] = field(default_factory=dict)
    orders: Standings = field(default_factory=dict)
    paces: dict[str, Pace] = field(default_factory=dict)
    held: Holds = field(default_factory=Holds)
    sends: Counter[str] = field(default_factory=Counter)
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)

    @property
    def now(self) -> str:
        """The present time, as stored."""
        return timestamp_after(BEGIN, self.seconds)

    def at(self, seconds: float, act: Callable[[], None]) -> None:
        """Have something happen at a time."""
        heapq.heappush(self._events, (seconds, next(self._numbers), act))

    def go_to(self, seconds: float) -> None:
        """Let everything happen until a time."""
        while self._events and self._events[0][0] <= seconds:
            self.seconds, _, act = heapq.heappop(self._events)
            act()
        self.seconds = seconds

    def park(self, number: int) -> None:
        """Put the failure of an order into the inbox."""
        failure = self._failure(number)
        self.records[failure.failure_id] = first_seen(failure, at=self.now, message_id=failure.occurrence)
        self.orders[str(failure.order_id)] = Standing(Status.RESERVED, self.now)

    def _failure(self, number: int) -> Failure:
        return Failure(
            failure_id=f"{number:020}",
            kind=Kind.EXECUTION,
            component=CAUSE.component,
            resource_arn=MACHINE,
            error_name=CAUSE.error_name,
            error_message="the payment provider answered 503",
            occurrence=f"execution-{next(self._numbers)}",
            redrive=Redrive(Action.RESUME, MACHINE),
            order_id=f"order-{number}",
            customer_id="customer",
        )

    def redrive(self, failure_id: str) -> str:
        """Redrive a failure; its order ends or comes back later."""
        claim = claimed(self.records[failure_id], at=self.now, lease_expired=False, by="healing")
        self.records[failure_id] = sent(claim, at=self.now, detail="started")
        self.sends[failure_id] += 1
        number = int(failure_id)
        if self.fails(number, self.seconds):
            self.at(self.seconds + FAILS_AFTER_S, lambda: self._fail_again(number))
        else:
            self.at(self.seconds + ADVANCES_AFTER_S, lambda: self._end(number))
        return "redriven"

    def _fail_again(self, number: int) -> None:
        failure = self._failure(number)
        known = self.records[failure.failure_id]
        self.records[failure.failure_id] = seen_again(known, failure, at=self.now, message_id=failure.occurrence)

    def _end(self, number: int) -> None:
        self.orders[f"order-{number}"] = Standing(Status.FULFILLED, self.now)

    def sweep(self) -> None:
        """Resolve the failures whose orders have ended, as the sweep does."""
        for failure_id, record in self.records.items():
            if record.status is FailureStatus.REDRIVEN and self.orders[str(record.order_id)].status == "FULFILLED":
                self.records[failure_id] = settled(
                    record, FailureStatus.RESOLVED, at=self.now, expires_at=0, by="sweep", reason="FULFILLED"
                )

    # ---- The failures table, as the healer uses it

    def with_status(
        self, status: FailureStatus, *, since: str = "0", unreadable: list[str] | None = None
    ) -> Iterator[FailureRecord]:
        """Yield the failures of one status."""
        return iter([record for record in self.records.values() if record.status is status])

    def pace(self, cause: Cause) -> Pace:
        """Return how a cause heals."""
        return msgspec.structs.replace(self.paces.get(cause.key, Pace(failure_id=cause.key)))

    def store_pace(self, pace: Pace) -> bool:
        """Store a changed pace on condition of its version."""
        known = self.paces.get(pace.failure_id)
        if pace.version != (known.version if known else 0):
            return False
        self.paces[pace.failure_id] = msgspec.structs.replace(pace, version=pace.version + 1)
        return True

    def holds(self) -> Holds:
        """Return what is held."""
        return self.held

    def standings(self, records: Iterable[FailureRecord]) -> Standings:
        """Return the orders of these failures."""
        return {str(record.order_id): self.orders[str(record.order_id)] for record in records}

    def heal(self) -> Healed:
        """Run the healer once."""
        return Healer(self, self.redrive, self.standings, "arn:aws:sqs:::fulfilment").run(self.now)

    def for_humans(self) -> list[str]:
        """Return the ids of the failures that don't heal by themselves."""
        pace = self.pace(CAUSE)
        return [
            record.failure_id
            for record in self.with_status(FailureStatus.NEW)
            if outlook(record, pace, self.held, now=self.now).human
        ]


def simulate(failures: int = 1000, outage_min: int = 60, poison: int = 1) -> dict[str, Any]:
    """Simulate an outage of the provider, minute by minute, until nothing heals any more; returns the figures.

    The failures come in evenly during the outage. The first `poison` of them fail whenever they are redriven.
    """
    simulation = Simulation(lambda number, seconds: number < poison or seconds < outage_min * MINUTE_S)
    for number in range(failures):
        at = number * outage_min * MINUTE_S / failures
        simulation.at(at, lambda number=number: simulation.park(number))  # type: ignore[misc]
    minutes: list[dict[str, int]] = []
    while simulation.seconds < LONGEST_S:
        simulation.go_to(len(minutes) * MINUTE_S)
        simulation.sweep()
        found = simulation.heal()
        statuses = Counter(record.status for record in simulation.records.values())
        minutes.append(
            {
                "minute": len(minutes),
                "redriven": found.results["redriven"],
                "inInbox": statuses[FailureStatus.NEW] + statuses[FailureStatus.REDRIVEN],
                "forHumans": found.for_humans,
            }
        )
        if len(minutes) > outage_min and not found.healing and not statuses[FailureStatus.REDRIVEN]:
            break
    ended = next(row["minute"] for row in minutes if row["minute"] > outage_min and row["inInbox"] <= poison)
    return {
        "failures": failures,
        "outageMinutes": outage_min,
        "poison": poison,
        "minutes": minutes,
        "redrivenDuringOutage": sum(row["redriven"] for row in minutes[:outage_min]),
        "healedAfterMinutes": ended - outage_min,
        "forHumans": simulation.for_humans(),
        "mostRedrivesOfAHealed": max(
            (tries for failure_id, tries in simulation.sends.items() if int(failure_id) >= poison), default=0
        ),
        "redrivesOfPoison": [simulation.sends[f"{number:020}"] for number in range(poison)],
        "firstHumanAtMinute": next((row["minute"] for row in minutes if row["forHumans"]), None),
    }


def shown(figures: dict[str, Any]) -> Iterator[RenderableType]:
    """Yield the rate over time as a table with bars, and the result."""
    rows = [row for row in figures["minutes"] if row["redriven"]]
    most = max((row["redriven"] for row in rows), default=1)
    outage = figures["outageMinutes"]
    yield report.table(
        f"{figures['failures']:,} failures during an outage of {outage} minutes: the minutes that redrive any",
        ["minute", "provider", "redriven", "in the inbox", Column("")],
        [
            [
                row["minute"],
                "down" if row["minute"] < outage else "up",
                row["redriven"],
                f"{row['inInbox']:,}",
                "█" * max(1, round(BAR * row["redriven"] / most)),
            ]
            for row in rows
        ],
    )
    yield (
        f"During the outage {figures['redrivenDuringOutage']} were redriven; {figures['healedAfterMinutes']} minutes "
        f"after it all but {figures['poison']} had healed. Nobody was needed before minute "
        f"{figures['firstHumanAtMinute']}; left for a human: {len(figures['forHumans'])}."
    )


def command(
    *,
    failures: Annotated[int, typer.Option(min=1, max=100_000, help="How many failures the outage leaves.")] = 1000,
    outage: Annotated[int, typer.Option(min=1, max=1380, help="How many minutes the provider is down.")] = 60,
    poison: Annotated[int, typer.Option(min=0, help="How many of them fail whenever they are redriven.")] = 1,
    as_json: Json = False,
) -> None:
    """Simulate how an inbox empties by itself after an outage of the payment provider."""
    figures = simulate(failures, outage, min(poison, failures))
    report.deliver("healing", figures, shown(figures), as_json=as_json)
