"""The fault matrix: every Task state of the workflow, and ship_order, with every error that they can meet.

The rows come from the definition. A new state has rows at once, and fails until a scenario reaches the state. Each
case runs the real definition with one fault, and then everything that follows from it. The order must end in one of
three places: fulfilled; failed or cancelled with everything undone; or in the failure inbox with its holds intact. An
order in the inbox must end both when it is redriven and when it is discarded. An order whose execution died without a
word must be found by the sweep.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from verify import clock, services, template
from verify.invariants import has_ended
from verify.scheduler import Aborted, CallOutcome, Process
from verify.services import Json, cancelled
from verify.simulation import HOUR_S, MINUTE_S, SHIPPING, Delivery, Simulation, body_of, check_end, ledger

ALWAYS = 1_000
DOCUMENT = template.ROOT / "docs" / "fault-matrix.md"
BASKET = {"apple": 2, "pear": 1}
NEIGHBOUR = "eve"
ANY_ERROR = ("Unheard.Of", "")
DIES = "the execution dies"
# Restarts without progress after which the sweep gives an order to the inbox.
MOST_RESTARTS = 3
# Errors that heal by themselves.
HEAL = frozenset({"PaymentProviderError", "WarehouseUnavailable", "Busy", "States.Timeout", "TooManyReceives"})


class CaseFailed(AssertionError):
    """A case whose order ended in none of the three places."""


# ---- Scenarios: what comes before the execution ----------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    """An order and the execution that takes the order up.

    `stop` names the state where an earlier execution got stuck, before or after its work; "end" lets that execution
    run to its end. `given_up` then makes the order FAILING, or marks it as release 1.0.0 did.
    """

    name: str
    stop: str | None = None
    when: str = "before"
    token: str = "tok_visa"
    postal: str = "1000"
    lines: tuple[tuple[str, int], ...] = tuple(BASKET.items())
    cancelled_at: str | None = None
    given_up_at: str | None = None
    refunded_at_once: bool = False
    charged: bool = False
    given_up: str = ""
    refunded: bool = False
    stuck: bool = False
    # The short form has the faults whose names begin like this in this scenario too.
    also_short: tuple[str, ...] = ()

    def prepare(self) -> tuple[Simulation, Json]:
        """A simulation in which the order waits for an execution, and the input of that execution."""
        simulation = Simulation()
        self._have_a_neighbour(simulation)
        answer = simulation.submit(
            body_of(dict(self.lines), token=self.token, postal=self.postal), customer="ada", key="key"
        )
        assert answer["statusCode"] == 202, answer
        order = order_of(simulation, "ada")
        simulation.stream_position = len(services.stream("OrdersTable"))  # the order's event is the input below
        if self.stop:
            passed = iter([None] if self.charged else [])  # the first attempt charges and loses the answer
            if self.when == "within":
                services.outages[WITHIN] = services.Outage(CallOutcome.REFUSED)
            elif self.stop != "end":
                simulation.inject = Injection(self.stop, self.when, ALWAYS, lambda _: next(passed, ANY_ERROR))
            simulation.run(simulation.input_of(order))
            simulation.rest()
            services.outages.clear()
        if self.given_up == "1.0.0":
            _mark_as_1_0_0_did(order)
        elif self.given_up:
            simulation.give_up(order["customerId"], order["orderId"])
        if self.refunded:
            simulation.inject = Injection("ReleaseInventory", "before", ALWAYS, lambda _: ANY_ERROR)
            simulation.run(simulation.input_of(order))
        _forget(simulation)
        return simulation, simulation.input_of(order)

    def _have_a_neighbour(self, simulation: Simulation) -> None:
        """Have another order hold as much of the same products: a second reservation or release then shows."""
        simulation.submit(body_of(BASKET), customer=NEIGHBOUR, key=None)
        simulation.inject = Injection("ReserveInventory", "after", ALWAYS, lambda _: ANY_ERROR)
        simulation.run(simulation.input_of(simulation.orders()[0]))
        _forget(simulation)


def _forget(simulation: Simulation) -> None:
    """Leave nothing in flight and nothing in the inbox."""
    simulation.inject = None
    simulation.pending.clear()
    simulation.executions.clear()
    simulation.for_the_sweep.clear()
    simulation.stream_position = len(services.stream("OrdersTable"))
    services.empty("FailuresTable")


def _mark_as_1_0_0_did(order: Json) -> None:
    services.table(
        "UpdateItem",
        {
            "TableName": "OrdersTable",
            "Key": {"customerId": {"S": order["customerId"]}, "orderId": {"S": order["orderId"]}},
            "UpdateExpression": "SET givenUp = :reason",
            "ExpressionAttributeValues": {
                ":reason": {"M": {"code": {"S": "Discarded"}, "message": {"S": "given up"}}}
            },
        },
    )


def order_of(simulation: Simulation, customer: str) -> Json:
    """A customer's order, plain."""
    return next(order for order in simulation.orders() if order["customerId"] == customer)


