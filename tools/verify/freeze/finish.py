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

from verify import services
from verify.freeze import release
from verify.freeze.reading import Thing
from verify.simulation import HANDLERS, Context, Delivery, Simulation, check_end, is_queue

from orders.domain.errors import OrderError  # isort: skip - the simulation has set the environment that this finds
from orders.domain.order import TERMINAL, Order
from orders.inbox.parse import component_of
from orders.inbox.record import SETTLED, Action, FailureRecord
from orders.inbox.store import decode_record
from orders.storage.orders import decode_order
from orders.workflow import order_waits_for, resume_input

Json = dict[str, Any]

TABLES = {
    "orders": "OrdersTable",
    "catalogue": "CatalogueTable",
    "payments": "PaymentsTable",
    "shipments": "ShipmentsTable",
    "failures": "FailuresTable",
    "idempotency": "IdempotencyTable",
}
# The state machine has a name of its own, which is not made of its logical id.
STATE_MACHINE = "stateMachine"


class Unfinished(Exception):
    """Something that the present code does not finish; the message says what and why."""


class Finisher:
    """The simulation with a release's tables, as they were at the freeze each time that something is finished."""

    def __init__(self, folder: Path) -> None:
        time.sleep = lambda _: None  # a slow payment takes no time here
        self.things = release.load(folder)
        self.world = Simulation()
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
            ("messages_fulfilment", self.deliver_to("FulfilmentQueue")),
            ("messages_notifications", self.deliver_to("NotificationsQueue")),
            ("idempotency", self.recognise_mail),
            ("workflow_inputs", self.run_workflow),
            ("workflow_states", self.repeat_task),
        ):
            for number, thing in enumerate(self.things[group]):
                yield f"{group} {number} ({', '.join(thing.kinds)})", functools.partial(finish, thing)

    # ---- Orders

    def finish_orders(self) -> None:
        """A resumed workflow brings each open order to its end; money, parcels and stock are as that end demands."""
        for order in self._orders():
            if order.status not in TERMINAL:
                self.world.run(json.loads(resume_input(order)))
        for order in self._orders():
            if order.status not in TERMINAL:
                raise Unfinished(f"order {order.order_id} is still {order.status}")
        wrong = [each for order in self.world.orders() for each in check_end(order)]
        held = [item for item in services.items("CatalogueTable") if item["reserved"]["N"] != "0"]
        if wrong or held:
            raise Unfinished(f"{wrong}; still reserved: {[item['sku']['S'] for item in held]}")

    def run_workflow(self, thing: Thing) -> None:
        """The input of an execution starts the present workflow, which ends well and ends the order."""
        given = json.loads(thing.content["input"])
        execution = self.world.run(given)
        order = self._order(given["data"]["customerId"], given["data"]["orderId"])
        if execution.status != "SUCCEEDED":
            raise Unfinished(f"the execution is {execution.status}: {execution.error}")
        if given.get("path") == "resume" and order and order.status not in TERMINAL:
            raise Unfinished(f"the order is {order.status}")

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
        if lacking:
            raise Unfinished(f"the answer lacks {lacking}")

    # ---- Failures

    def redrive(self, thing: Thing) -> None:
        """A failure that may be redriven is sent to where it was going, and the order that waits for it ends.

        A failure without an order has nothing to finish.
        """
        record = decode_record(thing.content)
        if record.status in SETTLED or record.redrive.action is Action.NONE or record.order_id is None:
            return
        self._send(record, self._payload_of(record))
        order = self._order(str(record.customer_id), record.order_id)
        waits = order_waits_for(record, record.resource_arn if "FulfilmentQueue" in record.resource_arn else "")
        if waits and (order is None or order.status not in TERMINAL):
            raise Unfinished(f"order {record.order_id} is {order.status if order else 'gone'}")

    def _send(self, record: FailureRecord, payload: str) -> None:
        match record.redrive.action:
            case Action.RESUME:
                order = self._order(str(record.customer_id), str(record.order_id))
                if order is None:
                    raise Unfinished(f"there is no order {record.order_id}")
                self.world.run(json.loads(resume_input(order)))
            case Action.PUBLISH:
                self._publish_again(json.loads(payload))
            case Action.DELIVER if STATE_MACHINE in record.redrive.to:
                self.world.run(json.loads(payload)["detail"])
            case _:
                self._deliver(component_of(record.redrive.to), payload)

    def _publish_again(self, record: Json) -> None:
        change = record["dynamodb"]
        now = services.table("GetItem", {"TableName": "OrdersTable", "Key": change["Keys"]})["Item"]
        if now["version"] == change["NewImage"]["version"]:
            change["NewImage"] = now  # the item may have been mended
        self._publish({"Records": [record], "redrive": True})
        for delivery in list(self.world.pending):
            self.world.deliver(delivery)

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
        if answer["batchItemFailures"] or answer.get("unreadable") or self.world.inbox:
            raise Unfinished(f"publish_events says {answer}, and the inbox has {self.world.inbox}")

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
            if not delivery.deleted:
                self.world.deliver(delivery)

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
            for thing in self.things[group]:
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
