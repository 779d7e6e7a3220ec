"""Which failures heal by themselves, and at which pace. Nothing in this module calls AWS.

A cause is a component and the name of its error. For each transient cause one failure is redriven as a probe. While
at least half of a batch advances, the next batch is twice as large, a minute later; otherwise the next batch is one
probe again, after a longer and longer pause. A failure that doesn't heal by itself is a human's.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import NamedTuple

import msgspec
from msgspec import Struct

from orders.domain.clock import timestamp_after
from orders.inbox.record import Action, Failure, FailureRecord, FailureStatus

# How long a failure heals by itself, from its first message on.
HEALS_FOR_S = 24 * 3600
# The largest batch of a cause, and the time between two batches: a little less than the schedule's minute.
MOST = 500
PACE_S = 50
# The pauses before a probe that follows a batch which failed.
PAUSES_S = (60, 120, 240, 480, 900)
# A redriven failure that has neither advanced nor failed again within this time counts as failed. The workflow ends
# within 5 minutes.
PATIENCE_S = 300
# A failure for which no order waits shows its success by silence. A queue gives up after a minute, an asynchronous
# function after three to four (docs/operations.md).
SILENCE_S = {Action.SEND: 120, Action.DELIVER: 270, Action.INVOKE: 270}
# After so long without a batch, the experience with the last one is worth nothing.
FORGOTTEN_S = 1800
# A failure that has failed again so often, while others of its cause advanced, is poison.
MOST_STRIKES = 5
MAX_STRUCK = 2_000

# Each name is one that a retry may help against, though it says nothing about how soon.
TRANSIENT = frozenset(
    {
        # Ours (domain/errors.py): the provider, the warehouse, or too many writers.
        "PaymentProviderError",
        "WarehouseUnavailable",
        "Busy",
        "Contended",
        # Time-outs and throttling of functions and states. A function that is killed reports nothing better, and its
        # queue's message then ends as TooManyReceives; both also happen when an outside system hangs.
        "States.Timeout",
        "Sandbox.Timedout",
        "Lambda.Unknown",
        "Runtime.ExitError",
        "TooManyReceives",
        # The condition of an asynchronous event that was throttled until it was too old, and so has no error.
        "EventAgeExceeded",
        # AWS services, also with a prefix such as "DynamoDB." or "Lambda.".
        "ClientExecutionTimeoutException",
        "InternalError",
        "InternalFailure",
        "InternalServerError",
        "InternalServerErrorException",
        "InternalServiceError",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestTimeout",
        "SdkClientException",
        "ServiceException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "TransactionConflictException",
        "TransactionInProgressException",
        # The network, as botocore and Python name it.
        "ConnectTimeoutError",
        "ConnectionClosedError",
        "ConnectionError",
        "ConnectionRefusedError",
        "ConnectionResetError",
        "EndpointConnectionError",
        "HTTPClientError",
        "ReadTimeoutError",
        "TimeoutError",
        # EventBridge (user guide, "Using dead-letter queues"): the target's dead letter.
        "CONNECTION_FAILURE",
        "INTERNAL_ERROR",
        "RESOURCE_LIMIT_EXCEEDED",
        "RESOURCE_MODIFICATION_COLLISION",
        "SDK_CLIENT_ERROR",
        "THROTTLING",
        "TIMEOUT",
        "TRANSIENT_ASSUME_ROLE",
    }
)
# Step Functions puts the service before the name of its error.
SERVICES = ("DynamoDB.", "DynamoDb.", "Lambda.", "SQS.", "Sqs.")
HEALABLE = frozenset({Action.SEND, Action.INVOKE, Action.DELIVER, Action.RESUME})
CAUSE_PREFIX = "cause#"
HOLDS_KEY = "healing#holds"
EVERYTHING = "*"
_PLAIN = re.compile(r"[A-Za-z0-9_.:-]{1,100}\Z")


class Cause(NamedTuple):
    """What failed, and the name of the error."""

    component: str
    error_name: str

    @property
    def key(self) -> str:
        """The key of the cause's item in the failures table: printable, and at most 207 characters."""
        return f"{CAUSE_PREFIX}{_word(self.component)}#{_word(self.error_name)}"

    def __str__(self) -> str:
        return f"{self.component}: {self.error_name}"


