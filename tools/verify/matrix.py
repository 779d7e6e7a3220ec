"""The fault matrix: every Task state of the workflow with every error that it can meet.

The rows come from the definition. A new state has rows at once, and fails until a scenario reaches the state. Each
case runs the real definition with one fault. The order must end in one of three places: fulfilled; failed or
cancelled with everything undone; or in the failure inbox with its holds intact. An order in the inbox must end both
when it is redriven and when it is discarded.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from verify import services, template
from verify.invariants import has_ended
from verify.scheduler import Aborted, CallOutcome, Process
from verify.services import Json, cancelled
from verify.simulation import InboxEntry, Simulation, body_of, check_end, ledger
from verify.workflow import SimulatedExecution

ALWAYS = 1_000
DOCUMENT = template.ROOT / "docs" / "fault-matrix.md"
BASKET = {"apple": 2, "pear": 1}
NEIGHBOUR = "eve"


class CaseFailed(AssertionError):
    """A case whose order ended in none of the three places."""


# ---- Scenarios: what comes before the execution ----------------------------------------------------------


@dataclass(frozen=True)
class Scenario:
    """An order and the execution that takes the order up. `stop` names the state where an earlier one got stuck."""

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
    # The short form has the faults whose names begin like this in this scenario too.
    also_short: tuple[str, ...] = ()
    undone: bool = False

    def prepare(self) -> tuple[Simulation, Json]:
        """A simulation in which the order waits for an execution, and the input of that execution."""
        simulation = Simulation()
        self._have_a_neighbour(simulation)
        answer = simulation.submit(
            body_of(dict(self.lines), token=self.token, postal=self.postal), customer="ada", key="key"
        )
        assert answer["statusCode"] == 202, answer
        order = order_of(simulation, "ada")
        if self.stop:
            passed = iter([None] if self.charged else [])  # the first attempt charges and loses the answer
            if self.when == "within":
                services.outages[WITHIN[self.stop]] = services.Outage(CallOutcome.REFUSED)
            else:
                simulation.inject = Injection(
                    self.stop, self.when, ALWAYS, lambda _: next(passed, ("Unheard.Of", ""))
                )
            simulation.run(simulation.input_of(order))
            services.outages.clear()
            if self.undone:
                simulation.inject = Injection("ReleaseInventory", "before", ALWAYS, lambda _: ("Unheard.Of", ""))
                simulation.discard(stuck_entry(simulation, order))
                simulation.run(json.loads(simulation.pending.pop().payload))
            simulation.inject = None
            stuck = stuck_entry(simulation, order)
            if self.path == "undo" and not self.undone:
                simulation.discard(stuck)
                simulation.pending.clear()
            simulation.inbox.clear()
        return simulation, simulation.input_of(order, None if self.path == "forward" else "resume")

    def _have_a_neighbour(self, simulation: Simulation) -> None:
        """Have another order hold as much of the same products: a second reservation or release then shows."""
        simulation.submit(body_of(BASKET), customer=NEIGHBOUR, key=None)
        simulation.inject = Injection("ReserveInventory", "after", ALWAYS, lambda _: ("Unheard.Of", ""))
        simulation.run(simulation.input_of(simulation.orders()[0]))
        simulation.inject = None
        simulation.inbox.clear()


def stuck_entry(simulation: Simulation, order: Json) -> InboxEntry:
    """The inbox entry of the order's stuck execution; of an earlier execution if the order has ended."""
    stuck = [each for each in simulation.inbox if each.execution]
    assert len(stuck) == (not has_ended(order_of(simulation, order["customerId"]))), stuck
    return stuck[0] if stuck else simulation.earlier_entry_of(order)


