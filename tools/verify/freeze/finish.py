"""Brings what a release has in flight to its end with the present code, in the proof's simulation.

The simulation takes the whole process over, so this runs in one of its own: `python -m verify.freeze.finish FOLDER`.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from verify import services, template
from verify.freeze import release
from verify.freeze.reading import Thing
from verify.simulation import HANDLERS, ORDERS, Context, Delivery, Simulation, check_end, is_queue
from verify.workflow import MACHINE_ARN

from orders.domain.errors import OrderError  # isort: skip - the simulation has set the environment that this finds
import boto3

from orders.domain.order import TERMINAL, Order
from orders.inbox.parse import component_of
from orders.inbox.record import SETTLED, Action, FailureRecord
from orders.inbox.store import decode_record
from orders.redrive.sending import Sender, starts_workflow
from orders.storage.orders import decode_order
from orders.workflow import RESTARTS_IN_VAIN, order_waits_for, workflow_input

Json = dict[str, Any]

TABLES = {
    "orders": "OrdersTable",
    "catalogue": "CatalogueTable",
    "payments": "PaymentsTable",
    "shipments": "ShipmentsTable",
    "failures": "FailuresTable",
    "healing": "FailuresTable",
    "idempotency": "IdempotencyTable",
}
# Later than any time: every open order counts as idle.
NEVER = "9"
# What ValidateOrder told release 1.0.0's definition and tells no longer: an old execution reserves nothing any more.
NO_LONGER_ANSWERED = {"path", "reserveFrom"}


class Unfinished(Exception):
    """Something that the present code does not finish; the message says what and why."""


class Finisher:
    """The simulation with a release's tables, as they were at the freeze each time that something is finished."""

    def __init__(self, folder: Path) -> None:
        time.sleep = lambda _: None  # a slow payment takes no time here
        self.things = release.load(folder)
        self.world = Simulation()
        client: Any = boto3.session.Session(region_name="us-east-1").client
        self._sender = Sender(client, "OrdersTable", "FulfilmentQueue", MACHINE_ARN)
        services.receivers["stepfunctions"] = self._start_execution
        self._load_tables()
        self._frozen = self.world.save()

    def problems(self) -> list[str]:
        """What the present code does not finish, one sentence each."""
        found = []
        for what, finish in self._work():
            self.world.load(self._frozen)
            try:
                finish()
            except Exception as error:
                found.append(f"{what}: {type(error).__name__}: {error}")
        return found

    def _work(self) -> Iterator[tuple[str, Callable[[], None]]]:
        yield "all open orders", self.finish_orders
        for group, finish in (
            ("failures", self.redrive),
            ("stream", self.publish),
            ("events", self.deliver_event),
            ("messages_fulfilment", self.ship),
            ("messages_notifications", self.deliver_to("NotificationsQueue")),
            ("idempotency", self.recognise_mail),
            ("workflow_inputs", self.run_workflow),
            ("workflow_states", self.repeat_task),
        ):
            for number, thing in enumerate(self.things.get(group, [])):
                yield f"{group} {number} ({', '.join(thing.kinds)})", functools.partial(finish, thing)

    # ---- Orders

    def finish_orders(self) -> None:
        """The sweep finds each open order, and restarts end it, with money, parcels and stock right."""
        still_open = {order.order_id: order for order in self._orders() if order.status not in TERMINAL}
        pages = list(ORDERS.idle(since=NEVER, paid_since=NEVER, first_shard=0))
        idle = {each.order_id: each for page in pages for each in page.orders}
        if idle.keys() != still_open.keys():
            raise Unfinished(f"the sweep does not find {still_open.keys() ^ idle.keys()}")
        for each in idle.values():
            given = json.loads(workflow_input(each.customer_id, each.order_id, each.correlation_id))
            self._until_ended(each.customer_id, each.order_id, functools.partial(self.world.run, given))
        wrong = [each for order in self.world.orders() for each in check_end(order)]
        held = [item for item in services.items("CatalogueTable") if item["reserved"]["N"] != "0"]
        if wrong or held:
            raise Unfinished(f"{wrong}; still reserved: {[item['sku']['S'] for item in held]}")
        left = {each.content["orderId"]["S"] for each in self.things["shipments"] if "SHIPPED" in each.kinds}
        for order in self._orders():
            before = still_open.get(order.order_id)
            if before and before.given_up and order.order_id not in left and order.reason != before.given_up:
                raise Unfinished(f"order {order.order_id} was given up and is {order.status}")

    def _until_ended(self, customer_id: str, order_id: str, begin: Callable[[], Any]) -> None:
        """Do something, and what follows, until the order has ended; a provider may be down for some executions."""
        status = ""
        for _ in range(RESTARTS_IN_VAIN):
            begin()
            self.world.rest()
            order = self._order(customer_id, order_id)
            if order is None or order.status in TERMINAL:
                return
            status = order.status
        raise Unfinished(f"order {order_id} is still {status}")

    def run_workflow(self, thing: Thing) -> None:
        """The input of an execution starts the present workflow, which ends the order, or reports it as stuck."""
        given = json.loads(thing.content["input"])

        def run() -> None:
            execution = self.world.run(given)
            if execution.status != "SUCCEEDED" and not execution.reported:
                raise Unfinished(f"the execution is {execution.status}: {execution.error}")

        self._until_ended(given["data"]["customerId"], given["data"]["orderId"], run)

    def repeat_task(self, thing: Thing) -> None:
        """A function that the frozen definition calls takes its input, and its answer has all that was in it."""
        parameters = json.loads(thing.content["parameters"])
        if "FunctionName" not in parameters:
            return
        try:
            answer = HANDLERS[component_of(parameters["FunctionName"])](parameters["Payload"], Context())
        except OrderError:
            return  # by now the order is somewhere else
        lacking = json.loads(thing.content.get("output", "{}")).get("Payload", {}).keys() - answer.keys()
        if lacking - NO_LONGER_ANSWERED:
            raise Unfinished(f"the answer lacks {lacking}")

    # ---- Failures

    def redrive(self, thing: Thing) -> None:
        """A failure that may be redriven is sent to where it was going, and the order that waits for it ends.

        A failure without an order has nothing to finish.
        """
        record = decode_record(thing.content)
        if record.status in SETTLED or record.redrive.action is Action.NONE or record.order_id is None:
            return
        waits = order_waits_for(record, record.resource_arn if "FulfilmentQueue" in record.resource_arn else "")
        if not waits:
            self._send(record)
        else:
            self._until_ended(str(record.customer_id), record.order_id, lambda: self._send(record))

    def _send(self, record: FailureRecord) -> None:
        payload = self._payload_of(record)
        if starts_workflow(record):
            self._sender.send(record, payload)
        elif record.redrive.action is Action.PUBLISH:
            self._publish_again(json.loads(payload))
        else:
            self._deliver(component_of(record.redrive.to), payload)

    def _start_execution(self, operation: str, request: Json) -> Json:
        if request["stateMachineArn"] != MACHINE_ARN:
            raise Unfinished(f"{operation} of {request['stateMachineArn']}, which is gone")
        self.world.pending.append(Delivery(template.WORKFLOW, request["input"]))
        return {"executionArn": MACHINE_ARN, "startDate": 0}

    def _publish_again(self, record: Json) -> None:
        change = record["dynamodb"]
        now = services.table("GetItem", {"TableName": "OrdersTable", "Key": change["Keys"]})["Item"]
        if now["version"] == change["NewImage"]["version"]:
            change["NewImage"] = now  # the item may have been mended
        self._publish({"Records": [record], "redrive": True})

    def _payload_of(self, record: FailureRecord) -> str:
        if record.payload is not None:
            return record.payload
        return next(
            str(thing.content["Body"])
            for thing in self.things["payload_objects"]
            if thing.content["Key"] == record.payload_key
        )

    # ---- Stream, bus, queues

    def publish(self, thing: Thing) -> None:
        """The outbox's relay reads a stream record and publishes what it says."""
        self._publish({"Records": [thing.content]})

    def _publish(self, given: Json) -> None:
        answer = HANDLERS["PublishEventsFunction"](given, Context())
        parked = [delivery for delivery in self.world.pending if delivery.to == "FailuresQueue"]
        if answer["batchItemFailures"] or answer.get("unreadable") or parked:
            raise Unfinished(f"publish_events says {answer}, and parks {parked}")

    def deliver_event(self, thing: Thing) -> None:
        """Every target of an event's rules takes the event."""
        services.receivers["events"](
            "PutEvents",
            {
                "Entries": [
                    {
                        "Source": thing.content["source"],
                        "DetailType": thing.content["detail-type"],
                        "Detail": json.dumps(thing.content["detail"]),
                    }
                ]
            },
        )
        for delivery in list(self.world.pending):
            self.world.deliver(delivery)
            if not delivery.deleted:
                raise Unfinished(f"{delivery.to} does not take the event")

    def ship(self, thing: Thing) -> None:
        """The warehouse's consumer takes a message, also with a task token, and the order ends."""
        message = json.loads(thing.content["Body"])
        body = thing.content["Body"]
        self._until_ended(message["customerId"], message["orderId"], lambda: self._deliver("FulfilmentQueue", body))

    def deliver_to(self, queue: str) -> Callable[[Thing], None]:
        """Hands a message to the queue's consumer, which takes the message."""
        return lambda thing: self._deliver(queue, thing.content["Body"])

    @staticmethod
    def recognise_mail(thing: Thing) -> None:
        """A record of a mail that was sent is found again: its key holds the name of the function that sends."""
        send_mail = importlib.import_module("orders.functions.notify_customer").send_mail
        _, _, name = thing.content["id"]["S"].partition("#")[0].partition(".")
        if name != f"{send_mail.__module__}.{send_mail.__qualname__}":
            raise Unfinished(f"mails are remembered under {name}, where nobody looks any more: each is sent again")

    def _deliver(self, to: str, payload: str) -> None:
        delivery = Delivery(to, payload)
        self.world.deliver(delivery)
        if not delivery.deleted:
            raise Unfinished(f"{to} does not take the {'message' if is_queue(to) else 'event'}")

    # ---- Tables

    def _load_tables(self) -> None:
        services.reset_tables()
        for group, table in TABLES.items():
            for thing in self.things.get(group, []):
                services.table("PutItem", {"TableName": table, "Item": thing.content})
        self.world.stream_position = len(services.stream("OrdersTable"))

    @staticmethod
    def _orders() -> list[Order]:
        return [decode_order(item) for item in services.items("OrdersTable")]

    def _order(self, customer_id: str, order_id: str) -> Order | None:
        found = [each for each in self._orders() if (each.customer_id, each.order_id) == (customer_id, order_id)]
        return found[0] if found else None


def main(folder: Path) -> int:
    """Finish a release and print what the present code does not finish; returns the exit code."""
    problems = Finisher(folder).problems()
    sys.stdout.write("".join(f"{problem}\n" for problem in problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
