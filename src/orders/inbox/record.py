"""The failure inbox: a failure's record, its statuses and their transitions. Nothing in this module calls AWS."""

import hashlib

import msgspec
from msgspec import Struct

from orders.domain.clock import timestamp_after
from orders.domain.errors import NotAllowed
from orders.domain.order import StoredWord

MAX_HISTORY = 50
MAX_REMEMBERED = 50
RETENTION_DAYS = 90
# A claim without a confirmation within this time has died; another redrive may take it over.
CLAIM_LEASE_S = 120
# A settled failure that has been quiet for so long and occurs again has another cause.
ANOTHER_TROUBLE_S = 24 * 3600


class Kind(StoredWord):
    """The sink that a failure comes from."""

    RULE_TARGET = "rule-target"
    QUEUE = "queue"
    FUNCTION = "function"
    STREAM = "stream"
    EXECUTION = "execution"
    UNKNOWN = "unknown"


class FailureStatus(StoredWord):
    """The status of a failure."""

    NEW = "NEW"
    REDRIVEN = "REDRIVEN"
    RESOLVED = "RESOLVED"
    DISCARDED = "DISCARDED"


SETTLED = frozenset({FailureStatus.RESOLVED, FailureStatus.DISCARDED})


class Action(StoredWord):
    """How a redrive sends the payload."""

    SEND = "send"  # SendMessage to a queue
    INVOKE = "invoke"  # asynchronous invocation of a function
    DELIVER = "deliver"  # to the target of a rule, with the input that the rule gives it
    PUBLISH = "publish"  # a stream record through publish_events
    RESUME = "resume"  # a new execution, which continues at the order's present status
    NONE = "none"  # its destination is not known


class Redrive(Struct, frozen=True, omit_defaults=True):
    """The payload's destination: `to` is an ARN; `rule` is the rule's ARN where `to` is a rule's target."""

    action: Action
    to: str = ""
    rule: str = ""


class HistoryEntry(Struct, frozen=True, omit_defaults=True):
    """An action on a failure: when, by whom, and the action."""

    at: str
    by: str
    what: str
    detail: str | None = None


class Failure(Struct, kw_only=True, rename="camel", omit_defaults=True):
    """One failure, as parsed from its message.

    `occurrence` identifies one occurrence of the failure, and so tells a duplicate message from a second failure.
    `source` holds more about the place: request id, execution, rule, shard, message id. `payload` is the whole input
    of the failed step; base64 if it isn't text.
    """

    failure_id: str
    kind: Kind
    component: str
    resource_arn: str
    error_name: str
    error_message: str
    occurrence: str
    redrive: Redrive
    attempts: int = 1
    stack_trace: list[str] = []
    order_id: str | None = None
    customer_id: str | None = None
    correlation_id: str | None = None
    payload: str | None = None
    payload_encoding: str = "text"
    payload_key: str | None = None
    note: str | None = None
    source: dict[str, str] = {}


class FailureRecord(Failure, kw_only=True):
    """A failure as the failures table holds it.

    `count` is the number of messages about it, `version` the optimistic lock. A redrive claims the record first
    (`claimed_at`) and confirms after sending (`sent_at`). `expires_at` (epoch seconds) is set once it is settled.
    `first_seen_at` is when the present trouble began: see `_began_at`.
    """

    status: FailureStatus
    version: int = msgspec.field(default_factory=lambda: 1)  # never omitted as a default
    count: int = msgspec.field(default_factory=lambda: 1)
    first_seen_at: str
    last_seen_at: str
    redrives: int = 0
    claimed_at: str | None = None
    claimed_by: str | None = None
    sent_at: str | None = None
    reason: str | None = None
    expires_at: int | None = None
    history: list[HistoryEntry] = []
    occurrences: list[str] = []
    message_ids: list[str] = []


def failure_id_of(kind: Kind, identity: tuple[str, ...]) -> str:
    """The id of a failure: reports of the same failure have the same identity and so are one record."""
    text = "\n".join((kind, *identity))
    return hashlib.sha256(text.encode(errors="surrogatepass"), usedforsecurity=False).hexdigest()[:20]


def first_seen(failure: Failure, *, at: str, message_id: str) -> FailureRecord:
    """The record of a failure at its first message."""
    fields = {name: getattr(failure, name) for name in Failure.__struct_fields__}
    return FailureRecord(
        **fields,
        status=FailureStatus.NEW,
        first_seen_at=at,
        last_seen_at=at,
        history=[HistoryEntry(at, "capture", "captured", failure.error_name)],
        occurrences=[failure.occurrence],
        message_ids=[message_id],
    )


