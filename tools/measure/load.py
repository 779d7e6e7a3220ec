"""The load of `measure load`: orders at a steady rate, while faults are injected.

Arrivals are open-loop: an order is sent when it is due, however slow the answers to earlier orders are. Its latency
counts from when it was due. Faults come from outside, as in production: through AWS's own APIs, through the orders of
customers, and by killing processes of the local cloud.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Any

import httpx
import msgspec
from botocore.exceptions import BotoCoreError, ClientError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from measure import placing
from orderctl import hints
from orderctl.cloud import processes, server_process
from orderctl.cloud.state import STACK_NAME, Cloud, CloudState
from orderctl.demo import samples
from orderctl.exits import Exit, Interrupted, Stop
from orderctl.stack import signin
from orderctl.stack import target as targets
from orderctl.stack.rest import POLL_S
from orderctl.stack.target import Target
from orderctl.ui import console
from orders.domain.events import DETAIL_TYPES, SOURCE, bus_entry, event_of
from orders.domain.order import Status

CLIENTS = 64  # requests in flight at most; beyond that arrivals are late, and their latency says so
CUSTOMERS = 8
GIVE_UP_AFTER_S = 180.0
OUTAGE_S = 30.0
DUPLICATE_SHARE = 0.05
POISON_SHARE = 0.005
KILL_EVERY_S = 3.0
DENIED = "load-outage"
HANGING_TOKEN = "tok_slow_9"  # just within the function's time-out
ACCOUNT_CONCURRENCY = 40
PAYMENT_CONCURRENCY = 4
LATEST_CANCELLATION_S = 1.0


class Fault(StrEnum):
    """A fault that a load can inject."""

    PROVIDER = "provider"  # outages of the payment provider's ledger, and payments that need several attempts
    WAREHOUSE = "warehouse"  # 10 % of addresses fail for a while, for long, or for good
    DUPLICATES = "duplicates"  # 5 % of events arrive twice
    POISON = "poison"  # messages and events that no consumer can read
    KILLS = "kills"  # processes of functions get SIGKILL
    RESTART = "restart"  # the local cloud stops and starts in the middle of the run
    HANG = "hang"  # the middle third of payments takes 9 s, in a small account, with a limit on concurrent payments
    HANG_UNLIMITED = "hang-unlimited"  # the same without the limit


HANGS = frozenset({Fault.HANG, Fault.HANG_UNLIMITED})
PROFILES: dict[str, frozenset[Fault]] = {
    "clean": frozenset(),
    "full": frozenset(Fault) - HANGS,
    **{fault.value: frozenset({fault}) for fault in Fault},
}


@dataclass
class AcceptedOrder:
    """A 202 that a client saw, after `attempts` requests; `seconds` from when the order was due to the answer."""

    order_id: str
    key: str
    seconds: float
    attempts: int


@dataclass
class Load:
    """One run: the orders to send, the answers, and the faults injected so far, by what they are.

    `rate` is in orders a second. `bodies` are the requests if they aren't `order_bodies`; the customer cancels those
    whose numbers are in `cancels`, soon after the answer. `server_errors` counts answers of 5xx. `answered` is when
    the last order was answered, and `memory_mb` the local cloud's memory then. `began` and `answered` are on the
    monotonic clock.
    """

    target: Target
    orders: int
    rate: float
    faults: frozenset[Fault]
    seed: int
    bodies: list[dict[str, Any]] | None = None
    cancels: frozenset[int] = frozenset()
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    accepted: list[AcceptedOrder] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    server_errors: int = 0
    injected: dict[str, int] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    began_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    answered: float = 0.0
    memory_mb: int | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str) -> None:
        """Count one injected fault, such as "restarts"."""
        with self.lock:
            self.injected[what] = self.injected.get(what, 0) + 1

    @property
    def duration_s(self) -> float:
        """How long orders arrive, in seconds."""
        return self.orders / self.rate


# ---- What customers order ------------------------------------------------------------------------------------


def order_bodies(load: Load) -> list[dict[str, Any]]:
    """Return the request bodies of all orders. The same seed gives the same bodies."""
    chance = random.Random(load.seed)
    euros = [product["sku"] for product in samples.catalogue() if product["currency"] == "EUR" and product["stock"]]
    sold_out = next(product["sku"] for product in samples.catalogue() if not product["stock"])
    bodies = []
    for number in range(load.orders):
        body = samples.sample("fulfilled")
        skus = chance.sample(euros, chance.choice([1, 1, 1, 2, 2, 3]))
        body["lines"] = [{"sku": sku, "quantity": chance.randint(1, 3)} for sku in skus]
        body["paymentMethod"] = "tok_declined" if chance.random() < 0.03 else "tok_visa"
        if chance.random() < 0.02:
            body["lines"].append({"sku": sold_out, "quantity": 1})
        if Fault.PROVIDER in load.faults and chance.random() < 0.05:
            kinds = ["tok_provider_down_1", "tok_provider_down_3", "tok_provider_down_8", "tok_timeout_after_charge"]
            body["paymentMethod"] = chance.choice([*kinds, "tok_receipt_down_4"])
        if Fault.WAREHOUSE in load.faults and chance.random() < 0.10:
            postal = chance.choice(["TEST-DOWN-1", "TEST-DOWN-1", "TEST-DOWN-2", "TEST-DOWN-6", "TEST-REFUSED"])
            body["shippingAddress"]["postalCode"] = postal
        if HANGS & load.faults and load.orders <= 3 * number < 2 * load.orders:
            body["paymentMethod"] = HANGING_TOKEN
        bodies.append(body)
    return bodies


# ---- Sending -------------------------------------------------------------------------------------------------


def send(load: Load, chaos: Chaos) -> None:
    """Send every order when it is due; returns once each has its answer."""
    users = [
        signin.token_source(load.target, f"load-{number}@example.com", signin.LOCAL_PASSWORD)
        for number in range(CUSTOMERS)
    ]
    tokens = [user.current() for user in users]
    bodies = [json.dumps(body).encode() for body in load.bodies or order_bodies(load)]
    limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        httpx.Client(timeout=30.0, limits=limits, trust_env=False) as http,
        ThreadPoolExecutor(CLIENTS) as pool,
        Progress(*columns, console=console.err, disable=not console.err.is_terminal) as progress,
    ):
        bar = progress.add_task("Orders", total=load.orders)
        start = load.began = time.monotonic()
        load.began_at = datetime.now(UTC)
        chaos.begin(start)
        try:
            for number, body in enumerate(bodies):
                due = start + number / load.rate
                while (early := due - time.monotonic()) > 0:
                    time.sleep(min(early, 0.05))
                job = pool.submit(_one, load, http, _Request(number, body, tokens[number % CUSTOMERS], due))
                job.add_done_callback(lambda _: progress.advance(bar))
        except Interrupted:
            pool.shutdown(cancel_futures=True)
            raise
    if load.target.local:
        load.memory_mb = processes.memory_mb(load.target.local.pid)


@dataclass(frozen=True)
class _Request:
    """An order to send at the moment `due` of the monotonic clock, with its customer's token."""

    number: int
    body: bytes
    token: str
    due: float