_CHARGED = {"stop": "ProcessPayment", "token": "tok_timeout_after_charge", "charged": True}

SCENARIOS = (
    Scenario("an order"),
    Scenario("a product that is not sold", lines=(("apple", 1), ("unicorn", 1))),
    Scenario("not enough in stock", lines=(("apple", 2), ("pear", 99))),
    Scenario("a declined card", token="tok_declined"),
    Scenario("an address that the warehouse refuses", postal="TEST-REFUSED"),
    Scenario("a provider that is down", token="tok_provider_down_5", stuck=True),
    Scenario("cancelled while it is charged", cancelled_at="ProcessPayment"),
    Scenario(
        "cancelled and refunded before it is charged",
        cancelled_at="ProcessPayment",
        refunded_at_once=True,
        also_short=(DIES,),
    ),
    Scenario("cancelled while the provider is down", token="tok_provider_down_6", cancelled_at="ProcessPayment"),
    Scenario("restarted when RESERVED", "ReserveInventory", "after"),
    Scenario("restarted when charged, not yet PAID", also_short=("meanwhile",), **_CHARGED),  # type: ignore[arg-type]
    Scenario("restarted when PAID", "FulfillOrder"),
    Scenario("restarted when shipped", "end", "within"),
    Scenario("restarted when FULFILLED", "end"),
    Scenario("given up when PLACED", given_up="FAILING"),
    Scenario("given up when RESERVED", "ReserveInventory", "after", given_up="FAILING"),
    Scenario("given up when charged, not yet PAID", given_up="FAILING", **_CHARGED),  # type: ignore[arg-type]
    Scenario("given up when PAID", "FulfillOrder", given_up="FAILING"),
    Scenario("given up when shipped", "end", "within", given_up="FAILING"),
    Scenario("given up when refunded", "FulfillOrder", given_up="FAILING", refunded=True),
    Scenario("given up by 1.0.0 when PLACED", given_up="1.0.0"),
    Scenario("given up by 1.0.0 when RESERVED", "ReserveInventory", "after", given_up="1.0.0"),
    Scenario("given up by 1.0.0 when shipped", "end", "within", given_up="1.0.0"),
)

# Run once, without any other fault: nothing of them may stay in the inbox.
UNDISTURBED = (
    Scenario("given up while the provider is down", token="tok_provider_down_6", given_up_at="ProcessPayment"),
)


# ---- Faults: what a state can meet ---------------------------------------------------------------------------

Act = Callable[[Simulation], "tuple[str, str] | None"]


@dataclass
class Injection:
    """An injector: `act` happens the first `times` times that the state comes to `when`."""

    state: str
    when: str
    times: int
    act: Act
    simulation: Simulation | None = None
    count: int = 0

    def __call__(self, state: str, when: str) -> tuple[str, str] | None:
        """The error that this attempt meets, or None."""
        if self.when == "around" and state == self.state:
            assert self.simulation is not None
            if when == "before" and not self.count:
                self.count += 1
                self.act(self.simulation)
            else:
                self.simulation.finish_racing()
            return None
        begins = "before" if self.when == "within" else self.when
        if (state, when) != (self.state, begins) or self.count >= self.times:
            return None
        self.count += 1
        return self.act(self.simulation)  # type: ignore[arg-type]


