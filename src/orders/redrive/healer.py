"""One run of healing: judge each transient cause's last batch, choose the next one, and redrive it.

A cause's next batch is stored before it is sent, on condition that nobody else has stored one: of two healers at
once, one sends. A healer that dies leaves failures of the batch unsent; the next run sees that by their number of
redrives.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, Protocol

import msgspec

from orders.domain.clock import timestamp_after
from orders.domain.order import TERMINAL, Status
from orders.inbox.healing import (
    Cause,
    Holds,
    Outlook,
    Pace,
    cause_of,
    fate_of,
    is_transient,
    judged,
    outlook,
    with_batch,
)
from orders.inbox.record import CLAIM_LEASE_S, FailureRecord, FailureStatus
from orders.workflow import order_waits_for

# A failure that has become a human's pages for so long: longer than a batch needs to show how it went.
PAGES_FOR_S = 600
# More open failures than this are not looked at in one run.
MOST_READ = 20_000
RESULTS = ("redriven", "resolved", "refused", "failed")


class Standing(NamedTuple):
    """An order's status, and when it was last changed."""

    status: Status
    updated_at: str


Standings = dict[str, Standing]
"""The standings of orders, by order id; an order that can't be read is left out."""


class Inbox(Protocol):
    """The part of `FailuresTable` that healing needs."""

    def with_status(
        self, status: FailureStatus, *, since: str = "0", unreadable: list[str] | None = None
    ) -> Iterator[FailureRecord]:
        """The failures of one status."""

    def pace(self, cause: Cause) -> Pace:
        """How a cause heals."""

    def store_pace(self, pace: Pace) -> bool:
        """Store a changed pace, unless somebody else has changed it."""

    def holds(self) -> Holds:
        """What operators keep from healing."""


@dataclass
class Healed:
    """What one run found and did.

    `results` counts the redriven failures by result, one of `RESULTS`. `for_humans` is how many NEW failures don't
    heal by themselves; `new_for_humans` how many of them came to that within `PAGES_FOR_S`. `problems` are the causes
    that could not be handled, each with the error. `sent` has the ids of the failures that were redriven.
    """

    results: dict[str, int] = field(default_factory=lambda: dict.fromkeys(RESULTS, 0))
    healing: int = 0
    held: int = 0
    for_humans: int = 0
    new_for_humans: int = 0
    unreadable: list[str] = field(default_factory=list)
    problems: dict[str, Exception] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)

    def count(self, record: FailureRecord, found: Outlook, now: str) -> None:
        """Count a NEW failure by its outlook."""
        if not found.human:
            self.healing += found.hold is None
            self.held += found.hold is not None
            return
        self.for_humans += 1
        self.new_for_humans += (found.human_since or record.last_seen_at) > timestamp_after(now, -PAGES_FOR_S)


class _Look(NamedTuple):
    """What one run has read, and when: the open failures by id, and what is held."""

    found: dict[str, FailureRecord]
    holds: Holds
    now: str