def _word(name: str) -> str:
    if _PLAIN.match(name):
        return name
    digest = hashlib.sha256(name.encode(errors="surrogatepass"), usedforsecurity=False).hexdigest()[:16]
    return f"{re.sub('[^A-Za-z0-9_.:-]', '_', name[:60])}~{digest}"


def cause_of(failure: Failure) -> Cause:
    """The cause of a failure."""
    return Cause(failure.component, failure.error_name)


def is_transient(failure: Failure) -> bool:
    """Whether a failure's error is known to be transient, and a redrive needs no human."""
    name = failure.error_name
    bare = next((name.removeprefix(service) for service in SERVICES if name.startswith(service)), name)
    return failure.redrive.action in HEALABLE and (name in TRANSIENT or bare in TRANSIENT)


class Pace(Struct, kw_only=True, rename="camel", omit_defaults=True):
    """How a cause heals: an item of the failures table that is in no index, because it has no status.

    `size` is how many failures the next batch takes, `not_before` its earliest time. `batch` is the last one, sent at
    `sent_at`: how often each failure had been redriven before, by failure id. `pauses` counts the batches that failed
    since one advanced. `advanced_at` is when a batch last had a failure that advanced. `strikes` counts by failure id
    how often it failed again after others of its cause had advanced.
    """

    failure_id: str
    version: int = msgspec.field(default_factory=lambda: 0)  # never omitted as a default
    size: int = 1
    not_before: str | None = None
    batch: dict[str, int] = {}
    sent_at: str | None = None
    pauses: int = 0
    advanced_at: str | None = None
    strikes: dict[str, int] = {}
    expires_at: int | None = None


class Hold(Struct, frozen=True):
    """Who holds, since when, and what, in words."""

    by: str
    at: str
    what: str


class Holds(Struct, kw_only=True, rename="camel"):
    """What operators keep from healing by itself: one item of the failures table.

    `held` has the key of a cause, the id of a failure, or `EVERYTHING`.
    """

    failure_id: str = HOLDS_KEY
    version: int = 0
    held: dict[str, Hold] = {}

    def over(self, record: FailureRecord) -> Hold | None:
        """The hold that keeps this failure from healing; None if there is none."""
        for key in (EVERYTHING, cause_of(record).key, record.failure_id):
            if key in self.held:
                return self.held[key]
        return None


class Fate(Enum):
    """What became of a failure of the last batch."""

    ADVANCED = "advanced"
    FAILED = "failed"
    PENDING = "pending"
    UNSENT = "unsent"  # the healer has died or run out of time before


class Outlook(NamedTuple):
    """Whether a failure heals by itself.

    `human` says why a human is needed, "" if none is; `human_since` since when. `tried` is how often the failure was
    redriven, `not_before` the earliest time of the next batch of its cause, None if it is due. `hold` keeps the
    failure from healing.
    """

    human: str
    tried: int
    human_since: str | None = None
    not_before: str | None = None
    hold: Hold | None = None


def outlook(record: FailureRecord, pace: Pace | None, holds: Holds, *, now: str, enabled: bool = True) -> Outlook:
    """Whether an open failure heals by itself; `pace` is that of its cause, None if nothing was sent yet."""
    tried = record.redrives
    hold = holds.over(record)
    ends = timestamp_after(record.first_seen_at, HEALS_FOR_S)
    if not enabled:
        return Outlook("self-healing is switched off", tried, record.last_seen_at, hold=hold)
    if not is_transient(record):
        return Outlook("its error is not known to be transient", tried, record.last_seen_at, hold=hold)
    if pace and pace.strikes.get(record.failure_id, 0) >= MOST_STRIKES:
        why = f"it has failed again {MOST_STRIKES} times while others of its cause went on"
        return Outlook(why, tried, record.last_seen_at, hold=hold)
    if now >= ends:
        return Outlook("it has not healed within 24 hours", tried, max(ends, record.last_seen_at), hold=hold)
    due = pace.not_before if pace and pace.not_before and pace.not_before > now else None
    return Outlook("", tried, not_before=due, hold=hold)