def _one(load: Load, http: httpx.Client, request: _Request) -> None:
    """Send one order. Retry with the same key until an answer settles it, or GIVE_UP_AFTER_S have passed."""
    attempts = 0
    pause_s = 0.2
    key = f"load-{load.run_id}-{request.number}"
    headers = {"Authorization": request.token, "Content-Type": "application/json", "Idempotency-Key": key}
    while time.monotonic() - request.due < GIVE_UP_AFTER_S:
        attempts += 1
        try:
            answer = http.post(f"{load.target.api_url}/orders", content=request.body, headers=headers)
        except httpx.TransportError:
            answer = None
        if answer is not None and answer.status_code == 202:
            order_id = answer.json()["orderId"]
            with load.lock:
                load.answered = time.monotonic()
                load.accepted.append(AcceptedOrder(order_id, key, load.answered - request.due, attempts))
            if request.number in load.cancels:
                _cancel(load, http, order_id, request.token)
            return
        if answer is not None and answer.status_code < 500 and answer.status_code != 429:
            with load.lock:
                load.refused.append(f"{key}: {answer.status_code} {answer.text[:200]}")
            return
        if answer is not None and answer.status_code >= 500:
            with load.lock:
                load.server_errors += 1
        time.sleep(pause_s * random.uniform(0.5, 1))
        pause_s = min(pause_s * 2, 5)
    with load.lock:
        load.refused.append(f"{key}: no answer in {GIVE_UP_AFTER_S:.0f} s")


def _cancel(load: Load, http: httpx.Client, order_id: str, token: str) -> None:
    """Cancel an order as its customer, soon after it was accepted; whatever the answer is, it is counted."""
    time.sleep(random.uniform(0, LATEST_CANCELLATION_S))
    with suppress(httpx.TransportError):
        answer = http.post(f"{load.target.api_url}/orders/{order_id}/cancel", headers={"Authorization": token})
        load.count("cancellations" if answer.status_code == 202 else f"cancellations answered {answer.status_code}")