@dataclass
class Healer:
    """Heals the failures of one inbox.

    `redrive` redrives the failure with this id and returns its result, one of `RESULTS`. `standings` reads the orders
    of these failures. `in_time` says whether there is time to redrive one more.
    """

    inbox: Inbox
    redrive: Callable[[str], str]
    standings: Callable[[Iterable[FailureRecord]], Standings]
    fulfilment_queue_arn: str
    in_time: Callable[[], bool] = lambda: True

    def run(self, now: str) -> Healed:
        """Heal once, at the time `now`."""
        healed, holds = Healed(), self.inbox.holds()
        # In this order: a failure that fails again between the two reads is NEW in the result.
        found = self._read(FailureStatus.REDRIVEN, healed) | self._read(FailureStatus.NEW, healed)
        causes: dict[Cause, list[FailureRecord]] = defaultdict(list)
        for record in found.values():
            causes[cause_of(record)].append(record)
        paces = {cause: self._pace(cause, healed) for cause in causes if any(map(is_transient, causes[cause]))}
        # The cause that has waited longest goes first, so that a short run passes over none for ever.
        for cause, pace in sorted(paces.items(), key=lambda each: (each[1] and each[1].sent_at) or ""):
            if pace is not None:
                try:
                    paces[cause] = self._heal(causes[cause], pace, _Look(found, holds, now), healed)
                except Exception as error:  # one cause must not stop the others
                    healed.problems[str(cause)] = error
        for cause, records in causes.items():
            unknown = cause in paces and paces[cause] is None
            for record in records:
                if record.status is FailureStatus.NEW and record.failure_id not in healed.sent:
                    # A cause whose item can't be read doesn't heal.
                    healed.count(record, outlook(record, paces.get(cause), holds, now=now, enabled=not unknown), now)
        healed.for_humans += len(healed.unreadable)
        healed.new_for_humans += len(healed.unreadable)
        return healed

    def _read(self, status: FailureStatus, healed: Healed) -> dict[str, FailureRecord]:
        found = self.inbox.with_status(status, unreadable=healed.unreadable)
        return {record.failure_id: record for record in islice(found, MOST_READ)}

    def _pace(self, cause: Cause, healed: Healed) -> Pace | None:
        try:
            return self.inbox.pace(cause)
        except ValueError as error:
            healed.problems[str(cause)] = error
            return None

    def _heal(
        self,
        records: list[FailureRecord],
        pace: Pace,
        look: "_Look",
        healed: Healed,
    ) -> Pace:
        """Judge a cause's last batch, and redrive the next one. Returns the cause's present pace."""
        after: Pace | None = pace
        if pace.batch:
            after = self._judged(pace, look)
        if after is None:
            return pace
        after = msgspec.structs.replace(
            after, strikes={each: count for each, count in after.strikes.items() if each in look.found}
        )
        candidates = self._candidates(records, after, look)
        after = with_batch(after, candidates, now=look.now)
        if after == pace:
            return pace
        if not self.inbox.store_pace(after):
            return pace  # another healer was faster, and sends
        for failure_id in after.batch:
            if not self.in_time():
                break
            healed.sent.append(failure_id)
            healed.results[self.redrive(failure_id)] += 1
        return after

    def _judged(self, pace: Pace, look: "_Look") -> Pace | None:
        batch = {each: look.found.get(each) for each in pace.batch}
        waiting = [each for each in batch.values() if each is not None and self._waits(each)]
        standings = self.standings(each for each in waiting if each.status is FailureStatus.REDRIVEN)
        fates = {
            each: fate_of(
                record,
                pace.batch[each],
                moved_on=_moved_on(record, standings) if record is not None and self._waits(record) else None,
                now=look.now,
            )
            for each, record in batch.items()
        }
        first_seen = {each: record.first_seen_at for each, record in batch.items() if record is not None}
        return judged(pace, fates, first_seen, now=look.now)

    def _waits(self, record: FailureRecord) -> bool:
        """Whether the record names an order, and that order can't go on before this failure is redriven."""
        return record.order_id is not None and order_waits_for(record, self.fulfilment_queue_arn)

    def _candidates(self, records: list[FailureRecord], pace: Pace, look: "_Look") -> list[FailureRecord]:
        """The failures of a cause that may be redriven now."""
        dead = timestamp_after(look.now, -CLAIM_LEASE_S)
        able = [
            record
            for record in records
            if not outlook(record, pace, look.holds, now=look.now).human and (_is_new(record) or _died(record, dead))
        ]
        free = [record for record in able if look.holds.over(record) is None]
        held = [record for record in able if look.holds.over(record) is not None and record.order_id]
        # Undoing is never held: whoever gave the order up wants the order undone.
        standings = self.standings(held) if held else {}
        return free + [each for each in held if _is_failing(each, standings)]


def _is_new(record: FailureRecord) -> bool:
    return record.status is FailureStatus.NEW


def _died(record: FailureRecord, before: str) -> bool:
    """Whether a redrive claimed the failure before this time and never confirmed."""
    claimed_at = record.claimed_at or ""
    return record.status is FailureStatus.REDRIVEN and record.sent_at is None and claimed_at < before


def _is_failing(record: FailureRecord, standings: Standings) -> bool:
    standing = standings.get(record.order_id or "")
    return standing is not None and standing.status is Status.FAILING


def _moved_on(record: FailureRecord, standings: Standings) -> bool:
    standing = standings.get(record.order_id or "")
    if standing is None:
        return False
    return standing.status in TERMINAL or standing.updated_at > (record.claimed_at or "")