@dataclass(frozen=True)
class MatrixRow:
    """One row: a fault of a state, and whether the fault comes before or after the state has done its work."""

    state: str
    fault: str
    when: str
    act: Act
    repeats: bool = True

    @property
    def key(self) -> tuple[str, str, str]:
        """The row's first three columns."""
        return self.state, self.fault, self.when


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
    "sqs:sendMessage": ("SQS.SqsException", "SQS.SdkClientException"),
}
# Why a transaction can be cancelled although the order's condition holds. A condition that fails is not injected: the
# scenarios and what happens meanwhile make it fail.
CANCELLATIONS = {
    "a conflict over the order": ["TransactionConflict", "None", "None"],
    "a conflict over a product": ["None", "TransactionConflict", "None"],
    "a throttled orders table": ["ProvisionedThroughputExceeded", "None", "None"],
    "a throttled catalogue": ["None", "ThrottlingError", "None"],
}
# The last write of ship_order, its write to the warehouse's ledger, and the outcomes of both.
WITHIN = "dynamodb.TransactWriteItems"
SHIPPING_CALLS = {"its last write": WITHIN, "the warehouse": "dynamodb.UpdateItem"}
CALL_OUTCOMES = {
    "is throttled": CallOutcome.REFUSED,
    "meets another writer": CallOutcome.CONFLICT,
    "has its answer lost": CallOutcome.LOST,
    "is called twice": CallOutcome.TWICE,
}
# Errors that a function answers with instead of doing its work; never injected after the work.
ANSWERS = {
    "ValidateOrder": ("ValidationError", "Busy", "Unreadable"),
    "ProcessPayment": ("PaymentDeclined", "PaymentError", "PaymentProviderError"),
    "CancelShipment": ("WarehouseUnavailable",),
    "RefundPayment": ("PaymentProviderError",),
}


def _error(name: str) -> Act:
    cause = json.dumps({"errorType": name, "errorMessage": "injected"})
    return lambda _: (name, cause)


def _answer(name: str) -> Act:
    """An error that a function answers with; none if the error would contradict the work already done."""
    given = _error(name)

    def act(simulation: Simulation) -> tuple[str, str] | None:
        order = order_of(simulation, "ada")
        charged = "charges" in ledger("PaymentsTable", "idempotencyKey").get(order["orderId"], {})
        contradicts = {
            "ValidationError": order["status"] != "PLACED",
            "PaymentDeclined": charged,
            "PaymentError": charged,
            "OutOfStock": order["status"] != "PLACED",
            "TooManyStockItems": order["status"] != "PLACED",
        }
        return None if contradicts.get(name) else given(simulation)

    return act


def _cancellation(codes: list[str]) -> Act:
    cause = cancelled(codes).message + " (Service: DynamoDb, Status Code: 400, Request ID: 1)"
    return lambda _: ("DynamoDb.TransactionCanceledException", cause)


def _outage(call: str, outcome: CallOutcome, calls: float) -> Act:
    def begin(_: Simulation) -> None:
        services.outages[call] = services.Outage(outcome, calls)

    return begin


def _die(_: Simulation) -> None:
    raise Aborted


def _meanwhile(act: Callable[[Simulation], object]) -> Act:
    def run(simulation: Simulation) -> None:
        around, simulation.inject = simulation.inject, None
        act(simulation)
        simulation.inject = around

    return run


def _customer_cancels(simulation: Simulation) -> None:
    simulation.cancel(order_of(simulation, "ada")["orderId"], customer="ada")


def _another_order_takes_the_stock(simulation: Simulation) -> None:
    simulation.submit(body_of({"pear": 3}), customer="bob", key=None)
    simulation.run(simulation.input_of(order_of(simulation, "bob")))


def _restart(simulation: Simulation) -> None:
    """A duplicate of its event, the sweep or a redrive starts the workflow again."""
    simulation.run(simulation.input_of(order_of(simulation, "ada")))


def _give_up(simulation: Simulation) -> None:
    """Somebody gives the order up; the workflow that undoes the order runs later."""
    order = order_of(simulation, "ada")
    simulation.give_up(order["customerId"], order["orderId"])


def _give_up_and_undo(simulation: Simulation) -> None:
    """Somebody gives the order up; the workflow that undoes the order runs at once."""
    _give_up(simulation)
    _restart(simulation)


def _ship(simulation: Simulation) -> None:
    """The messages to the warehouse arrive at once."""
    for delivery in [each for each in simulation.pending if each.to == "FulfilmentQueue"]:
        simulation.deliver(delivery)


def _ship_a_duplicate(simulation: Simulation) -> None:
    """Messages to the warehouse that arrived before arrive again."""
    for payload in simulation.shipped:
        simulation.deliver(Delivery("FulfilmentQueue", payload))


def _customer_cancels_and_is_refunded(simulation: Simulation) -> None:
    """The cancellation's event overtakes the charge."""
    _customer_cancels(simulation)
    simulation.publish()
    for delivery in [each for each in simulation.pending if each.to == "RefundPaymentFunction"]:
        simulation.deliver(delivery)