def judged(pace: Pace, fates: Mapping[str, Fate], first_seen: Mapping[str, str], *, now: str) -> Pace | None:
    """The pace after its last batch; None while the batch has not shown yet how it went.

    `fates` is what became of the batch's failures; `first_seen` is when those that failed again were first seen.
    """
    overdue = pace.sent_at is None or timestamp_after(pace.sent_at, PATIENCE_S) <= now
    found = list(fates.values())
    advanced, failed, pending = (found.count(fate) for fate in (Fate.ADVANCED, Fate.FAILED, Fate.PENDING))
    if overdue:
        failed, pending = failed + pending, 0
    sent = advanced + failed + pending
    if not sent:  # nothing was sent, so nothing is known
        return msgspec.structs.replace(pace, batch={})
    if advanced * 2 < sent and failed * 2 <= sent:
        return None
    after = msgspec.structs.replace(pace, batch={}, advanced_at=now if advanced else pace.advanced_at)
    since = after.advanced_at or ""
    struck = [each for each, fate in fates.items() if fate is Fate.FAILED and first_seen[each] < since]
    after.strikes = _with_strikes(pace.strikes, struck)
    if advanced * 2 >= sent:
        after.size, after.pauses = max(pace.size, min(MOST, 2 * sent)), 0
    else:
        after.size, after.pauses = 1, pace.pauses + 1
        after.not_before = timestamp_after(now, PAUSES_S[min(after.pauses, len(PAUSES_S)) - 1])
    return after


def _with_strikes(strikes: Mapping[str, int], struck: Iterable[str]) -> dict[str, int]:
    counts = dict(strikes)
    for failure_id in struck:
        counts[failure_id] = counts.get(failure_id, 0) + 1
    most = sorted(counts.items(), key=lambda each: -each[1])[:MAX_STRUCK]
    return dict(most)


def with_batch(pace: Pace, candidates: Iterable[FailureRecord], *, now: str, most: int = MOST) -> Pace:
    """The pace with its next batch, of at most `most`; with an empty batch if it is too early or nothing is left.

    The failures that were redriven least go first, then the oldest: a failure that never heals can't block its cause.
    """
    if pace.not_before is not None and now < pace.not_before:
        return pace
    if pace.sent_at is not None and timestamp_after(pace.sent_at, FORGOTTEN_S) <= now:
        pace = msgspec.structs.replace(pace, size=1, pauses=0)
    waiting = sorted(candidates, key=lambda each: (each.redrives, each.first_seen_at, each.failure_id))
    chosen = waiting[: min(pace.size, most)]
    if not chosen:
        return pace
    return msgspec.structs.replace(
        pace,
        batch={each.failure_id: each.redrives for each in chosen},
        sent_at=now,
        not_before=timestamp_after(now, PACE_S),
    )


def fate_of(
    record: FailureRecord | None,
    redrives_before: int,
    *,
    moved_on: bool | None,
    now: str,
) -> Fate:
    """What became of a failure of the last batch; `record` is None if it is settled.

    `moved_on` says whether the order that waits for the failure has moved on since; None if no order waits for it.
    """
    if record is None:
        return Fate.ADVANCED
    if record.redrives <= redrives_before:
        return Fate.UNSENT
    if record.status is FailureStatus.NEW:
        return Fate.FAILED
    if moved_on is not None:
        return Fate.ADVANCED if moved_on else Fate.PENDING
    silence_s = SILENCE_S.get(record.redrive.action, PATIENCE_S)
    silent = record.sent_at is not None and timestamp_after(record.sent_at, silence_s) <= now
    return Fate.ADVANCED if silent else Fate.PENDING
