"""Run a smoke: its steps, their time, what they cost, and the removal of everything at the end, whatever happens."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
from botocore.exceptions import BotoCoreError, ClientError

from orderctl import interrupts
from orderctl.demo import demonstration
from orderctl.demo.stories import Journey, receipt_written
from orderctl.exits import Exit, Interrupted, Stop
from orderctl.redrive.many import sender_of
from orderctl.smoke import evidence, orders, removal
from orderctl.smoke.removal import Removed
from orderctl.stack import records, signin
from orderctl.stack.description import SIMULATED, Description, describe, providers
from orderctl.stack.rest import OrdersApi
from orderctl.stack.signin import TokenSource
from orderctl.stack.target import Target
from orderctl.stack.throwaway import address
from orderctl.ui import console
from orders.domain.order import Status
from orders.inbox.record import FailureRecord
from orders.redrive.sending import redrive_one

# On AWS an asynchronous function is tried again after one and after two minutes.
AWS_CHECKS_S = 300.0
LOGS_S = 60.0
METRICS_S = 180.0
LOCAL_METRICS_S = 20.0
POLL_S = 0.5
BY = "orderctl smoke"
# Upper bounds in USD: an order (docs/cost.md), a request to the REST API, a call of this command to AWS.
ORDER_USD = 100e-6
REQUEST_USD = 3.5e-6
CALL_USD = 10e-6


@dataclass
class Step:
    """A step by its title: how long it took, what went wrong and what is worth knowing, each in a sentence."""

    title: str
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Smoke:
    """A smoke by the name of its run: its steps, what was removed, and how much it asked of AWS."""

    run: str
    steps: list[Step] = field(default_factory=list)
    removed: Removed = field(default_factory=Removed)
    orders: int = 0
    requests: int = 0
    calls: int = 0

    @property
    def ok(self) -> bool:
        """Whether every step went well, and nothing stayed."""
        return not self.removed.left and not any(step.problems for step in self.steps)

    @property
    def usd(self) -> float:
        """What the smoke cost, an upper bound in USD."""
        return self.orders * ORDER_USD + self.requests * REQUEST_USD + self.calls * CALL_USD

    def as_json(self) -> dict[str, Any]:
        """Return the smoke for a program to read."""
        return {
            "ok": self.ok,
            "run": self.run,
            "seconds": round(sum(step.seconds for step in self.steps), 1),
            "steps": [
                {
                    "step": step.title,
                    "ok": not step.problems,
                    "seconds": round(step.seconds, 1),
                    "problems": step.problems,
                    "notes": step.notes,
                }
                for step in self.steps
            ],
            "removed": self.removed.counts,
            "left": self.removed.left,
            "cost": {
                "atMostUsd": round(self.usd, 4),
                "orders": self.orders,
                "requests": self.requests,
                "calls": self.calls,
            },
        }


class CountedApi(OrdersApi):
    """The REST API; counts the requests."""

    def __init__(self, url: str, tokens: TokenSource, smoke: Smoke) -> None:
        super().__init__(url, tokens)
        self._smoke = smoke

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Make a call, and count it."""
        self._smoke.requests += 1
        return super().request(method, path, **options)


class _Ended(Exception):
    """A step could not be made, so those that follow make no sense."""


def new_run() -> str:
    """Return the name of a new run."""
    return secrets.token_hex(4)


def refuse_real_providers(target: Target, description: Description) -> None:
    """Stop(REFUSED) if the stack is prod and one of its outside systems, or an unknown one, isn't simulated."""
    if description.environment != "prod":
        return
    settings = providers(target, description)
    real = sorted(
        {f"{name}={value}" for each in settings.values() for name, value in each.items() if value != SIMULATED}
    )
    if real:
        raise Stop(
            Exit.REFUSED,
            f"{target.name} is prod, with real providers ({', '.join(real)}): the sample orders would be charged, "
            "shipped and mailed.",
            "If your providers know the sample orders' payment tokens and addresses: --charge-real-providers.",
        )


def run(target: Target, smoke: Smoke, *, charge_real_providers: bool = False) -> None:
    """Make every step, and remove what they made, also after an error or an interruption.

    Nothing is raised for a step that fails: its problems say why. Interrupted passes on after the removal. Raises
    Stop(REFUSED) before the first step for a prod stack with real providers, unless these may be charged.
    """
    # A client that exists already is not counted.
    target.session.events.register("before-call.*", _counter(smoke))
    if not charge_real_providers:
        refuse_real_providers(target, describe(target))
    console.say(f"The run is {smoke.run}. If it is killed: {target.command(f'smoke --remove {smoke.run}')}")
    try:
        _make(target, smoke)
    except _Ended:
        pass
    finally:
        with interrupts.deferred():
            remove_only(target, smoke)