def _customer_cancels_what_it_read(simulation: Simulation) -> None:
    """The cancellation reads the order now, and writes after the state has done its work."""
    order_id = order_of(simulation, "ada")["orderId"]
    simulation.racing = Process("QueryOrdersFunction", lambda: simulation.cancel(order_id, customer="ada"))
    while simulation.racing.point not in (None, "dynamodb.TransactWriteItems"):
        simulation.racing.step()


def _merge(simulation: Simulation) -> None:
    """A shard of a product is emptied and closed; it is removed once nobody holds pieces of it."""
    simulation.merge("pear", 1)


def _split(simulation: Simulation) -> None:
    simulation.split("pear", 3)


MEANWHILE: dict[str, Callable[[Simulation], object]] = {
    "the workflow is started again": _restart,
    "it is given up, and undone at once": _give_up_and_undo,
    "it is given up, and undone later": _give_up,
    "its customer cancels it": _customer_cancels,
    "another order takes the stock": _another_order_takes_the_stock,
    "its product's shards are merged": _merge,
    "its product's shards are split": _split,
    "its messages to the warehouse arrive": _ship,
    "its messages to the warehouse arrive again": _ship_a_duplicate,
}


def rows_of(name: str) -> Iterator[MatrixRow]:
    """Every row of a Task state, from its definition, or of ship_order. Raises `KeyError` for a new integration."""
    yield from _shipping_rows() if name == SHIPPING else _error_rows(name)
    racing = "meanwhile: its customer cancels it as it was before"
    yield MatrixRow(name, racing, "around", _meanwhile(_customer_cancels_what_it_read), repeats=False)
    for when in ("before", "after"):
        for what, act in MEANWHILE.items():
            yield MatrixRow(name, f"meanwhile: {what}", when, _meanwhile(act), repeats=False)


def _shipping_rows() -> Iterator[MatrixRow]:
    for when in ("before", "after"):
        yield MatrixRow(SHIPPING, "the function dies", when, lambda _: ANY_ERROR)
    for what, call in SHIPPING_CALLS.items():
        for how, outcome in CALL_OUTCOMES.items():
            for often, calls in (("", 1), ("always ", math.inf)):
                act = _outage(call, outcome, calls)
                yield MatrixRow(SHIPPING, f"{what} {often}{how}", "within", act, repeats=False)


def _error_rows(name: str) -> Iterator[MatrixRow]:
    state = template.definition()["States"][name]
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
        "OrderFailing",
        "AlreadyShipped",
    }
    answers = (named | set(ANSWERS.get(name, ()))) - handled_for_real
    for error in (*EVERYWHERE, *BY_INTEGRATION[integration]):
        for when in ("before", "after"):
            yield MatrixRow(name, error, when, _error(error))
    for error in sorted(answers):
        yield MatrixRow(name, error, "before", _answer(error))
    if integration.endswith("transactWriteItems"):
        for why, codes in CANCELLATIONS.items():
            yield MatrixRow(name, f"DynamoDb.TransactionCanceledException: {why}", "before", _cancellation(codes))
    for when in ("before", "after"):
        yield MatrixRow(name, DIES, when, _die)


# ---- Running a case ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One execution with one fault in it."""

    scenario: Scenario
    row: MatrixRow
    times: int

    def __str__(self) -> str:
        often = "once" if self.times == 1 else "always"
        return f"{self.scenario.name} / {self.row.state} / {self.row.fault} / {self.row.when} / {often}"


@functools.cache
def _prepared(scenario: Scenario) -> tuple[Json, Json]:
    simulation, data = scenario.prepare()
    return simulation.save(), data


def start(scenario: Scenario) -> tuple[Simulation, Json]:
    """The scenario's simulation, with the scenario's own cancellation, and the input of the execution."""
    saved, data = _prepared(scenario)
    simulation = Simulation()
    simulation.load(saved)
    if scenario.cancelled_at:
        act = _customer_cancels_and_is_refunded if scenario.refunded_at_once else _customer_cancels
        simulation.inject = Injection(scenario.cancelled_at, "before", 1, _meanwhile(act), simulation)
    if scenario.given_up_at:
        simulation.inject = Injection(scenario.given_up_at, "before", 1, _meanwhile(_give_up), simulation)
    return simulation, data


