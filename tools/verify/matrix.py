"""The fault matrix: every Task state of the workflow with every error that it can meet.

Rows are generated from the definition, so a new state has rows at once, and fails unless a scenario reaches it.
Each case runs the real definition with one fault in it, and must leave the order in one of three places:
fulfilled; ended with everything undone; or in the failure inbox with its holds intact. From there it is sent on
its way both ways, resumed and undone, and must end.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from orders.domain.order import TERMINAL, Status
from verify import services
from verify import template as blueprint
from verify.scheduler import Aborted, Actor, Verdict
from verify.services import Json, cancelled
from verify.simulation import Failure, World, body_of, ledger, wrong_with_end
from verify.workflow import Execution

ALWAYS = 1_000
DOCUMENT = blueprint.ROOT / "docs" / "fault-matrix.md"
BASKET = {"apple": 2, "pear": 1}
NEIGHBOUR = "eve"


class Wrong(AssertionError):
    """A case that ended somewhere else than it may."""


# ---- Scenarios: what brings an execution to a state ----------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    """An order and the execution that takes it up. `stop` names where an earlier execution got stuck before."""

    name: str
    path: str = "forward"
    stop: str | None = None
    when: str = "before"
    token: str = "tok_visa"
    postal: str = "1000"
    lines: tuple[tuple[str, int], ...] = tuple(BASKET.items())
    cancelled_at: str | None = None
    refunded_at_once: bool = False
    charged: bool = False
    # Faults that the short form has in this scenario too, by how their names begin.
    also_short: tuple[str, ...] = ()
    undone: bool = False

    def prepare(self) -> tuple[World, Json]:
        """A world in which the order waits for an execution with the input returned."""
        world = World()
        self._have_a_neighbour(world)
        answer = world.submit(
            body_of(dict(self.lines), token=self.token, postal=self.postal), customer="ada", key="key"
        )
        assert answer["statusCode"] == 202, answer
        order = order_of(world, "ada")
        if self.stop:
            passed = iter([None] if self.charged else [])  # the first try charges and loses the answer
            if self.when == "within":
                services.outages[WITHIN[self.stop]] = services.Outage(Verdict.REFUSED)
            else:
                world.fault = Injection(self.stop, self.when, ALWAYS, lambda _: next(passed, ("Unheard.Of", "")))
            world.run(world.input_of(order))
            services.outages.clear()
            if self.undone:
                world.fault = Injection("ReleaseInventory", "before", ALWAYS, lambda _: ("Unheard.Of", ""))
                world.discard(stuck_failure(world, order))
                world.run(json.loads(world.pending.pop().payload))
            world.fault = None
            stuck = stuck_failure(world, order)
            if self.path == "undo" and not self.undone:
                world.discard(stuck)
                world.pending.clear()
            world.inbox.clear()
        return world, world.input_of(order, None if self.path == "forward" else "resume")

    def _have_a_neighbour(self, world: World) -> None:
        """Another order holds as much of the same products, so that taking or giving back twice shows."""
        world.submit(body_of(BASKET), customer=NEIGHBOUR, key=None)
        world.fault = Injection("ReserveInventory", "after", ALWAYS, lambda _: ("Unheard.Of", ""))
        world.run(world.input_of(world.orders()[0]))
        world.fault = None
        world.inbox.clear()


def stuck_failure(world: World, order: Json) -> Failure:
    """The order's stuck execution in the inbox; or, where it has ended and isn't there, one from before."""
    stuck = [each for each in world.inbox if each.execution]
    assert len(stuck) == (Status(order_of(world, order["customerId"])["status"]) not in TERMINAL), stuck
    return stuck[0] if stuck else world.a_failure_of(order)


def order_of(world: World, customer: str) -> Json:
    """A customer's order, plain."""
    return next(order for order in world.orders() if order["customerId"] == customer)