def order_of(simulation: Simulation, customer: str) -> Json:
    """A customer's order, plain."""
    return next(order for order in simulation.orders() if order["customerId"] == customer)


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
    "sqs:sendMessage.waitForTaskToken": ("SQS.SqsException", "SQS.SdkClientException", "States.HeartbeatTimeout"),
}
# Why a transaction can be cancelled although the order's condition holds. A condition that fails is not injected: the
# scenarios and what happens meanwhile make it fail.
CANCELLATIONS = {
    "a conflict over the order": ["TransactionConflict", "None", "None"],
    "a conflict over a product": ["None", "TransactionConflict", "None"],
    "a throttled orders table": ["ProvisionedThroughputExceeded", "None", "None"],
    "a throttled catalogue": ["None", "ThrottlingError", "None"],
}
# The last write of a state's work, and the outcomes of that write.
WITHIN = {"FulfillOrder": "dynamodb.TransactWriteItems"}
REFUSALS = {
    "is throttled": CallOutcome.REFUSED,
    "meets another order at a product": CallOutcome.CONFLICT,
    "has its answer lost": CallOutcome.LOST,
    "is sent twice": CallOutcome.TWICE,
}
# Errors that a function answers with instead of doing its work; never injected after the work.
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
    """An error that a function answers with; none if the error would contradict the work already done."""
    given = _error(name)

    def act(simulation: Simulation) -> tuple[str, str] | None:
        order = order_of(simulation, "ada")
        charged = "charges" in ledger("PaymentsTable", "idempotencyKey").get(order["orderId"], {})
        shipped = "shipments" in ledger("ShipmentsTable", "orderId").get(order["orderId"], {})
        contradicts = {
            "ValidationError": order["status"] != "PLACED",
            "PaymentDeclined": charged,
            "PaymentError": charged,
            "WarehouseError": shipped,
        }
        return None if contradicts.get(name) else given(simulation)

    return act


def _cancellation(codes: list[str]) -> Act:
    cause = cancelled(codes).message + " (Service: DynamoDb, Status Code: 400, Request ID: 1)"
    return lambda _: ("DynamoDb.TransactionCanceledException", cause)


def _outage(state: str, outcome: CallOutcome, calls: float) -> Act:
    def begin(_: Simulation) -> None:
        services.outages[WITHIN[state]] = services.Outage(outcome, calls)

    return begin


def _stop(_: Simulation) -> None:
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


def _duplicate(path: str | None) -> Callable[[Simulation], object]:
    def run(simulation: Simulation) -> None:
        simulation.run(simulation.input_of(order_of(simulation, "ada"), path))

    return run


def _operator_gives_it_up(simulation: Simulation) -> None:
    """An operator discards an earlier failure of the order; the workflow that undoes the order runs at once."""
    simulation.discard(simulation.earlier_entry_of(order_of(simulation, "ada")))
    for delivery in [each for each in simulation.pending if each.to == template.WORKFLOW]:
        simulation.deliver(delivery)


def _operator_marks_it(simulation: Simulation) -> None:
    """An operator discards an earlier failure of the order; the workflow that undoes the order runs later."""
    simulation.discard(simulation.earlier_entry_of(order_of(simulation, "ada")))


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


MEANWHILE: dict[str, Callable[[Simulation], object]] = {
    "a duplicate of its event starts the workflow again": _duplicate(None),
    "an operator resumes it": _duplicate("resume"),
    "an operator discards it": _operator_gives_it_up,
    "an operator discards it, and it is undone later": _operator_marks_it,
    "its customer cancels it": _customer_cancels,
    "another order takes the stock": _another_order_takes_the_stock,
}


def rows_of(name: str) -> Iterator[MatrixRow]:
    """Every row of a Task state, from its definition. Raises `KeyError` for an unknown integration."""
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
    for what, outcome in REFUSALS.items() if name in WITHIN else ():
        yield MatrixRow(name, f"its last write {what}", "within", _outage(name, outcome, 1), repeats=False)
        yield MatrixRow(
            name, f"its last write always {what}", "within", _outage(name, outcome, math.inf), repeats=False
        )
    racing = "meanwhile: its customer cancels it as it was before"
    yield MatrixRow(name, racing, "around", _meanwhile(_customer_cancels_what_it_read), repeats=False)
    for when in ("before", "after"):
        yield MatrixRow(name, "the execution is stopped", when, _stop, repeats=False)
        for what, act in MEANWHILE.items():
            yield MatrixRow(name, f"meanwhile: {what}", when, _meanwhile(act), repeats=False)


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
    return simulation, data