def visited(scenario: Scenario) -> list[str]:
    """The Task states that a scenario goes through without any fault. Raises `CaseFailed`."""
    simulation, data = start(scenario)
    of_scenario = simulation.inject
    met: list[str] = []

    def follow(state: str, when: str) -> tuple[str, str] | None:
        met.append(state)
        return of_scenario(state, when) if of_scenario else None

    simulation.inject = follow
    simulation.run(data)
    simulation.rest()
    simulation.inject = None
    try:
        outcome = _judge(simulation)
    except CaseFailed as wrong:
        raise CaseFailed(f"{scenario.name}, without any fault: {wrong}") from None
    if (outcome.startswith("inbox") or bool(simulation.inbox)) != scenario.stuck or outcome.startswith("sweep"):
        raise CaseFailed(f"{scenario.name}, without any fault: {outcome}")
    wanted = "FULFILLED" if scenario.when == "within" else "FAILED"  # a parcel that has left can't be undone
    if scenario.given_up and outcome != wanted:
        raise CaseFailed(f"{scenario.name}, without any fault: the order is {outcome}, not {wanted}")
    return list(dict.fromkeys(met))


def cases(*, short: bool = False) -> Iterator[Case]:
    """All cases; `short`: each row in one scenario only. Raises `CaseFailed` for a state that no scenario reaches."""
    missing = dict.fromkeys(_states())
    for scenario in UNDISTURBED:
        visited(scenario)
    for scenario in SCENARIOS:
        for state in visited(scenario):
            first = state in missing
            missing.pop(state, None)
            for number, row in enumerate(rows_of(state)):
                if short and not first and not row.fault.startswith(scenario.also_short or "-"):
                    continue
                yield Case(scenario, row, 1)
                # Retriers and catchers treat most errors alike, so the short form exhausts the retries of a few only.
                if row.repeats and not (short and number % 4):
                    yield Case(scenario, row, ALWAYS)
    if missing:
        raise CaseFailed(f"no scenario reaches {', '.join(missing)}: add one to SCENARIOS")


def play(case: Case) -> str:
    """Run a case and return where the order ended. Raises `CaseFailed`."""
    simulation, data = start(case.scenario)
    of_scenario = simulation.inject
    injection = Injection(case.row.state, case.row.when, case.times, case.row.act, simulation)

    def both(state: str, when: str) -> tuple[str, str] | None:
        return (of_scenario(state, when) if of_scenario else None) or injection(state, when)

    simulation.inject = both
    simulation.run(data)
    simulation.rest()
    try:
        if case.row.fault == DIES and case.times == ALWAYS:
            _sweep_in_vain(simulation)
    except AssertionError as wrong:
        raise CaseFailed(f"{case}\n  {wrong}") from None
    simulation.inject = None
    services.outages.clear()
    simulation.finish_racing()
    try:
        return _judge(simulation)
    except AssertionError as wrong:
        trace = " > ".join(" ".join(execution.trace) for execution in simulation.executions)
        raise CaseFailed(f"{case}\n  {wrong}\n  states: {trace}\n  rerun: make prove-case CASE='{case}'") from None


def _judge(simulation: Simulation) -> str:
    """Where the order ended. Raises `CaseFailed`."""
    simulation.rest()
    wrong = simulation.check()
    for execution in simulation.executions:
        if execution.status == "FAILED" and execution.trace[-1] != "OrderStuck":
            wrong.append(f"{execution.trace[-1]} failed with {execution.error[0]}, which it should have caught")
    if wrong:
        raise CaseFailed("; ".join(wrong))
    standing = {order["orderId"] for order in _concerned(simulation) if not has_ended(order)}
    if not standing:
        return _ended(simulation)
    lost = standing - simulation.for_the_sweep - {failure.order_id for failure in simulation.inbox}
    if lost:
        raise CaseFailed(f"LOST: the order is {_status(simulation)}, nothing works on it and it is not in the inbox")
    if simulation.inbox:
        return f"inbox as {_status(simulation)} ({', '.join(_ways_out(simulation))})"
    _sweep(simulation)
    return f"sweep: {_judge(simulation)}"


def _sweep(simulation: Simulation) -> None:
    """The sweep finds the order, an hour later."""
    clock.advance(3 * HOUR_S)
    simulation.for_the_sweep.clear()
    simulation.sweep()
    simulation.rest()