# ---- The faults ----------------------------------------------------------------------------------------------


class Chaos:
    """Injects the run's faults, each from a thread of its own."""

    def __init__(self, load: Load, cloud: Cloud) -> None:
        self._load = load
        self._cloud = cloud
        self._over = threading.Event()
        self._up = threading.Event()
        self._up.set()
        self._threads: list[threading.Thread] = []
        # Here, because making a client is not thread-safe.
        for service in ("sqs", "events", "iam", "lambda", "cloudformation", "dynamodb", "s3"):
            load.target.client(service)

    def begin(self, start: float) -> None:
        """Start the faults of the run's profile; `start` is when the first order is due."""
        plans: dict[Fault, Callable[[float], None]] = {
            Fault.PROVIDER: self._provider_outages,
            Fault.DUPLICATES: self._duplicates,
            Fault.POISON: self._poison,
            Fault.KILLS: self._kills,
            Fault.RESTART: self._restart,
            Fault.HANG: partial(self._small_account, payments=PAYMENT_CONCURRENCY),
            Fault.HANG_UNLIMITED: partial(self._small_account, payments=None),
        }
        for fault in self._load.faults & plans.keys():
            thread = threading.Thread(target=plans[fault], args=(start,), name=fault, daemon=True)
            thread.start()
            self._threads.append(thread)

    def end(self) -> None:
        """End every fault; returns once everything works again."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _sleep_until(self, moment: float) -> bool:
        """Sleep until a moment of the monotonic clock; returns whether the run still goes on then."""
        return not self._over.wait(max(0.0, moment - time.monotonic()))

    def _provider_outages(self, start: float) -> None:
        """Deny the payment functions the provider's ledger for a while, twice."""
        lasts_s = min(OUTAGE_S, self._load.duration_s / 5)
        deny = {
            "Effect": "Deny",
            "Action": "dynamodb:*",
            "Resource": f"*table/{self._load.target.output('PaymentsTable')}",
        }
        document = json.dumps({"Version": "2012-10-17", "Statement": [deny]})
        iam = self._load.target.client("iam")
        roles = [self._role_of(name) for name in ("ProcessPaymentFunction", "RefundPaymentFunction")]
        for share in (0.2, 0.7):
            if not self._sleep_until(start + self._load.duration_s * share):
                return
            try:
                for role in roles:
                    put = partial(iam.put_role_policy, RoleName=role, PolicyName=DENIED, PolicyDocument=document)
                    self._retry(put)
                self._load.count("provider outages")
                self._sleep_until(time.monotonic() + lasts_s)
            finally:
                for role in roles:
                    self._retry(partial(iam.delete_role_policy, RoleName=role, PolicyName=DENIED))

    def _duplicates(self, _: float) -> None:
        """Publish some orders' OrderPlaced event a second time."""
        chance = random.Random(self._load.seed + 1)
        looked_at = 0
        while not self._over.wait(1.0):
            with self._load.lock:
                fresh, looked_at = self._load.accepted[looked_at:], len(self._load.accepted)
            chosen = [each.order_id for each in fresh if chance.random() < DUPLICATE_SHARE]
            for order_id in chosen:
                self._retry(partial(self._publish_duplicate, order_id))

    def _publish_duplicate(self, order_id: str) -> None:
        order = placing.find_order(self._load.target, order_id)
        if order is None:
            return
        placed = msgspec.structs.replace(
            order,
            status=Status.PLACED,
            version=1,
            updated_at=order.placed_at,
            lines=[msgspec.structs.replace(line, unit_price=None, taken=None) for line in order.lines],
            total=None,
            reason=None,
        )
        self._put_event(bus_entry(event_of(placed), self._load.target.output("EventBusName")))
        self._load.count("duplicate events")

    def _poison(self, start: float) -> None:
        """Send messages and events that no consumer can read."""
        number = max(4, int(self._load.orders * POISON_SHARE))
        target = self._load.target
        sqs = target.client("sqs")
        for each in range(number):
            if not self._sleep_until(start + self._load.duration_s * (each + 0.5) / number):
                return
            text = f"poison {self._load.run_id} {each}"
            match each % 4:
                case 0 | 1:
                    queue = target.output("FulfilmentQueueUrl" if each % 4 else "NotificationsQueueUrl")
                    self._retry(partial(sqs.send_message, QueueUrl=queue, MessageBody=text))
                case remainder:
                    detail_type = DETAIL_TYPES[Status.FULFILLED if remainder == 2 else Status.PLACED]
                    entry = {
                        "EventBusName": target.output("EventBusName"),
                        "Source": SOURCE,
                        "DetailType": detail_type,
                        "Detail": json.dumps({"poison": text}),
                    }
                    self._retry(partial(self._put_event, entry))
            self._load.count("poison messages")

    def _put_event(self, entry: dict[str, Any]) -> None:
        answer = self._load.target.client("events").put_events(Entries=[entry])
        if answer["FailedEntryCount"]:
            raise OSError("the bus refused the event")

    def _kills(self, start: float) -> None:
        """Kill one process of a function every KILL_EVERY_S."""
        chance = random.Random(self._load.seed + 2)
        moment = start + KILL_EVERY_S
        while self._sleep_until(moment):
            moment += KILL_EVERY_S
            self._up.wait()
            workers = _workers(self._load.target.local)
            if workers:
                with suppress(ProcessLookupError):
                    os.kill(chance.choice(workers), signal.SIGKILL)
                    self._load.count("environments killed")

    def _small_account(self, _: float, payments: int | None) -> None:
        """Give the account little concurrency, and of that `payments` at most to payments."""
        lambdas = self._load.target.client("lambda")
        function = self._physical("ProcessPaymentFunction")
        try:
            inject(self._load.target, accountConcurrency=ACCOUNT_CONCURRENCY)
            if payments is not None:
                lambdas.put_function_concurrency(FunctionName=function, ReservedConcurrentExecutions=payments)
            self._over.wait()
        finally:
            inject(self._load.target)
            if payments is not None:
                lambdas.delete_function_concurrency(FunctionName=function)

    def _restart(self, start: float) -> None:
        """Stop the local cloud in the middle of the run, and start it with its saved state."""
        state = self._load.target.local
        if state is None or not self._sleep_until(start + self._load.duration_s / 2):
            return
        self._up.clear()
        try:
            restart(self._cloud, state)
            self._load.count("restarts")
        finally:
            self._up.set()

    def _retry(self, act: Callable[[], object]) -> None:
        """Call `act`, and retry while the system is down and the run goes on."""
        while True:
            self._up.wait()
            try:
                act()
                return
            except (ClientError, BotoCoreError, OSError):
                if self._over.wait(POLL_S * 5):
                    act()
                    return

    def _role_of(self, function: str) -> str:
        """Return the name of a function's role."""
        return self._physical(f"{function}Role").rpartition("/")[2]

    def _physical(self, logical_id: str) -> str:
        """Return the name that a resource of the stack has."""
        found: list[str] = []

        def look() -> None:
            described = self._load.target.client("cloudformation").describe_stack_resource(
                StackName=STACK_NAME, LogicalResourceId=logical_id
            )
            found.append(described["StackResourceDetail"]["PhysicalResourceId"])

        self._retry(look)
        return found[0]


