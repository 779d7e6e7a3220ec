"""Which failures heal by themselves, and at which pace."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from measure.benchmarks import healing as simulated
from measure.benchmarks.healing import BEGIN, CAUSE, Simulation
from orders.domain.clock import timestamp_after
from orders.domain.order import Status
from orders.inbox.healing import (
    EVERYTHING,
    FORGOTTEN_S,
    HEALS_FOR_S,
    MAX_STRUCK,
    MOST,
    MOST_STRIKES,
    PATIENCE_S,
    PAUSES_S,
    Cause,
    Fate,
    Hold,
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
from orders.inbox.record import Action, FailureRecord, FailureStatus, Kind, Redrive, seen_again
from orders.redrive.healer import Standing

ADVANCED, FAILED, PENDING, UNSENT = Fate.ADVANCED, Fate.FAILED, Fate.PENDING, Fate.UNSENT
MACHINE = "arn:aws:states:us-east-1:123456789012:stateMachine:m"


def at(seconds: float) -> str:
    return timestamp_after(BEGIN, seconds)


def a_failure(number: int = 1, **changes: Any) -> FailureRecord:
    record = FailureRecord(
        failure_id=f"{number:020}",
        kind=Kind.EXECUTION,
        component="ProcessPayment",
        resource_arn=MACHINE,
        error_name="PaymentProviderError",
        error_message="503",
        occurrence="1",
        redrive=Redrive(Action.RESUME, MACHINE),
        order_id=f"order-{number}",
        customer_id="c",
        status=FailureStatus.NEW,
        first_seen_at=at(0),
        last_seen_at=at(0),
    )
    return msgspec.structs.replace(record, **changes)


def a_pace(**changes: Any) -> Pace:
    return msgspec.structs.replace(Pace(failure_id="cause#c#e"), **changes)


# ---- Causes


@pytest.mark.parametrize(
    "name",
    [
        "PaymentProviderError",
        "WarehouseUnavailable",
        "Busy",
        "Contended",
        "States.Timeout",
        "Sandbox.Timedout",
        "TooManyReceives",
        "EventAgeExceeded",
        "Lambda.TooManyRequestsException",
        "Lambda.ServiceException",
        "Lambda.SdkClientException",
        "Lambda.Unknown",
        "Runtime.ExitError",
        "DynamoDB.ProvisionedThroughputExceededException",
        "DynamoDb.InternalServerError",
        "SQS.SdkClientException",
        "ProvisionedThroughputExceededException",
        "ReadTimeoutError",
        "ConnectTimeoutError",
        "EndpointConnectionError",
        "THROTTLING",
        "TIMEOUT",
        "INTERNAL_ERROR",
        "CONNECTION_FAILURE",
    ],
)
def test_a_transient_error_heals_by_itself(name: str) -> None:
    assert is_transient(a_failure(error_name=name))


@pytest.mark.parametrize(
    "name",
    [
        "MailRefused",
        "KeyError",
        "Unreadable",
        "IllegalTransition",
        "TransactionCanceledException",
        "AccessDeniedException",
        "DynamoDB.AccessDeniedException",
        "NO_PERMISSIONS",
        "NO_RESOURCE",
        "RetriesExhausted",
        "NoProgress",
        "States.Runtime",
        "Unknown",
        "Other.ThrottlingException",
        "",
    ],
)
def test_any_other_error_is_a_humans(name: str) -> None:
    failure = a_failure(error_name=name)
    assert not is_transient(failure)
    assert outlook(failure, None, Holds(), now=at(0)).human


@pytest.mark.parametrize(
    ("status", "last_seen_s", "heals"),
    [
        (FailureStatus.DISCARDED, 2 * HEALS_FOR_S - 1, True),  # the undoing of the discarded order got stuck
        (FailureStatus.RESOLVED, HEALS_FOR_S, True),  # a scheduled function fails again, a day later
        (FailureStatus.RESOLVED, HEALS_FOR_S + 1, False),  # it was quiet, but not over
        (FailureStatus.REDRIVEN, 0, False),  # it was never over
    ],
)
def test_another_trouble_heals_for_a_day_of_its_own(status: FailureStatus, last_seen_s: float, heals: bool) -> None:
    # GIVEN a failure of the day before yesterday
    record = a_failure(status=status, last_seen_at=at(last_seen_s))

    # WHEN it occurs again
    later = at(2 * HEALS_FOR_S)
    again = seen_again(record, a_failure(occurrence="2"), at=later, message_id="message-2")

    # THEN healing goes by the age of the present trouble
    assert (not outlook(again, None, Holds(), now=later).human) is heals
    assert outlook(again, None, Holds(), now=at(3 * HEALS_FOR_S)).human


@pytest.mark.parametrize("action", [Action.PUBLISH, Action.NONE, Action("newer")])
def test_only_what_can_be_sent_without_looking_heals(action: Action) -> None:
    assert not is_transient(a_failure(redrive=Redrive(action, MACHINE)))


@given(st.text(max_size=128), st.text(max_size=256))
def test_a_causes_key_is_printable_and_bounded(component: str, error: str) -> None:
    key = Cause(component, error).key
    assert key.isascii()
    assert key.isprintable()
    assert len(key) <= 207


@given(st.tuples(st.text(max_size=80), st.text(max_size=80)), st.tuples(st.text(max_size=80), st.text(max_size=80)))
def test_two_causes_have_two_keys(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (Cause(*one).key == Cause(*other).key) == (one == other)


def test_a_plain_causes_key_can_be_read() -> None:
    assert cause_of(a_failure()).key == "cause#ProcessPayment#PaymentProviderError"
    assert Cause("a#b", "c").key != Cause("a", "b#c").key


# ---- Outlook


def test_a_failure_that_was_never_redriven_is_due() -> None:
    assert outlook(a_failure(), None, Holds(), now=at(1)) == Outlook("", 0)


def test_the_outlook_tells_tries_and_the_next_time() -> None:
    found = outlook(a_failure(redrives=3), a_pace(not_before=at(60)), Holds(), now=at(59))
    assert found == Outlook("", 3, not_before=at(60))
    assert outlook(a_failure(), a_pace(not_before=at(60)), Holds(), now=at(60)).not_before is None


def test_after_a_day_a_human_is_needed() -> None:
    record = a_failure(last_seen_at=at(5))
    assert not outlook(record, None, Holds(), now=at(HEALS_FOR_S - 1)).human
    found = outlook(record, None, Holds(), now=at(HEALS_FOR_S))
    assert (found.human, found.human_since) == ("it has not healed within 24 hours", at(HEALS_FOR_S))


def test_switched_off_everything_is_a_humans() -> None:
    assert outlook(a_failure(), None, Holds(), now=at(1), enabled=False).human == "self-healing is switched off"


@pytest.mark.parametrize("key", [EVERYTHING, cause_of(a_failure()).key, a_failure().failure_id])
def test_a_hold_is_seen_and_is_no_page(key: str) -> None:
    held = Hold("ada", at(0), "it")
    found = outlook(a_failure(), None, Holds(held={key: held}), now=at(1))
    assert (found.hold, found.human) == (held, "")
    assert outlook(a_failure(2, component="x"), None, Holds(held={"cause#y#z": held}), now=at(1)).hold is None


def test_what_is_held_for_a_day_pages() -> None:
    holds = Holds(held={EVERYTHING: Hold("ada", at(0), "it")})
    assert outlook(a_failure(), None, holds, now=at(HEALS_FOR_S)).human


# ---- What became of a batch


@pytest.mark.parametrize(
    ("changes", "moved_on", "now_s", "fate"),
    [
        ({"redrives": 0}, None, 60, UNSENT),
        ({"redrives": 1}, None, 60, FAILED),
        ({"redrives": 1, "status": FailureStatus.REDRIVEN}, True, 60, ADVANCED),
        ({"redrives": 1, "status": FailureStatus.REDRIVEN}, False, 60, PENDING),
        ({"redrives": 1, "status": FailureStatus.REDRIVEN}, None, 10_000, PENDING),  # never confirmed
        ({"redrives": 1, "status": FailureStatus.REDRIVEN, "sent_at": at(0)}, None, 269, PENDING),
        ({"redrives": 1, "status": FailureStatus.REDRIVEN, "sent_at": at(0)}, None, 270, ADVANCED),
    ],
)
def test_the_fate_of_a_redriven_failure(
    changes: dict[str, Any], moved_on: bool | None, now_s: int, fate: Fate
) -> None:
    record = a_failure(redrive=Redrive(Action.INVOKE, "arn"), **changes)
    assert fate_of(record, 0, moved_on=moved_on, now=at(now_s)) is fate


def test_what_is_settled_has_advanced() -> None:
    assert fate_of(None, 0, moved_on=None, now=at(0)) is ADVANCED


def test_a_queue_is_silent_sooner_than_a_function() -> None:
    sent: dict[str, Any] = {"redrives": 1, "status": FailureStatus.REDRIVEN, "sent_at": at(0)}
    mail = a_failure(redrive=Redrive(Action.SEND, "arn"), **sent)
    assert fate_of(mail, 0, moved_on=None, now=at(120)) is ADVANCED


# ---- Pace


def after(fates: list[Fate], *, now_s: float = 60, **changes: Any) -> Pace | None:
    batch = {f"{number:020}": 0 for number in range(len(fates))}
    pace = a_pace(batch=batch, sent_at=at(0), **changes)
    known = dict.fromkeys(batch, at(-100))
    return judged(pace, dict(zip(batch, fates, strict=True)), known, now=at(now_s))


@pytest.mark.parametrize(
    ("fates", "size", "pauses"),
    [
        ([ADVANCED], 2, 0),
        ([FAILED], 1, 3),
        ([ADVANCED, FAILED], 4, 0),
        ([ADVANCED, FAILED, FAILED], 1, 3),
        ([ADVANCED, ADVANCED, PENDING, PENDING], 8, 0),
        ([ADVANCED, UNSENT, UNSENT], 2, 0),
        ([FAILED, FAILED, PENDING], 1, 3),
    ],
)
def test_half_decides(fates: list[Fate], size: int, pauses: int) -> None:
    found = after(fates, pauses=2)
    assert found is not None
    assert (found.size, found.pauses, found.batch) == (size, pauses, {})


@pytest.mark.parametrize(
    "fates", [[PENDING], [ADVANCED, PENDING, PENDING], [FAILED, PENDING], [FAILED, ADVANCED, PENDING]]
)
def test_as_long_as_half_is_not_known_the_next_batch_waits(fates: list[Fate]) -> None:
    assert after(fates, now_s=PATIENCE_S - 1) is None


def test_what_stays_pending_counts_as_failed() -> None:
    found = after([PENDING], now_s=PATIENCE_S)
    assert found is not None
    assert (found.size, found.not_before) == (1, at(PATIENCE_S + PAUSES_S[0]))


def test_a_batch_that_was_never_sent_says_nothing() -> None:
    found = after([UNSENT, UNSENT], size=4, pauses=1)
    assert found is not None
    assert (found.size, found.pauses, found.batch) == (4, 1, {})


def test_the_pauses_grow_to_a_quarter_of_an_hour() -> None:
    pauses = []
    for number in range(7):
        found = after([FAILED], pauses=number)
        assert found is not None
        pauses.append(found.not_before)
    assert pauses == [at(60 + pause) for pause in (60, 120, 240, 480, 900, 900, 900)]


def test_a_batch_is_never_larger_than_the_most() -> None:
    found = after([ADVANCED] * MOST, size=MOST)
    assert found is not None
    assert found.size == MOST


def test_a_small_batch_does_not_shrink_what_was_reached() -> None:
    found = after([ADVANCED], size=64)
    assert found is not None
    assert found.size == 64


@given(st.lists(st.sampled_from(Fate), min_size=1, max_size=20), st.integers(1, MOST), st.integers(0, 20))
def test_a_pace_is_always_sane(fates: list[Fate], size: int, pauses: int) -> None:
    found = after(fates, size=size, pauses=pauses, now_s=PATIENCE_S)
    assert found is not None  # after its patience, every batch is judged
    assert 1 <= found.size <= MOST
    assert found.batch == {}
    if Fate.ADVANCED not in fates and {Fate.FAILED, Fate.PENDING} & set(fates):
        assert found.size == 1
        assert (found.not_before or "") > at(PATIENCE_S)


# ---- Poison


def test_a_strike_needs_another_one_that_advanced_since() -> None:
    alone = after([FAILED])
    beside = after([FAILED, ADVANCED])
    before = after([FAILED], advanced_at=at(-101))  # before the failure was first seen
    since = after([FAILED], advanced_at=at(-99))
    assert [found and found.strikes for found in (alone, beside, before, since)] == [
        {},
        {f"{0:020}": 1},
        {},
        {f"{0:020}": 1},
    ]


def test_after_five_strikes_a_failure_is_poison() -> None:
    record = a_failure()
    for strikes in range(MOST_STRIKES):
        assert not outlook(record, a_pace(strikes={record.failure_id: strikes}), Holds(), now=at(1)).human
    assert outlook(record, a_pace(strikes={record.failure_id: MOST_STRIKES}), Holds(), now=at(1)).human


def test_the_strikes_stay_bounded_and_keep_the_worst() -> None:
    known = {f"old-{number}": 2 for number in range(MAX_STRUCK)}
    found = after([FAILED, ADVANCED], strikes=known)
    assert found is not None
    assert found.strikes == known


# ---- The next batch


def chosen(pace: Pace, records: list[FailureRecord], now_s: float = 60) -> list[str]:
    return list(with_batch(pace, records, now=at(now_s)).batch)


def test_least_redriven_first_then_oldest() -> None:
    records = [
        a_failure(1, redrives=2, first_seen_at=at(0)),
        a_failure(2, redrives=0, first_seen_at=at(20)),
        a_failure(3, redrives=0, first_seen_at=at(10)),
        a_failure(4, redrives=1, first_seen_at=at(0)),
    ]
    ids = [f"{number:020}" for number in (3, 2, 4, 1)]
    assert chosen(a_pace(size=10), records) == ids
    assert chosen(a_pace(size=2), records) == ids[:2]
    assert with_batch(a_pace(size=10), records, now=at(60)).batch == dict(zip(ids, (0, 0, 1, 2), strict=True))


def test_before_its_time_nothing_is_sent() -> None:
    pace = a_pace(not_before=at(61))
    assert with_batch(pace, [a_failure()], now=at(60)) is pace
    assert chosen(pace, [a_failure()], now_s=61) == [a_failure().failure_id]


def test_without_failures_nothing_changes() -> None:
    pace = a_pace(size=8)
    assert with_batch(pace, [], now=at(60)) is pace


def test_an_old_success_is_forgotten() -> None:
    records = [a_failure(number) for number in range(10)]
    pace = a_pace(size=8, pauses=3, sent_at=at(0))
    assert len(chosen(pace, records, now_s=FORGOTTEN_S - 1)) == 8
    assert len(chosen(pace, records, now_s=FORGOTTEN_S)) == 1


# ---- The whole, simulated


def test_an_hours_outage_needs_nobody_but_for_its_poison() -> None:
    figures = simulated.simulate(failures=1000, outage_min=60, poison=1)

    # THEN during the outage a few probes are sent, and afterwards everything heals
    sent = [row["redriven"] for row in figures["minutes"]]
    assert max(sent[:60]) == 1
    assert figures["redrivenDuringOutage"] <= 10
    assert max(sent) <= MOST
    ramp = [number for number in sent[60:] if number > 1][:8]
    assert ramp == [2**number for number in range(1, 9)]
    assert figures["healedAfterMinutes"] <= 30
    # AND the poison blocks nobody, and is a human's in the end
    assert figures["forHumans"] == [f"{0:020}"]
    assert figures["firstHumanAtMinute"] > 60 + figures["healedAfterMinutes"]
    assert MOST_STRIKES <= figures["redrivesOfPoison"][0] <= 10


def test_without_poison_an_hours_outage_needs_nobody() -> None:
    figures = simulated.simulate(failures=50, outage_min=60, poison=0)
    assert (figures["forHumans"], figures["firstHumanAtMinute"], figures["minutes"][-1]["inInbox"]) == ([], None, 0)


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_few_failures_of_a_long_outage_are_no_poison(failures: int) -> None:
    figures = simulated.simulate(failures=failures, outage_min=600, poison=0)
    assert (figures["forHumans"], figures["firstHumanAtMinute"]) == ([], None)


def parked(count: int, fails: Any = lambda *_: False) -> Simulation:
    simulation = Simulation(fails)
    for number in range(count):
        simulation.park(number)
    return simulation


def test_of_two_healers_at_once_one_sends() -> None:
    simulation = parked(3)
    second = Simulation(lambda *_: False)
    second.records, second.orders, second.seconds = dict(simulation.records), simulation.orders, 1.0
    first = simulation.heal()
    second.store_pace = simulation.store_pace  # type: ignore[method-assign]

    found = second.heal()

    assert (first.results["redriven"], found.results["redriven"]) == (1, 0)


def die(failure_id: str) -> str:
    raise RuntimeError(failure_id)


def test_a_healer_that_dies_before_it_sends_does_not_slow_its_cause_down() -> None:
    simulation = parked(3)
    simulation.go_to(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulation, "redrive", die)
        assert list(simulation.heal().problems) == [str(CAUSE)]

    simulation.go_to(60)

    assert simulation.heal().results["redriven"] == 1
    assert simulation.pace(CAUSE).pauses == 0


def test_a_claim_that_died_is_taken_over_once_its_lease_is_over() -> None:
    simulation = parked(1)
    (record,) = simulation.records.values()
    record.status, record.claimed_at, record.claimed_by = FailureStatus.REDRIVEN, simulation.now, "healing"
    simulation.go_to(100)
    assert simulation.heal().sent == []
    simulation.go_to(121)
    simulation.redrive = lambda failure_id: "redriven"  # type: ignore[method-assign]
    assert simulation.heal().sent == [record.failure_id]


def test_what_is_held_waits_but_undoing_does_not() -> None:
    simulation = parked(3)
    simulation.orders["order-2"] = Standing(Status.FAILING, simulation.now)
    simulation.held = Holds(held={CAUSE.key: Hold("ada", simulation.now, str(CAUSE))})
    simulation.go_to(60)

    found = simulation.heal()

    assert (found.sent, found.held, found.for_humans) == ([f"{2:020}"], 2, 0)
    simulation.held = Holds()
    simulation.go_to(120)
    simulation.sweep()
    assert len(simulation.heal().sent) == 2


def test_a_failure_pages_when_it_becomes_a_humans_and_not_for_ever() -> None:
    simulation = parked(1)
    (record,) = simulation.records.values()
    record.error_name = "KeyError"

    simulation.go_to(599)
    assert (simulation.heal().for_humans, simulation.heal().new_for_humans) == (1, 1)
    simulation.go_to(601)
    assert (simulation.heal().for_humans, simulation.heal().new_for_humans) == (1, 0)


def test_a_cause_whose_item_cannot_be_read_is_a_humans_and_stops_no_other() -> None:
    simulation = parked(2)
    broken, other = simulation.records.values()
    broken.component = "Broken"
    real = simulation.pace

    def pace(cause: Cause) -> Pace:
        if cause.component == "Broken":
            raise msgspec.ValidationError("damaged")
        return real(cause)

    simulation.pace = pace  # type: ignore[method-assign]
    found = simulation.heal()

    assert (found.for_humans, found.sent, list(found.problems)) == (
        1,
        [other.failure_id],
        [f"Broken: {CAUSE.error_name}"],
    )


def test_a_run_without_time_sends_nothing_and_the_next_one_goes_on() -> None:
    simulation = parked(2)
    from orders.redrive.healer import Healer

    def run(in_time: bool) -> list[str]:
        healer = Healer(simulation, simulation.redrive, simulation.standings, "queue", lambda: in_time)
        return healer.run(simulation.now).sent

    assert run(in_time=False) == []
    simulation.go_to(60)
    assert len(run(in_time=True)) == 1