def remove_only(target: Target, smoke: Smoke) -> None:
    """Remove what the run made; a removal that fails is a problem of its step."""
    with suppress(_Ended), _step(smoke, "remove what the smoke made"):
        smoke.removed = removal.remove(target, smoke.run)


def _counter(smoke: Smoke) -> Callable[..., None]:
    def count(**_: Any) -> None:
        smoke.calls += 1

    return count


@contextmanager
def _step(smoke: Smoke, title: str) -> Iterator[Step]:
    """Time a step; an error of AWS, of the API or of the network becomes the step's problem, and raises _Ended."""
    step = Step(title)
    smoke.steps.append(step)
    began = time.monotonic()
    try:
        with console.step(title[0].upper() + title[1:]):
            yield step
    except (Stop, ClientError, BotoCoreError, httpx.HTTPError, LookupError, ValueError) as error:
        step.problems.append(error.what if isinstance(error, Stop) else f"{type(error).__name__}: {error}")
        raise _Ended from error
    except Interrupted:
        step.problems.append("interrupted")
        raise
    finally:
        step.seconds = time.monotonic() - began


def _make(target: Target, smoke: Smoke) -> None:
    since_ms = int(time.time() * 1000)
    local = target.local is not None
    with _step(smoke, "describe the stack"):
        description = describe(target)
    with _step(smoke, "sign up a customer"):
        password = f"{secrets.token_urlsafe(24)}-aA1"
        signin.ensure_user(target, address(smoke.run), password)
        tokens = TokenSource(target, address(smoke.run), password)
        tokens.current()
    with CountedApi(target.api_url, tokens, smoke) as api:
        with _step(smoke, "orders end as they should") as step:
            journeys = orders.journeys(smoke.run)
            orders.put_products(target, journeys)
            smoke.orders = len(journeys)
            orders.send(api, journeys)
            wait_s = demonstration.CHECKS_TIMEOUT_S if local else AWS_CHECKS_S
            demonstration.watch(api, target, journeys, checks_timeout_s=wait_s)
            for journey in journeys:
                step.problems += [f"{journey.story.sample}: {problem}" for problem in journey.problems]
        with _step(smoke, "a failure is redriven from the inbox") as step:
            step.problems += redrive(target, journeys, wait_s)
        with _step(smoke, "the customer sees the orders") as step:
            step.problems += reads(api, journeys)
    with _step(smoke, "scheduled functions run") as step:
        step.problems += evidence.run_schedules(target, description)
    with _step(smoke, "every function has run and was refused nothing") as step:
        step.problems += evidence.functions_that_ran(target, description, since_ms, LOGS_S)
    with _step(smoke, "the alarms' metrics have values") as step:
        wait_s = LOCAL_METRICS_S if local else METRICS_S
        problems, notes = evidence.metrics_of_alarms(target, description, since_ms, wait_s)
        step.problems += problems
        step.notes += notes


def redrive(target: Target, journeys: list[Journey], wait_s: float) -> list[str]:
    """Redrive the failed receipt, unless it has healed by itself; then every fulfilled order has its receipt."""
    problems = []
    failed = next(each for each in journeys if each.story.sample == orders.RECEIPT_STORY)
    found, _ = records.failures_of(target, failed.order_id)
    receipts = [each for each in found if "IssueReceipt" in each.component]
    if not receipts:
        problems.append("the receipt that failed is not in the inbox")
    for failure in receipts:
        problems += _redrive_one(target, failure)
    fulfilled = [each for each in journeys if each.status == Status.FULFILLED]
    deadline = time.monotonic() + wait_s
    while missing := [each for each in fulfilled if receipt_written(target, each)]:
        if time.monotonic() > deadline:
            return [*problems, *(f"{each.story.sample}: no receipt" for each in missing)]
        time.sleep(POLL_S)
    return problems


def _redrive_one(target: Target, failure: FailureRecord) -> list[str]:
    outcome = redrive_one(sender_of(target), records.failures_table(target), failure.failure_id, BY)
    # Refused: it heals, or has healed, by itself.
    if outcome.result in {"redriven", "resolved", "refused"}:
        return []
    return [f"the failed receipt could not be redriven: {outcome.detail}"]


def reads(api: OrdersApi, journeys: list[Journey]) -> list[str]:
    """Return what is wrong with the customer's list and with the endpoints that are open to all."""
    listed = {each.order_id for each in api.orders(100)}
    problems = [f"{each.story.sample}: not in the list" for each in journeys if each.order_id not in listed]
    for path in ("/health", "/openapi.json"):
        status = api.request("GET", path).status_code
        if status != httpx.codes.OK:
            problems.append(f"GET {path} answered {status}")
    return problems
