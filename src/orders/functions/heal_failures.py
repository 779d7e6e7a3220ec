"""Redrive the failures whose causes are transient, without a human. Runs every minute, on a schedule.

The rules are in inbox/healing.py, one run in redrive/healer.py.
"""

import os
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from orders.domain.clock import timestamp
from orders.domain.order import Status
from orders.inbox.record import FailureRecord
from orders.inbox.store import FailuresTable
from orders.redrive.healer import Healer, Standing, Standings
from orders.redrive.sending import Sender, redrive_one
from orders.runtime.aws import client
from orders.runtime.telemetry import logger, metrics, tracer
from orders.storage.dynamodb import from_item, get_items

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

BY = "healing"
# The time that one redrive and the end of the run need.
RESERVE_MS = 15_000
BATCH_GET_QUOTA = 100  # DynamoDB, BatchGetItem

_dynamodb = client("dynamodb")
_failures = FailuresTable(_dynamodb, client("s3"))
# Most runs redrive nothing, so the clients that a redrive needs are made when they are needed.
_client = cache(client)


class HealRequest(Struct, forbid_unknown_fields=True):
    """The event of the schedule: nothing."""


class _OrderFields(Struct, rename="camel"):
    order_id: str
    status: Status
    updated_at: str


@tracer.capture_lambda_handler(capture_response=False)
@logger.inject_lambda_context(clear_state=True)
@metrics.log_metrics
def handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, int]:
    """Heal once, and return the counts.

    They are how many failures were redriven, resolved, refused or failed to be sent, and how many NEW ones are
    healing, are held, or need a human.
    """
    msgspec.convert(event, HealRequest)
    sender = Sender(
        lambda service: _dynamodb if service == "dynamodb" else _client(service),
        orders_table=os.environ["ORDERS_TABLE"],
        fulfilment_queue_arn=os.environ["FULFILMENT_QUEUE_ARN"],
        state_machine_arn=os.environ["STATE_MACHINE_ARN"],
    )
    healer = Healer(
        inbox=_failures,
        redrive=lambda failure_id: _redrive(sender, failure_id),
        standings=_standings,
        fulfilment_queue_arn=sender.fulfilment_queue_arn,
        in_time=lambda: context.get_remaining_time_in_millis() > RESERVE_MS,
    )
    healed = healer.run(timestamp())
    for cause, error in healed.problems.items():
        logger.error("cause not healed", extra={"cause": cause}, exc_info=error)
    if healed.unreadable:
        logger.error("failures left out: they can't be read", extra={"failure_ids": healed.unreadable})
    counts = {
        **healed.results,
        "healing": healed.healing,
        "held": healed.held,
        "forHumans": healed.for_humans,
    }
    metrics.add_metric("FailuresForHumans", "Count", healed.for_humans)
    for name, count in (
        ("NewFailuresForHumans", healed.new_for_humans),
        ("FailuresRedriven", healed.results["redriven"]),
    ):
        if count:  # each metric is paid for in every hour that it has a value
            metrics.add_metric(name, "Count", count)
    logger.info("healed", extra=counts)
    return counts


def _redrive(sender: Sender, failure_id: str) -> str:
    outcome = redrive_one(sender, _failures, failure_id, BY)
    logger.info(
        "failure redriven",
        extra={
            "failure_id": failure_id,
            "order_id": outcome.order_id,
            "result": outcome.result,
            "detail": outcome.detail,
        },
    )
    return outcome.result


def _standings(records: Iterable[FailureRecord]) -> Standings:
    """The standings of the records' orders; an order that can't be read is left out."""
    keys = {(each.customer_id, each.order_id) for each in records if each.customer_id and each.order_id}
    wanted = [{"customerId": {"S": customer}, "orderId": {"S": order}} for customer, order in sorted(keys)]
    found: Standings = {}
    for start in range(0, len(wanted), BATCH_GET_QUOTA):
        for item in get_items(_dynamodb, os.environ["ORDERS_TABLE"], wanted[start : start + BATCH_GET_QUOTA]):
            try:
                order = msgspec.convert(from_item(item), _OrderFields)
            except ValueError:
                continue
            found[order.order_id] = Standing(order.status, order.updated_at)
    return found