def _sweep_in_vain(simulation: Simulation) -> None:
    """The sweep starts an order that kills each execution, until the sweep gives the order to the inbox."""
    begun = len(simulation.executions)
    for _ in range(MOST_RESTARTS + 2):
        if has_ended(order_of(simulation, "ada")) or simulation.inbox:
            return
        clock.advance(HOUR_S)
        simulation.sweep()
        simulation.rest()
    raise CaseFailed(f"{len(simulation.executions) - begun} executions died, and nobody is told")


def _ways_out(simulation: Simulation) -> Iterator[str]:
    """Where the order ends from the inbox, when redriven and when discarded."""
    saved = simulation.save()
    for name, act in (("redrive", simulation.redrive), ("discard", simulation.discard)):
        simulation.load(saved)
        for _ in range(2):  # a provider that is down for a while may bring the order back once
            for failure in simulation.inbox:
                act(failure)
            simulation.rest()
        swept = ""
        if act == simulation.discard and any(not has_ended(order) for order in _concerned(simulation)):
            _sweep(simulation)  # an order that is undone already has nobody else to go on
            swept = "sweep: "
        if simulation.inbox:  # the sweep has restarted the order in vain before, and hands it over again
            simulation.redrive(simulation.inbox[0])
            simulation.rest()
            swept = "inbox, redrive: "
        yield f"{name}: {swept}{_ended(simulation)}"
    simulation.load(saved)
    if {failure.error_name for failure in simulation.inbox} <= HEAL:
        for _ in range(3):
            clock.advance(MINUTE_S)
            simulation.heal()
            simulation.rest()
        yield f"heal: {_ended(simulation)}"
        simulation.load(saved)
    if _status(simulation) in ("PLACED", "RESERVED"):
        clock.advance(25 * HOUR_S)
        simulation.sweep()
        simulation.rest()
        yield f"expire: {_ended(simulation)}"


def _ended(simulation: Simulation) -> str:
    """The order's last status. Late duplicates of everything must not change it. Raises `CaseFailed`."""
    _require_end(simulation)
    ended = _status(simulation)
    _restart(simulation)
    _ship_a_duplicate(simulation)
    simulation.rest()
    _require_end(simulation)
    if _status(simulation) != ended:
        raise CaseFailed(f"{ended} became {_status(simulation)} by late duplicates")
    return ended


def _require_end(simulation: Simulation) -> None:
    wrong = simulation.check()
    for order in _concerned(simulation):
        if not has_ended(order):
            execution = simulation.executions[-1]
            wrong.append(f"LOST: the order stays {order['status']}; its last execution is {execution.status}")
        wrong += check_end(order)
    if wrong:
        raise CaseFailed("; ".join(wrong))


def _concerned(simulation: Simulation) -> list[Json]:
    return [order for order in simulation.orders() if order["customerId"] != NEIGHBOUR]


def _status(simulation: Simulation) -> str:
    return str(order_of(simulation, "ada")["status"])


def _states() -> list[str]:
    return [*template.task_states(), SHIPPING]


# ---- The table in the documentation --------------------------------------------------------------------------

RowKey = tuple[str, str, str]
Results = dict[RowKey, dict[bool, list[str]]]


def collect(results: Results, case: Case, outcome: str) -> None:
    """Add a case's outcome to its row."""
    outcomes = results.setdefault(case.row.key, {}).setdefault(case.times == 1, [])
    if outcome not in outcomes:
        outcomes.append(outcome)


def rows() -> list[RowKey]:
    """The key of every row that the definition calls for."""
    return [row.key for state in _states() for row in rows_of(state)]


def document(results: Results, number: int) -> str:
    """docs/fault-matrix.md."""
    lines = [
        "# Fault matrix",
        "",
        "Written by `make prove`; don't edit. Each row is a Task state of `statemachine/order.asl.yaml`, or",
        "`ship_order`, with an error that it can meet, before or after it has done its work. The order must end",
        "FULFILLED; FAILED or CANCELLED with everything undone; or in the failure inbox, where it is redriven and",
        "discarded. The sweep must find an order whose execution died without a word. Several outcomes in a cell",
        "belong to different scenarios: an order that goes through, that is refused, or that is restarted or given",
        "up when PLACED, RESERVED, charged, PAID, shipped, refunded or FULFILLED.",
        "",
        f"{number} cases, none of which ended anywhere else. How it works: [proof.md](proof.md).",
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
    """Outcomes and rows that docs/fault-matrix.md lacks, and rows that the definition does not have."""
    written: dict[RowKey, tuple[str, str]] = {}
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