SCENARIOS = (
    Scenario("an order"),
    Scenario("a product that is not sold", lines=(("apple", 1), ("unicorn", 1))),
    Scenario("not enough in stock", lines=(("apple", 2), ("pear", 99))),
    Scenario("a declined card", token="tok_declined"),
    Scenario("an address that the warehouse refuses", postal="TEST-REFUSED"),
    Scenario("cancelled while it is charged", cancelled_at="ProcessPayment"),
    Scenario(
        "cancelled and refunded before it is charged",
        cancelled_at="ProcessPayment",
        refunded_at_once=True,
        also_short=("the execution is stopped",),
    ),
    Scenario("cancelled while the provider is down", token="tok_provider_down_6", cancelled_at="ProcessPayment"),
    Scenario("resumed when PLACED", "resume", "ReserveInventory"),
    Scenario("resumed when RESERVED", "resume", "ReserveInventory", "after"),
    Scenario(
        "resumed when charged, not yet PAID",
        "resume",
        "ProcessPayment",
        token="tok_timeout_after_charge",
        charged=True,
        also_short=("meanwhile",),
    ),
    Scenario("resumed when PAID", "resume", "FulfillOrder"),
    Scenario("resumed when shipped", "resume", "FulfillOrder", "within"),
    Scenario("resumed when FULFILLED", "resume", "FulfillOrder", "after"),
    Scenario("resumed when refunded", "resume", "FulfillOrder", undone=True),
    Scenario("undone when PLACED", "undo", "ReserveInventory"),
    Scenario("undone when RESERVED", "undo", "ReserveInventory", "after"),
    Scenario(
        "undone when charged, not yet PAID",
        "undo",
        "ProcessPayment",
        token="tok_timeout_after_charge",
        charged=True,
    ),
    Scenario("undone when PAID", "undo", "FulfillOrder"),
    Scenario("undone when shipped", "undo", "FulfillOrder", "within"),
    Scenario("undone when FULFILLED", "undo", "FulfillOrder", "after"),
    Scenario("undone when refunded", "undo", "FulfillOrder", undone=True),
)


# ---- Faults: what a state can meet ---------------------------------------------------------------------------

Act = Callable[[World], "tuple[str, str] | None"]


@dataclass
class Injection:
    """A fault put into an execution: `act` happens the first `times` times that the state comes to `when`."""

    state: str
    when: str
    times: int
    act: Act
    world: World | None = None
    count: int = 0

    def __call__(self, state: str, when: str) -> tuple[str, str] | None:
        """The error that this try meets, or None."""
        if self.when == "around" and state == self.state:
            assert self.world is not None
            if when == "before" and not self.count:
                self.count += 1
                self.act(self.world)
            else:
                self.world.finish_racing()
            return None
        begins = "before" if self.when == "within" else self.when
        if (state, when) != (self.state, begins) or self.count >= self.times:
            return None
        self.count += 1
        return self.act(self.world)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Fault:
    """One row: an error, and whether it comes before or after the state has done its work."""

    state: str
    what: str
    when: str
    act: Act
    repeats: bool = True

    @property
    def key(self) -> tuple[str, str, str]:
        """The row's first three columns."""
        return self.state, self.what, self.when


EVERYWHERE = ("States.Timeout", "An.Error.NobodyHasHeardOf", "States.QueryEvaluationError")
BY_INTEGRATION = {
    "lambda:invoke": (
        "Lambda.TooManyRequestsException",
        "Lambda.Unknown",
        "Lambda.ServiceException",
        "Sandbox.Timedout",
        "KeyError",
    ),
    "aws-sdk:dynamodb:transactWriteItems": (
        "DynamoDb.ProvisionedThroughputExceededException",
        "DynamoDb.InternalServerErrorException",
        "DynamoDb.SdkClientException",
    ),
    "dynamodb:updateItem": (
        "DynamoDB.ProvisionedThroughputExceededException",
        "DynamoDB.InternalServerErrorException",
        "DynamoDB.TransactionConflictException",
    ),
    "dynamodb:getItem": (
        "DynamoDB.ProvisionedThroughputExceededException",
        "DynamoDB.InternalServerErrorException",
    ),
    "sqs:sendMessage.waitForTaskToken": ("SQS.SqsException", "SQS.SdkClientException", "States.HeartbeatTimeout"),
}
# Why a transaction is cancelled though the order itself is as expected. What the order is not, happens for real.
CANCELLATIONS = {
    "a conflict over the order": ["TransactionConflict", "None", "None"],
    "a conflict over a product": ["None", "TransactionConflict", "None"],
    "a throttled orders table": ["ProvisionedThroughputExceeded", "None", "None"],
    "a throttled catalogue": ["None", "ThrottlingError", "None"],
}
# The write in the midst of what a state does, and what it can meet.
WITHIN = {"FulfillOrder": "dynamodb.TransactWriteItems"}
REFUSALS = {
    "is throttled": Verdict.REFUSED,
    "meets another order at a product": Verdict.CONFLICT,
    "has its answer lost": Verdict.LOST,
    "is sent twice": Verdict.TWICE,
}
# What a function answers instead of acting; it can't be an answer that comes after the act.
ANSWERS = {
    "ValidateOrder": ("ValidationError",),
    "ProcessPayment": ("PaymentDeclined", "PaymentError", "PaymentProviderError"),
    "FulfillOrder": ("WarehouseError",),
    "CancelShipment": ("WarehouseUnavailable",),
    "RefundPayment": ("PaymentProviderError",),
}


