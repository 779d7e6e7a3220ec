"""`measure cost-peers`: what two well-known public order samples would cost by the same count.

Their units are read from their templates and sources, for one order of two products that ends well, in batches of
one. Prices come from the same table as ours. Neither sample was run. Where a unit can't be read (duration, log
bytes), ours stands in. Both do less than this project, or other things.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.table import Table

from measure import cost, report
from orderctl.options import Json

KB = 1024
LOG_BYTES_A_CALL = 1 * KB  # about as much as ours
CALL_SECONDS = 0.02 * 2  # ours, with the same factor


@dataclass(frozen=True)
class Peer:
    """Another project, what it does, and its units an order by the name of their price."""

    name: str
    does: str
    units: dict[str, float]


LONG_LIVED_TRANSACTIONS = Peer(
    "aws-samples/aws-step-functions-long-lived-transactions",
    "a saga of three Lambda functions started by hand: no API, no events, no shipping, no receipt, no mail",
    {
        "states.standard": 5,  # ProcessOrder, ProcessPayment, ReserveInventory, the notification, the end
        "lambda.request": 3,
        "lambda.arm64": 3 * CALL_SECONDS * 0.25,
        "dynamodb.write": 1 + 2 + 2,  # two of its three tables have an index with all attributes
        "sns.publish": 1,
        "sqs.standard": 1,
        # Level ALL with execution data: five events a task, two an end, two an execution, of about 1 KB.
        "logs.ingest": (4 * 5 + 2 + 2) * KB + 3 * 400,
        "xray.trace": 0.05,
    },
)
ECOMMERCE_PLATFORM = Peer(
    "aws-samples/aws-serverless-ecommerce-platform",
    "choreography without a workflow: synchronous checks before the answer, no reservation, no undo of a payment",
    {
        "appsync.query": 1 + 2,  # the order; then staff complete the packaging and the delivery
        "apigateway.rest": 3 + 1,  # delivery price, payment token and products are checked; delivery reads the order
        "lambda.request": 18,
        "lambda.arm64": 17 * CALL_SECONDS * 0.125 + 0.15 * 0.75,  # the first waits for three HTTP calls at 768 MB
        "dynamodb.write": 6 + 8 + 6 + 2,  # orders, warehouse, delivery, payment; every index has all attributes
        "dynamodb.read": 5,
        "events.custom": 5,
        "events.archive": 5 * 1.5 * KB,
        "logs.ingest": 18 * LOG_BYTES_A_CALL,
        "xray.trace": 0.05 * (1 + 8),
    },
)


PEERS = (LONG_LIVED_TRANSACTIONS, ECOMMERCE_PLATFORM)


def per_million(peer: Peer, prices: cost.Prices) -> float:
    """Return dollars for a million orders of a peer."""
    return sum(units * prices.unit(name) for name, units in peer.units.items()) * cost.MILLION


def run() -> dict[str, dict[str, float]]:
    """Return dollars for a million orders by project: all in, and those for state transitions."""
    prices = cost.load_prices()
    ours = cost.report(cost.load_usage(), prices, "clean", None)
    rows = {"this project": {"allIn": ours["perMillionOrders"], "transitions": 0.0}}
    for peer in PEERS:
        states = peer.units.get("states.standard", 0) * prices.unit("states.standard") * cost.MILLION
        rows[peer.name] = {"allIn": round(per_million(peer, prices), 2), "transitions": round(states, 2)}
    return rows


def shown(figures: dict[str, dict[str, float]]) -> Iterator[Table | str]:
    """Yield the table of `run`'s figures, and a sentence about each peer."""
    yield report.table(
        "Dollars for a million orders",
        ["", "all in", "of it state transitions"],
        [[name, f"{row['allIn']:.0f}", f"{row['transitions']:.0f}"] for name, row in figures.items()],
    )
    for peer in PEERS:
        yield f"\n{peer.name}: {peer.does}."


def command(*, as_json: Json = False) -> None:
    """Show what two public order samples would cost by the same count and prices.

    Their units are read from their templates and sources. Neither was run.
    """
    figures = run()
    report.deliver("cost-peers", figures, shown(figures), as_json=as_json)