def inject(target: Target, **faults: Any) -> None:
    """Have the local cloud inject these faults and no others; its README says which there are."""
    answer = httpx.post(f"{target.endpoint}/_localcloud/faults", json=faults, trust_env=False)
    answer.raise_for_status()


def _workers(state: CloudState | None) -> list[int]:
    """Return the processes of the local cloud's functions."""
    commands = processes.command_lines()
    members = processes.group_members(state.pid) if state else []
    return [pid for pid in members if "worker.py" in commands.get(pid, "")]


def restart(cloud: Cloud, state: CloudState) -> None:
    """Stop the local cloud cleanly, so that it saves its state, and start it. Updates `state`.

    Stop(STEP_FAILED) if a process does not end.
    """
    left = processes.end_group(state.pid, grace_s=60.0)
    if left:
        raise Stop(Exit.STEP_FAILED, f"Processes of the local cloud could not be ended: {left}.")
    started = server_process.start(cloud, state.port, state.runtime, persist=True)
    server_process.wait_until_healthy(cloud, started, lambda _: None)
    started.deployed, started.outputs = state.deployed, state.outputs
    cloud.save(started)
    state.pid, state.process_identity, state.started_at = started.pid, started.process_identity, started.started_at


def local_target(cloud: Cloud, faults: frozenset[Fault]) -> Target:
    """Return the running local cloud. Stop if it does not run, or a restart is asked for and it keeps no state."""
    target = targets.local_target(cloud)
    if Fault.RESTART in faults and not (target.local and target.local.persist):
        raise Stop(
            Exit.USAGE,
            f"The local cloud {cloud.name!r} does not keep its state over a restart.",
            f"Start it anew: {hints.command('down', name=cloud.name)}; {hints.command('up', name=cloud.name)}",
        )
    return target