def _error(name: str) -> Act:
    cause = json.dumps({"errorType": name, "errorMessage": "injected"})
    return lambda _: (name, cause)


def _answer(name: str) -> Act:
    """An answer that a function gives; none where it would contradict what has been done already."""
    given = _error(name)

    def act(world: World) -> tuple[str, str] | None:
        order = order_of(world, "ada")
        charged = "charges" in ledger("PaymentsTable", "idempotencyKey").get(order["orderId"], {})
        shipped = "shipments" in ledger("ShipmentsTable", "orderId").get(order["orderId"], {})
        contradicts = {
            "ValidationError": order["status"] != "PLACED",
            "PaymentDeclined": charged,
            "PaymentError": charged,
            "WarehouseError": shipped,
        }
        return None if contradicts.get(name) else given(world)

    return act


def _cancellation(codes: list[str]) -> Act:
    cause = cancelled(codes).message + " (Service: DynamoDb, Status Code: 400, Request ID: 1)"
    return lambda _: ("DynamoDb.TransactionCanceledException", cause)


def _outage(state: str, verdict: Verdict, calls: float) -> Act:
    def begin(_: World) -> None:
        services.outages[WITHIN[state]] = services.Outage(verdict, calls)

    return begin


def _stop(_: World) -> None:
    raise Aborted


def _meanwhile(act: Callable[[World], object]) -> Act:
    def run(world: World) -> None:
        around, world.fault = world.fault, None
        act(world)
        world.fault = around

    return run


def _customer_cancels(world: World) -> None:
    world.cancel(order_of(world, "ada")["orderId"], customer="ada")


def _another_order_takes_the_stock(world: World) -> None:
    world.submit(body_of({"pear": 3}), customer="bob", key=None)
    world.run(world.input_of(order_of(world, "bob")))


def _copy(path: str | None) -> Callable[[World], object]:
    def run(world: World) -> None:
        world.run(world.input_of(order_of(world, "ada"), path))

    return run


def _operator_gives_it_up(world: World) -> None:
    """An operator discards a failure of the order that is known from before; its undoing runs at once."""
    world.discard(world.a_failure_of(order_of(world, "ada")))
    for delivery in [each for each in world.pending if each.to == blueprint.WORKFLOW]:
        world.deliver(delivery)


def _operator_marks_it(world: World) -> None:
    """An operator discards a failure of the order; what undoes it starts later."""
    world.discard(world.a_failure_of(order_of(world, "ada")))


def _customer_cancels_and_is_refunded(world: World) -> None:
    """The cancellation's event overtakes the charge."""
    _customer_cancels(world)
    world.publish()
    for delivery in [each for each in world.pending if each.to == "RefundPaymentFunction"]:
        world.deliver(delivery)


def _customer_cancels_what_it_read(world: World) -> None:
    """The cancellation reads the order now, and writes once the state has worked."""
    order_id = order_of(world, "ada")["orderId"]
    world.racing = Actor("QueryOrdersFunction", lambda: world.cancel(order_id, customer="ada"))
    while world.racing.point not in (None, "dynamodb.TransactWriteItems"):
        world.racing.step()


MEANWHILE: dict[str, Callable[[World], object]] = {
    "a copy of its event starts the workflow again": _copy(None),
    "an operator resumes it": _copy("resume"),
    "an operator discards it": _operator_gives_it_up,
    "an operator discards it, and it is undone later": _operator_marks_it,
    "its customer cancels it": _customer_cancels,
    "another order takes the stock": _another_order_takes_the_stock,
}