def visited(scenario: Scenario) -> list[str]:
    """The Task states that a scenario goes through without any fault. Raises `CaseFailed`."""
    simulation, data = start(scenario)
    execution = simulation.run(data)
    try:
        _require_end(simulation, execution)
    except CaseFailed as wrong:
        raise CaseFailed(f"{scenario.name}, without any fault: {wrong}") from None
    if execution.status != "SUCCEEDED" or simulation.inbox:
        raise CaseFailed(
            f"{scenario.name}, without any fault: {execution.status} {execution.error}, inbox {simulation.inbox}"
        )
    return [name for name in dict.fromkeys(execution.trace) if name in template.task_states()]


def cases(*, short: bool = False) -> Iterator[Case]:
    """All cases; `short`: each row in one scenario only. Raises `CaseFailed` for a state that no scenario reaches."""
    missing = dict.fromkeys(template.task_states())
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
    simulation.inject = None
    services.outages.clear()
    simulation.finish_racing()
    try:
        return _judge(simulation)
    except AssertionError as wrong:
        trace = " > ".join(" ".join(execution.trace) for execution in simulation.executions)
        raise CaseFailed(f"{case}\n  {wrong}\n  states: {trace}\n  rerun: make prove-case CASE='{case}'") from None


def _judge(simulation: Simulation) -> str:
    wrong = simulation.check()
    for execution in simulation.executions:
        if execution.status == "FAILED" and execution.trace[-1] != "OrderStuck":
            wrong.append(f"{execution.trace[-1]} failed with {execution.error[0]}, which it should have caught")
    if wrong:
        raise CaseFailed("; ".join(wrong))
    undoing = [each for each in simulation.pending if each.to == template.WORKFLOW]
    if undoing and not simulation.inbox:  # an operator has given the order up, and its undoing has not run yet
        for delivery in undoing:
            simulation.deliver(delivery)
    stuck = [order for order in _concerned(simulation) if not has_ended(order)]
    if not stuck:
        if order_of(simulation, "ada")["status"] == "CANCELLED":
            simulation.settle()
        _require_end(simulation, simulation.executions[-1])
        return _ended(simulation)
    for order in stuck:
        if not any(entry.order_id == order["orderId"] for entry in simulation.inbox):
            raise CaseFailed(f"LOST: the order is {order['status']}, nothing works on it and it is not in the inbox")
    return f"inbox as {_ended(simulation)} ({', '.join(_ways_out(simulation))})"


def _ways_out(simulation: Simulation) -> Iterator[str]:
    """Where the order ends from the inbox, when redriven and when discarded."""
    saved = simulation.save()
    for path, act in (("resume", simulation.redrive), ("undo", simulation.discard)):
        simulation.load(saved)
        for _ in range(2):  # a provider that is down for a while may bring the order back once
            for entry in list(simulation.inbox):
                act(entry)
            for delivery in list(simulation.pending):
                simulation.deliver(delivery)
        _require_end(simulation, simulation.executions[-1])
        yield f"{path}: {_ended(simulation)}"


def _require_end(simulation: Simulation, execution: SimulatedExecution) -> None:
    wrong = simulation.check()
    for order in _concerned(simulation):
        if not has_ended(order):
            wrong.append(f"LOST: the order stays {order['status']}; the execution is {execution.status}")
        wrong += check_end(order)
    if wrong:
        raise CaseFailed("; ".join(wrong))


def _concerned(simulation: Simulation) -> list[Json]:
    return [order for order in simulation.orders() if order["customerId"] != NEIGHBOUR]


def _ended(simulation: Simulation) -> str:
    return str(order_of(simulation, "ada")["status"])


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
    return [row.key for state in template.task_states() for row in rows_of(state)]


def document(results: Results, number: int) -> str:
    """docs/fault-matrix.md."""
    lines = [
        "# Fault matrix",
        "",
        "Written by `make prove`; don't edit. Each row is a Task state of `statemachine/order.asl.yaml` with an",
        "error that the state can meet, before or after the state has done its work. The order must end FULFILLED;",
        "FAILED or CANCELLED with everything undone; or in the failure inbox, from where it is resumed and undone.",
        "Several outcomes in a cell belong to different scenarios: an order that goes through, that is refused, or",
        "that is resumed or undone when PLACED, RESERVED, PAID, shipped, FULFILLED or refunded.",
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
