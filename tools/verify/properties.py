"""Properties: whatever happens, in whatever order, the promise holds.

A story is a sequence of submissions, retries, cancellations, deliveries, copies, crashes, lost answers, conflicts,
time-outs and redrives. Whatever is at work stops before each of its calls to a service, and the story says which
one goes on and what becomes of its call. After each step `World.check` must find nothing wrong; at the end
everything works again, the inbox is redriven, and `World.check_end` must find every order ended as it should.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from verify import services
from verify import template as blueprint
from verify.scheduler import Actor, Verdict
from verify.services import Json
from verify.simulation import NOT_REENTRANT, Delivery, World, body_of, consumer_of, is_queue
from verify.workflow import Execution

MOST_ACTORS = 4
MOST_ORDERS = 4

index = st.integers(0, 5)
verdicts = st.sampled_from([Verdict.GO, Verdict.GO, *Verdict])
bodies = st.builds(
    body_of,
    st.dictionaries(st.sampled_from(["apple", "pear"]), st.integers(1, 3), min_size=1),
    token=st.sampled_from(
        [
            "tok_visa",
            "tok_declined",
            "tok_provider_down_7",
            "tok_timeout_after_charge",
            "tok_refund_down_2",
            "tok_receipt_down_4",
        ]
    ),
    postal=st.sampled_from(["1000", "TEST-REFUSED", "TEST-DOWN-6"]),
)


class Story(RuleBasedStateMachine):
    """One world, told step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.actors: list[Actor] = []
        self.requests: list[tuple[Json, str, str | None]] = []

    # ---- Customers

    @precondition(lambda self: len(self.requests) < MOST_ORDERS and self._room())
    @rule(body=bodies, customer=st.sampled_from(["ada", "bob"]), key=st.sampled_from([None, "key-1", "key-2"]))
    def submit(self, body: Json, customer: str, key: str | None) -> None:
        """A customer sends an order, with an Idempotency-Key or without."""
        self.requests.append((body, customer, key))
        self._spawn("AcceptOrderFunction", lambda: self.world.submit(body, customer=customer, key=key))

    @precondition(lambda self: any(key for _, _, key in self.requests) and self._room())
    @rule(which=index)
    def submit_again(self, which: int) -> None:
        """A client that saw no answer sends the same request again."""
        keyed = [request for request in self.requests if request[2]]
        body, customer, key = keyed[which % len(keyed)]
        self._spawn("AcceptOrderFunction", lambda: self.world.submit(body, customer=customer, key=key))

    @precondition(lambda self: self.world.accepted and self._idle("QueryOrdersFunction"))
    @rule(which=index)
    def cancel(self, which: int) -> None:
        """A customer cancels an order."""
        order = self.world.accepted[which % len(self.world.accepted)]
        self._spawn("QueryOrdersFunction", lambda: self.world.cancel(order.order_id, customer=order.customer))

    # ---- Deliveries

    @precondition(lambda self: self._idle("PublishEventsFunction") and self._unpublished())
    @rule(batch=st.integers(1, 5))
    def publish(self, batch: int) -> None:
        """The stream hands its next records to the outbox's relay."""
        self._spawn("PublishEventsFunction", lambda: self.world.publish(batch))

    @precondition(lambda self: self._idle("PublishEventsFunction") and self.world.stream_position)
    @rule(start=index)
    def publish_again(self, start: int) -> None:
        """The stream repeats records that were published before."""
        start %= self.world.stream_position
        self._spawn("PublishEventsFunction", lambda: self.world.publish(5, start))

    @precondition(lambda self: self._deliverable() and self._room())
    @rule(which=index)
    def deliver(self, which: int) -> None:
        """Any of the messages on their way arrives; so they arrive in any order."""
        self._deliver(which)

    @precondition(lambda self: self._deliverable() and self._room())
    @rule(which=index)
    def deliver_a_copy(self, which: int) -> None:
        """A message arrives, and is still on its way a second time."""
        found = self._deliverable()
        original = found[which % len(found)]
        if original.copies < 2:
            original.copies += 1
            self.world.pending.append(Delivery(original.to, original.payload, copies=2))
        self._deliver(which)

    def _deliver(self, which: int) -> None:
        found = self._deliverable()
        first = found[which % len(found)]
        if first.to == blueprint.WORKFLOW:
            self.world.pending.remove(first)
            self._start(json.loads(first.payload))
        elif is_queue(first.to):
            batch = [first, *(each for each in found if each.to == first.to and each is not first)][:3]
            for each in batch:
                self.world.pending.remove(each)
            self._spawn(
                consumer_of(first.to),
                lambda: self.world.consume(batch),
                lambda actor: self._batch_ended(batch, actor),
            )
        else:
            self.world.pending.remove(first)
            self._spawn(
                first.to, lambda: self.world.attempt(first), lambda actor: self._settle(first, actor.error is None)
            )

    def _start(self, data: Json) -> None:
        execution = self.world.execution(data)
        self._spawn("execution", execution.run, lambda _: self.world.ended(execution))

    def _batch_ended(self, batch: list[Delivery], actor: Actor) -> None:
        failed = range(len(batch)) if actor.error else actor.result
        for number, delivery in enumerate(batch):
            self._settle(delivery, number not in failed)

    def _settle(self, delivery: Delivery, well: bool) -> None:
        self.world.pending.append(delivery)
        self.world.settle_delivery(delivery, well, "it failed")

    # ---- What is at work

    @precondition(lambda self: self.actors)
    @rule(which=index, verdict=verdicts)
    def step(self, which: int, verdict: Verdict) -> None:
        """Whatever is at work makes its next call, and this becomes of it."""
        actor = self.actors[which % len(self.actors)]
        if actor.name == "NotifyCustomerFunction" and verdict is not Verdict.GO:
            # A mail can't be taken back, and that it was sent is noted after: the one thing that may come twice.
            self.world.excused_mails += 1
        actor.step(verdict)
        self._forget_ended()

    @precondition(lambda self: self.actors)
    @rule(which=index)
    def go_on(self, which: int) -> None:
        """Whatever is at work goes on to its end, or to where it waits for somebody else."""
        actor = self.actors[which % len(self.actors)]
        while not actor.done and not (actor.point or "").endswith("waiting"):
            actor.step()
        actor.step()
        self._forget_ended()

    @precondition(lambda self: self.world.inbox)
    @rule(which=index)
    def redrive(self, which: int) -> None:
        """An operator sends something in the inbox on its way again."""
        inbox = self.world.inbox
        self.world.redrive(inbox[which % len(inbox)])

    @precondition(lambda self: self.world.inbox and self._room())
    @rule(which=index)
    def discard(self, which: int) -> None:
        """An operator gives something in the inbox up, whatever it is and wherever its order has come to."""
        inbox = self.world.inbox
        failure = inbox[which % len(inbox)]
        self._spawn("operator", lambda: self.world.discard(failure))

    @precondition(lambda self: self._deliverable())
    @rule(which=index)
    def cannot_be_delivered(self, which: int) -> None:
        """A rule gives its target up: a permission is missing, or the target is gone."""
        found = self._deliverable()
        self.world.cannot_be_delivered(found[which % len(found)])

    @precondition(lambda self: self._unpublished() and self._idle("PublishEventsFunction"))
    @rule()
    def cannot_be_read(self) -> None:
        """A record of the stream can't be read until somebody mends the code or the item."""
        self.world.cannot_be_read(self.world.stream_position)

    @rule(
        service=st.sampled_from(["dynamodb", "events", "sqs", "s3", "stepfunctions"]),
        how=st.sampled_from([Verdict.REFUSED, Verdict.PARTIAL, Verdict.LOST]),
    )
    def outage(self, service: str, how: Verdict) -> None:
        """A service works badly until it is mended."""
        services.outages[service] = services.Outage(how)

    @precondition(lambda self: bool(services.outages))
    @rule()
    def mend(self) -> None:
        """Every service works again."""
        services.outages.clear()

    # ---- What must hold

    @invariant()
    def nothing_is_wrong(self) -> None:
        """At any moment."""
        wrong = self.world.check()
        assert not wrong, "\n".join(wrong)

    def teardown(self) -> None:
        """Once everything works again and the inbox is redriven."""
        try:
            services.outages.clear()
            for _ in range(1_000):
                if not self.actors:
                    break
                for actor in list(self.actors):
                    # What waits for the warehouse gets its answer if one is on its way, else it times out.
                    actor.step(Verdict.TIMEOUT if (actor.point or "").endswith("waiting") else Verdict.GO)
                self._forget_ended()
            for _ in range(2):
                self.world.settle()
                wrong = self.world.check_end()
                assert not wrong, "\n".join(wrong)
                self.world.stream_position = 0  # once more, now with all events repeated
        finally:
            for actor in self.actors:
                actor.abandon()

    # ---- Small helpers

    def _spawn(self, name: str, work: Callable[[], Any], at_end: Callable[[Actor], None] | None = None) -> None:
        self.actors.append(Actor(name, work, at_end))

    def _room(self) -> bool:
        return len(self.actors) < MOST_ACTORS

    def _idle(self, function: str) -> bool:
        return self._room() and all(actor.name != function for actor in self.actors)

    def _unpublished(self) -> int:
        return len(services.stream("OrdersTable")) - self.world.stream_position

    def _deliverable(self) -> list[Delivery]:
        busy = {actor.name for actor in self.actors}
        return [
            delivery
            for delivery in self.world.pending
            if (consumer_of(delivery.to) if is_queue(delivery.to) else delivery.to) not in busy & NOT_REENTRANT
        ]

    def _forget_ended(self) -> None:
        for actor in self.actors:
            if actor.done and actor.error is not None:
                _expected(actor)
        self.actors = [actor for actor in self.actors if not actor.done]


def _expected(actor: Actor) -> None:
    """Errors are the functions' business, except those of the proof itself."""
    if isinstance(actor.error, NotImplementedError | AssertionError | TypeError | NameError):
        raise actor.error


__all__ = ["Execution", "Story"]