def faults(name: str) -> Iterator[Fault]:
    """Every row of a Task state, from its definition. Raises `KeyError` for an integration that isn't known."""
    state = blueprint.definition()["States"][name]
    integration = state["Resource"].removeprefix("arn:aws:states:::")
    named = {
        error
        for part in ("Retry", "Catch")
        for entry in state.get(part, [])
        for error in entry["ErrorEquals"]
        if error != "States.ALL"
    }
    handled_for_real = {
        "DynamoDb.TransactionCanceledException",
        "DynamoDB.ConditionalCheckFailedException",
        "OrderCancelled",
        "AlreadyShipped",
    }
    answers = (named | set(ANSWERS.get(name, ()))) - handled_for_real
    for error in (*EVERYWHERE, *BY_INTEGRATION[integration]):
        for when in ("before", "after"):
            yield Fault(name, error, when, _error(error))
    for error in sorted(answers):
        yield Fault(name, error, "before", _answer(error))
    if integration.endswith("transactWriteItems"):
        for why, codes in CANCELLATIONS.items():
            yield Fault(name, f"DynamoDb.TransactionCanceledException: {why}", "before", _cancellation(codes))
    for what, verdict in REFUSALS.items() if name in WITHIN else ():
        yield Fault(name, f"its last write {what}", "within", _outage(name, verdict, 1), repeats=False)
        yield Fault(name, f"its last write always {what}", "within", _outage(name, verdict, math.inf), repeats=False)
    racing = "meanwhile: its customer cancels it as it was before"
    yield Fault(name, racing, "around", _meanwhile(_customer_cancels_what_it_read), repeats=False)
    for when in ("before", "after"):
        yield Fault(name, "the execution is stopped", when, _stop, repeats=False)
        for what, act in MEANWHILE.items():
            yield Fault(name, f"meanwhile: {what}", when, _meanwhile(act), repeats=False)


# ---- Running a case ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One execution with one fault in it."""

    scenario: Scenario
    fault: Fault
    times: int

    def __str__(self) -> str:
        often = "once" if self.times == 1 else "always"
        return f"{self.scenario.name} / {self.fault.state} / {self.fault.what} / {self.fault.when} / {often}"


@functools.cache
def _prepared(scenario: Scenario) -> tuple[Json, Json]:
    world, data = scenario.prepare()
    return world.save(), data


def start(scenario: Scenario) -> tuple[World, Json]:
    """The scenario's world, with the fault that belongs to the scenario itself."""
    saved, data = _prepared(scenario)
    world = World()
    world.load(saved)
    if scenario.cancelled_at:
        act = _customer_cancels_and_is_refunded if scenario.refunded_at_once else _customer_cancels
        world.fault = Injection(scenario.cancelled_at, "before", 1, _meanwhile(act), world)
    return world, data


def visited(scenario: Scenario) -> list[str]:
    """The Task states that a scenario goes through when nothing goes wrong."""
    world, data = start(scenario)
    execution = world.run(data)
    try:
        _require_end(world, execution)
    except Wrong as wrong:
        raise Wrong(f"{scenario.name}, without any fault: {wrong}") from None
    if execution.status != "SUCCEEDED" or world.inbox:
        raise Wrong(f"{scenario.name}, without any fault: {execution.status} {execution.error}, inbox {world.inbox}")
    return [name for name in dict.fromkeys(execution.trace) if name in blueprint.task_states()]


def cases(*, short: bool = False) -> Iterator[Case]:
    """All cases; `short`: each row in one scenario only. Raises `Wrong` for a state that no scenario reaches."""
    missing = dict.fromkeys(blueprint.task_states())
    for scenario in SCENARIOS:
        for state in visited(scenario):
            first = state in missing
            missing.pop(state, None)
            for number, fault in enumerate(faults(state)):
                if short and not first and not fault.what.startswith(scenario.also_short or "-"):
                    continue
                yield Case(scenario, fault, 1)
                # Retries and catches don't tell most errors apart, so the short form exhausts them for a few.
                if fault.repeats and not (short and number % 4):
                    yield Case(scenario, fault, ALWAYS)
    if missing:
        raise Wrong(f"no scenario reaches {', '.join(missing)}: add one to SCENARIOS")


def play(case: Case) -> str:
    """Run a case; returns where the order ended. Raises `Wrong`."""
    world, data = start(case.scenario)
    of_scenario = world.fault
    injection = Injection(case.fault.state, case.fault.when, case.times, case.fault.act, world)

    def both(state: str, when: str) -> tuple[str, str] | None:
        return (of_scenario(state, when) if of_scenario else None) or injection(state, when)

    world.fault = both
    world.run(data)
    world.fault = None
    services.outages.clear()
    world.finish_racing()
    try:
        return _judge(world)
    except AssertionError as wrong:
        trace = " > ".join(" ".join(execution.trace) for execution in world.executions)
        raise Wrong(f"{case}\n  {wrong}\n  states: {trace}\n  again: make prove-case CASE='{case}'") from None


