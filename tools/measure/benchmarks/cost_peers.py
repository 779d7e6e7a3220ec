"""What two well-known public order samples would cost by the same count: `python -m measure.benchmarks.cost_peers`.

Their units are read from their templates and sources, for one order of two products that goes well, with
batches of one, and priced from the same table as ours. Neither was run: where a unit can't be read there
(duration, log bytes), ours stands in, and the entry says so. Both do less or other things than this project.
"""

# ruff: noqa: T201 - what a benchmark finds goes to stdout
from __future__ import annotations

from dataclasses import dataclass

from measure import cost, report

KB = 1024
LOG_BYTES_A_CALL = 1 * KB  # ours is about as much
CALL_SECONDS = 0.02 * 2  # ours, with the same factor


@dataclass(frozen=True)
class Peer:
    """Units an order of another project, by the price they are billed at."""

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


def per_million(peer: Peer, prices: cost.Prices) -> float:
    """Return dollars for a million orders."""
    return sum(units * prices.unit(name) for name, units in peer.units.items()) * cost.MILLION


def main() -> None:
    """Print and save the comparison."""
    prices = cost.load_prices()
    ours = cost.report(cost.load_usage(), prices, "clean", None)
    rows: list[list[object]] = [
        ["this project", f"{ours['perMillionOrders']:.0f}", f"{ours['byService']['Step Functions']:.0f}"]
    ]
    figures = {"ours": ours["perMillionOrders"]}
    for peer in (LONG_LIVED_TRANSACTIONS, ECOMMERCE_PLATFORM):
        figures[peer.name] = round(per_million(peer, prices), 2)
        states = peer.units.get("states.standard", 0) * prices.unit("states.standard") * cost.MILLION
        rows.append([peer.name, f"{figures[peer.name]:.0f}", f"{states:.0f}"])
    report.table("Dollars for a million orders", ["", "all in", "of it state transitions"], rows)
    for peer in (LONG_LIVED_TRANSACTIONS, ECOMMERCE_PLATFORM):
        print(f"\n{peer.name}: {peer.does}.")
    print(f"\n{report.save('cost-peers', figures)}")


if __name__ == "__main__":
    main()