def seen_again(record: FailureRecord, failure: Failure, *, at: str, message_id: str) -> FailureRecord:
    """The record after another message about the same failure.

    A second delivery of the same message changes nothing. Another message about the same occurrence only counts. A
    new occurrence, such as after a redrive, makes the record NEW, with the latest error and the latest payload.
    """
    if message_id in record.message_ids:
        return record
    seen = msgspec.structs.replace(
        record,
        count=record.count + 1,
        last_seen_at=at,
        message_ids=[*record.message_ids, message_id][-MAX_REMEMBERED:],
    )
    if failure.occurrence in record.occurrences:
        return seen
    return msgspec.structs.replace(
        seen,
        status=FailureStatus.NEW,
        first_seen_at=_began_at(record, at),
        error_name=failure.error_name,
        error_message=failure.error_message,
        stack_trace=failure.stack_trace,
        attempts=failure.attempts,
        component=failure.component,
        source=failure.source,
        **(_payload_of(failure) if failure.payload or failure.payload_key else {}),
        claimed_at=None,
        claimed_by=None,
        sent_at=None,
        reason=None,
        expires_at=None,
        occurrences=[*record.occurrences, failure.occurrence][-MAX_REMEMBERED:],
        history=_history(record, HistoryEntry(at, "capture", "failed again", failure.error_name)),
    )


def _began_at(record: FailureRecord, at: str) -> str:
    """The time when the trouble of a failure that occurs at the time `at` began; healing ends a day later.

    What a human has discarded, or what was over for a day, is not the same trouble: the undoing of a discarded order,
    or another failure of a scheduled function, heals for a day of its own. What was resolved because nothing came
    back in time, and comes back after all, is the same.
    """
    over = record.status in SETTLED and timestamp_after(record.last_seen_at, ANOTHER_TROUBLE_S) <= at
    return at if over or record.status is FailureStatus.DISCARDED else record.first_seen_at


def claimed(record: FailureRecord, *, at: str, lease_expired: bool, by: str, again: bool = False) -> FailureRecord:
    """The record after a redrive has claimed it. Raises `NotAllowed`.

    `lease_expired` says that an unconfirmed claim is older than `CLAIM_LEASE_S`; `again` also claims a record whose
    payload was sent before.
    """
    match record.status:
        case FailureStatus.RESOLVED | FailureStatus.DISCARDED:
            raise NotAllowed(f"it is {record.status} already, since {record.history[-1].at}")
        case FailureStatus.REDRIVEN if record.sent_at is not None and not again:
            raise NotAllowed(
                f"it was redriven at {record.sent_at} by {record.claimed_by}; --again sends it once more"
            )
        case FailureStatus.REDRIVEN if record.sent_at is None and not lease_expired:
            raise NotAllowed(f"{record.claimed_by} is redriving it just now, since {record.claimed_at}")
    # A claim that takes over a dead one is the same redrive, so it keeps the number.
    taken_over = record.status is FailureStatus.REDRIVEN and record.sent_at is None
    return msgspec.structs.replace(
        record,
        status=FailureStatus.REDRIVEN,
        redrives=record.redrives if taken_over else record.redrives + 1,
        claimed_at=at,
        claimed_by=by,
        sent_at=None,
        history=_history(record, HistoryEntry(at, by, "redrive claimed")),
    )


def sent(record: FailureRecord, *, at: str, detail: str) -> FailureRecord:
    """The record after its payload was sent."""
    entry = HistoryEntry(at, record.claimed_by or "?", "redriven", detail)
    return msgspec.structs.replace(record, sent_at=at, history=_history(record, entry))


def released(record: FailureRecord, *, at: str, detail: str) -> FailureRecord:
    """The record after its payload could not be sent: NEW again."""
    entry = HistoryEntry(at, record.claimed_by or "?", "redrive failed", detail)
    return msgspec.structs.replace(
        record, status=FailureStatus.NEW, claimed_at=None, claimed_by=None, history=_history(record, entry)
    )


def settled(
    record: FailureRecord, status: FailureStatus, *, at: str, expires_at: int, by: str, reason: str
) -> FailureRecord:
    """The record after it was settled: RESOLVED or DISCARDED. Raises `NotAllowed`."""
    if record.status in SETTLED:
        raise NotAllowed(f"it is {record.status} already, since {record.history[-1].at}")
    entry = HistoryEntry(at, by, status.value.lower(), reason)
    return msgspec.structs.replace(
        record, status=status, reason=reason, expires_at=expires_at, history=_history(record, entry)
    )


def _payload_of(failure: Failure) -> dict[str, str | None]:
    return {name: getattr(failure, name) for name in ("payload", "payload_encoding", "payload_key")}


def _history(record: FailureRecord, entry: HistoryEntry) -> list[HistoryEntry]:
    return [*record.history, entry][-MAX_HISTORY:]