def _judge(world: World) -> str:
    wrong = world.check()
    for execution in world.executions:
        if execution.status == "FAILED" and execution.trace[-1] != "OrderStuck":
            wrong.append(f"{execution.trace[-1]} failed with {execution.error[0]}, which it should have caught")
    if wrong:
        raise Wrong("; ".join(wrong))
    undoing = [each for each in world.pending if each.to == blueprint.WORKFLOW]
    if undoing and not world.inbox:  # an operator has given the order up, and what undoes it has not run yet
        for delivery in undoing:
            world.deliver(delivery)
    stuck = [order for order in _concerned(world) if Status(order["status"]) not in TERMINAL]
    if not stuck:
        if order_of(world, "ada")["status"] == "CANCELLED":
            world.settle()
        _require_end(world, world.executions[-1])
        return _ended(world)
    for order in stuck:
        if not any(failure.order_id == order["orderId"] for failure in world.inbox):
            raise Wrong(f"LOST: the order is {order['status']}, nothing works on it and it is not in the inbox")
    return f"inbox as {_ended(world)} ({', '.join(_ways_out(world))})"


def _ways_out(world: World) -> Iterator[str]:
    """Where the order ends from the inbox: redriven, and discarded."""
    saved = world.save()
    for path, act in (("resume", world.redrive), ("undo", world.discard)):
        world.load(saved)
        for _ in range(2):  # what is down for a while may bring it back once
            for failure in list(world.inbox):
                act(failure)
            for delivery in list(world.pending):
                world.deliver(delivery)
        _require_end(world, world.executions[-1])
        yield f"{path}: {_ended(world)}"


def _require_end(world: World, execution: Execution) -> None:
    wrong = world.check()
    for order in _concerned(world):
        if Status(order["status"]) not in TERMINAL:
            wrong.append(f"LOST: the order stays {order['status']}; the execution is {execution.status}")
        wrong += wrong_with_end(order)
    if wrong:
        raise Wrong("; ".join(wrong))


def _concerned(world: World) -> list[Json]:
    return [order for order in world.orders() if order["customerId"] != NEIGHBOUR]


def _ended(world: World) -> str:
    return str(order_of(world, "ada")["status"])


# ---- The table in the documentation --------------------------------------------------------------------------

Row = tuple[str, str, str]
Results = dict[Row, dict[bool, list[str]]]


def collect(results: Results, case: Case, outcome: str) -> None:
    """Add a case's outcome to its row."""
    outcomes = results.setdefault(case.fault.key, {}).setdefault(case.times == 1, [])
    if outcome not in outcomes:
        outcomes.append(outcome)


def rows() -> list[Row]:
    """The key of every row that the definition calls for."""
    return [fault.key for state in blueprint.task_states() for fault in faults(state)]


def document(results: Results, number: int) -> str:
    """docs/fault-matrix.md."""
    lines = [
        "# Fault matrix",
        "",
        "Written by `make prove`; don't edit. Each row is a Task state of `statemachine/order.asl.yaml` with an",
        "error that it can meet, before or after the state has done its work. The order must end FULFILLED, FAILED",
        "or CANCELLED with everything undone, or in the failure inbox, from where it is resumed and undone.",
        "Where a cell names several outcomes, they belong to different scenarios: an order that goes through, one",
        "that is refused, resumed or undone when PLACED, RESERVED, PAID, shipped, FULFILLED or refunded.",
        "",
        f"{number} executions, none of which ended anywhere else. How it works: [proof.md](proof.md).",
        "",
    ]
    state = ""
    for row in rows():
        if row not in results:
            continue
        if row[0] != state:
            state = row[0]
            heading = "| error | comes | once | every time |"
            lines += ["", f"## {state}", "", heading, "|---|---|---|---|"]
        cells = [_cell(results[row].get(once, [])) for once in (True, False)]
        lines.append(f"| {row[1]} | {row[2]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(outcomes: list[str]) -> str:
    return "; ".join(sorted(outcomes)) or "-"


def differences(results: Results) -> list[str]:
    """What docs/fault-matrix.md doesn't say though it was found, or says though no row calls for it."""
    written: dict[Row, tuple[str, str]] = {}
    state = ""
    for line in DOCUMENT.read_text().splitlines() if DOCUMENT.exists() else []:
        if line.startswith("## "):
            state = line.removeprefix("## ")
        elif line.startswith("| ") and not line.startswith("| error"):
            error, when, once, always = line.strip("| ").split(" | ")
            written[state, error, when] = (once, always)
    wanted = set(rows())
    found = [f"not in docs/fault-matrix.md: {' / '.join(row)}" for row in sorted(wanted - set(written))]
    found += [f"only in docs/fault-matrix.md: {' / '.join(row)}" for row in sorted(set(written) - wanted)]
    for row, outcomes in results.items():
        for is_once, column in ((True, 0), (False, 1)):
            for outcome in outcomes.get(is_once, []):
                if row in written and outcome not in written[row][column].split("; "):
                    found.append(f"{' / '.join(row)} now ends as {outcome}")
    return found
