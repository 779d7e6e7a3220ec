"""Properties: the invariants hold whatever happens, in whatever order.

A story is a random sequence of submissions, retries, cancellations, deliveries, duplicates, crashes, lost answers,
conflicts, deaths, restarts, redrives, sweeps and time that passes. Each process stops before each of its calls to a
service; the story chooses which process goes on and what becomes of its call. After each step `Simulation.check`
must find nothing wrong. At the end every fault is over, the inbox is redriven, and `Simulation.check_end` must find
nothing wrong.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from verify import clock, services, template
from verify.scheduler import CallOutcome, Process
from verify.services import Json
from verify.simulation import CATALOGUE, HOUR_S, NOT_REENTRANT, Delivery, Simulation, body_of, consumer_of, is_queue

MOST_PROCESSES = 4
MOST_ORDERS = 4
# Acts that always make sense would else fill a story.
MOST_OF_EACH = 3

index = st.integers(0, 5)
outcomes = st.sampled_from([CallOutcome.GO, CallOutcome.GO, *CallOutcome])
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


class RandomStory(RuleBasedStateMachine):
    """One simulation as a state machine: its rules are the steps of a story."""

    def __init__(self) -> None:
        super().__init__()
        self.simulation = Simulation()
        self.processes: list[Process] = []
        self.requests: list[tuple[Json, str, str | None]] = []
        self.acts: Counter[str] = Counter()

    # ---- Customers

    @precondition(lambda self: len(self.requests) < MOST_ORDERS and self._room())
    @rule(body=bodies, customer=st.sampled_from(["ada", "bob"]), key=st.sampled_from([None, "key-1", "key-2"]))
    def submit(self, body: Json, customer: str, key: str | None) -> None:
        """A customer sends an order, with an Idempotency-Key or without."""
        self.requests.append((body, customer, key))
        self._spawn("AcceptOrderFunction", lambda: self.simulation.submit(body, customer=customer, key=key))

    @precondition(lambda self: any(key for _, _, key in self.requests) and self._room())
    @rule(which=index)
    def retry(self, which: int) -> None:
        """A client that saw no answer retries the request."""
        keyed = [request for request in self.requests if request[2]]
        body, customer, key = keyed[which % len(keyed)]
        self._spawn("AcceptOrderFunction", lambda: self.simulation.submit(body, customer=customer, key=key))

    @precondition(lambda self: self.simulation.accepted and self._idle("QueryOrdersFunction"))
    @rule(which=index)
    def cancel(self, which: int) -> None:
        """A customer cancels an order."""
        order = self.simulation.accepted[which % len(self.simulation.accepted)]
        self._spawn("QueryOrdersFunction", lambda: self.simulation.cancel(order.order_id, customer=order.customer))

    # ---- Deliveries

    @precondition(lambda self: self._idle("PublishEventsFunction") and self._unpublished())
    @rule(batch=st.integers(1, 5))
    def publish(self, batch: int) -> None:
        """The stream delivers its next records to publish_events."""
        self._spawn("PublishEventsFunction", lambda: self.simulation.publish(batch))

    @precondition(lambda self: self._idle("PublishEventsFunction") and self.simulation.stream_position)
    @rule(start=index)
    def publish_duplicates(self, start: int) -> None:
        """The stream delivers records that were published before."""
        start %= self.simulation.stream_position
        self._spawn("PublishEventsFunction", lambda: self.simulation.publish(5, start))

    @precondition(lambda self: self._deliverable() and self._room())
    @rule(which=index)
    def deliver(self, which: int) -> None:
        """One of the messages in flight arrives, so that messages arrive in any order."""
        self._deliver(which)

    @precondition(lambda self: self._deliverable() or (self._unpublished() and self._idle("PublishEventsFunction")))
    @rule()
    def quiet_time(self) -> None:
        """Everything in flight arrives, and is handled without a pause."""
        if self._idle("PublishEventsFunction"):
            self.simulation.publish()
        for delivery in self._deliverable():
            self.simulation.deliver_or_fail(delivery)

    @precondition(lambda self: self._deliverable() and self._room())
    @rule(which=index)
    def deliver_a_duplicate(self, which: int) -> None:
        """A message arrives, and a duplicate stays in flight."""
        found = self._deliverable()
        original = found[which % len(found)]
        if original.duplicates < 2:
            original.duplicates += 1
            self.simulation.pending.append(
                Delivery(original.to, original.payload, original.message, original.message_id, duplicates=2)
            )
        self._deliver(which)

    def _deliver(self, which: int) -> None:
        found = self._deliverable()
        first = found[which % len(found)]
        if first.to == template.WORKFLOW:
            self.simulation.pending.remove(first)
            self._start(json.loads(first.payload))
        elif is_queue(first.to):
            batch = [first, *(each for each in found if each.to == first.to and each is not first)][:3]
            for each in batch:
                self.simulation.pending.remove(each)
            self._spawn(
                consumer_of(first.to),
                lambda: self.simulation.consume(batch),
                lambda process: self._batch_ended(batch, process),
            )
        else:
            self.simulation.pending.remove(first)
            self._spawn(
                first.to,
                lambda: self.simulation.attempt(first),
                lambda process: self._settle(first, process.error is None),
            )

    def _start(self, data: Json) -> None:
        execution = self.simulation.execution(data)
        self._spawn("execution", lambda: self.simulation.run_to_end(execution))

    def _batch_ended(self, batch: list[Delivery], process: Process) -> None:
        failed = range(len(batch)) if process.error else process.result
        for number, delivery in enumerate(batch):
            self._settle(delivery, number not in failed)

    def _settle(self, delivery: Delivery, succeeded: bool) -> None:
        self.simulation.pending.append(delivery)
        self.simulation.settle_delivery(delivery, succeeded, "it failed")

    # ---- Processes

    @precondition(lambda self: self.processes)
    @rule(which=index, outcome=outcomes)
    def step(self, which: int, outcome: CallOutcome) -> None:
        """A process makes its next call, with this outcome."""
        process = self.processes[which % len(self.processes)]
        if process.name == "NotifyCustomerFunction" and outcome is not CallOutcome.GO:
            # A mail can't be taken back, and is noted after it was sent: a crash between the two makes a duplicate.
            self.simulation.excused_mails += 1
        process.step(outcome)
        self._forget_ended()

    @precondition(lambda self: self.processes)
    @rule(which=index)
    def go_on(self, which: int) -> None:
        """A process goes on to its end."""
        self.processes[which % len(self.processes)].finish()
        self._forget_ended()

    @precondition(lambda self: self.simulation.accepted and self._rarely("time"))
    @rule(seconds=st.sampled_from([60, 300, HOUR_S, 25 * HOUR_S]))
    def time_passes(self, seconds: float) -> None:
        """Time passes: executions under way die, leases end, orders and reservations grow old."""
        self.acts["time"] += 1
        clock.advance(seconds)

    # ---- Operators, and what runs by itself

    @precondition(lambda self: self.simulation.accepted and self._room())
    @rule(which=index)
    def restart(self, which: int) -> None:
        """Somebody starts an order's workflow again, from the beginning."""
        orders = self.simulation.orders()
        if orders:
            self._start(self.simulation.input_of(orders[which % len(orders)]))

    @precondition(lambda self: self.simulation.inbox and self._room())
    @rule(which=index)
    def redrive(self, which: int) -> None:
        """An operator redrives a failure of the inbox."""
        inbox = self.simulation.inbox
        failure = inbox[which % len(inbox)]
        self._spawn("operator", lambda: self.simulation.redrive(failure))

    @precondition(lambda self: self.simulation.inbox and self._room())
    @rule(which=index)
    def discard(self, which: int) -> None:
        """An operator discards a failure of the inbox, whatever the status of its order."""
        inbox = self.simulation.inbox
        failure = inbox[which % len(inbox)]
        self._spawn("operator", lambda: self.simulation.discard(failure))

    @precondition(lambda self: self.simulation.accepted and self._room())
    @rule(which=index)
    def give_up(self, which: int) -> None:
        """Somebody gives an order up at any moment."""
        order = self.simulation.accepted[which % len(self.simulation.accepted)]
        self._spawn("operator", lambda: self.simulation.give_up(order.customer, order.order_id))

    @precondition(lambda self: self.simulation.accepted and self._room() and self._rarely("sweep"))
    @rule()
    def sweep(self) -> None:
        """The sweep runs, perhaps beside another one."""
        self.acts["sweep"] += 1
        self._spawn("SweepOrdersFunction", self.simulation.sweep)

    @precondition(lambda self: self.simulation.inbox and self._room() and self._rarely("heal"))
    @rule()
    def heal(self) -> None:
        """Transient failures heal by themselves."""
        self.acts["heal"] += 1
        self._spawn("HealFailuresFunction", self.simulation.heal)

    @precondition(lambda self: self._room() and self._rarely("stock"))
    @rule(sku=st.sampled_from(["apple", "pear"]), shards=st.integers(1, 4))
    def split_or_merge(self, sku: str, shards: int) -> None:
        """An operator splits a product's stock, or merges shards; a merge that waits for orders is stopped."""
        self.acts["stock"] += 1
        act = self.simulation.split if shards > self.simulation.shards_of(sku) else self.simulation.merge
        self._spawn("stock", lambda: act(sku, shards))

    @precondition(lambda self: self._rarely("pieces"))
    @rule(sku=st.sampled_from(["apple", "pear"]), quantity=st.integers(1, 2))
    def restock(self, sku: str, quantity: int) -> None:
        """New pieces arrive."""
        self.acts["pieces"] += 1
        with contextlib.suppress(ClientError, BotoCoreError):
            self.simulation.restock(sku, quantity)

    @precondition(lambda self: self._from_rules())
    @rule(which=index)
    def cannot_be_delivered(self, which: int) -> None:
        """A rule gives a delivery up: a permission is missing, or the target is gone."""
        found = self._from_rules()
        self.simulation.cannot_be_delivered(found[which % len(found)])

    @precondition(lambda self: self._unpublished() and self._idle("PublishEventsFunction"))
    @rule()
    def cannot_be_read(self) -> None:
        """A record of the stream can't be read until somebody repairs the code or the item."""
        self.simulation.cannot_be_read(self.simulation.stream_position)

    @precondition(lambda self: self.simulation.accepted and self._rarely("outage"))
    @rule(
        service=st.sampled_from(["dynamodb", "events", "sqs", "s3", "stepfunctions", "lambda", "cloudwatch"]),
        how=st.sampled_from([CallOutcome.REFUSED, CallOutcome.PARTIAL, CallOutcome.LOST]),
    )
    def outage(self, service: str, how: CallOutcome) -> None:
        """A service has an outage until the story ends the outage."""
        self.acts["outage"] += 1
        services.outages[service] = services.Outage(how)

    @precondition(lambda self: bool(services.outages))
    @rule()
    def end_outages(self) -> None:
        """Every service works again."""
        services.outages.clear()

    # ---- Invariants

    @invariant()
    def nothing_is_wrong(self) -> None:
        """Nothing is wrong at any moment."""
        wrong = self.simulation.check()
        assert not wrong, "\n".join(wrong)

    def teardown(self) -> None:
        """Nothing is wrong once every fault is over and the inbox is redriven."""
        try:
            services.outages.clear()
            for _ in range(1_000):
                if not self.processes:
                    break
                for process in list(self.processes):
                    process.step()
                self._forget_ended()
            for _ in range(2):
                self.simulation.settle()
                wrong = self.simulation.check_end()
                assert not wrong, "\n".join(wrong)
                self.simulation.stream_position = 0  # the second round publishes every event again
            for sku in CATALOGUE:
                assert self.simulation.merge(sku, 1), f"nobody holds pieces of {sku}, and its shards can't be merged"
            wrong = self.simulation.check_end()
            assert not wrong, "\n".join(wrong)
        finally:
            for process in self.processes:
                process.abandon()

    # ---- Small helpers

    def _spawn(self, name: str, work: Callable[[], Any], at_end: Callable[[Process], None] | None = None) -> None:
        self.processes.append(Process(name, work, at_end))

    def _rarely(self, act: str) -> bool:
        return self.acts[act] < MOST_OF_EACH

    def _room(self) -> bool:
        return len(self.processes) < MOST_PROCESSES

    def _idle(self, function: str) -> bool:
        return self._room() and all(process.name != function for process in self.processes)

    def _unpublished(self) -> int:
        return len(services.stream("OrdersTable")) - self.simulation.stream_position

    def _deliverable(self) -> list[Delivery]:
        busy = {process.name for process in self.processes}
        return [
            delivery
            for delivery in self.simulation.pending
            if (consumer_of(delivery.to) if is_queue(delivery.to) else delivery.to) not in busy & NOT_REENTRANT
        ]

    def _from_rules(self) -> list[Delivery]:
        return [delivery for delivery in self._deliverable() if delivery.to in template.rule_targets()]

    def _forget_ended(self) -> None:
        for process in self.processes:
            if process.done and process.error is not None:
                _expected(process)
        self.processes = [process for process in self.processes if not process.done]


def _expected(process: Process) -> None:
    """Raise an error of the proof itself; other errors are the functions' business."""
    if isinstance(process.error, NotImplementedError | AssertionError | TypeError | NameError):
        raise process.error
