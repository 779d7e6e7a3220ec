"""The orders table: the only truth about an order.

Every write is conditional, so a write that runs twice, late or out of order does no harm. The workflow itself
writes RESERVED and FAILED (statemachine/order.asl.yaml), each in one transaction with the stock.
"""

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec import Struct

from orders.domain.clock import timestamp
from orders.domain.errors import Busy, IllegalTransition, OrderCancelled, OrderFailing
from orders.domain.order import CAN_FAIL, TERMINAL, TRANSITIONS, Order, PricedLine, Reason, Status, require_transition
from orders.domain.stock import held_by, stock_key
from orders.storage.dynamodb import from_item, get_items, to_attribute, to_item

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient

# Transient reasons why DynamoDB cancels a transaction (API reference, "TransactWriteItems").
TRANSIENT = frozenset({"TransactionConflict", "ProvisionedThroughputExceeded", "ThrottlingError"})
OPEN = frozenset(TRANSITIONS) - TERMINAL
# The partitions of the index of open orders; at most 65,536, see docs/scaling.md.
OPEN_SHARDS = 16
# A payment that fails very often must not let the item reach DynamoDB's 400 KB.
MAX_TIMELINE = 100


class Page(NamedTuple):
    """A page of a customer's orders. `unreadable` are ids of damaged items.

    `following` is the place after which the next page begins, (placed at, order id); None at the end.
    """

    orders: list[Order]
    unreadable: list[str]
    following: tuple[str, str] | None


class OpenOrder(NamedTuple):
    """An open order in a list."""

    customer_id: str
    order_id: str
    placed_at: str


class IdleOrder(Struct, frozen=True, rename="camel"):
    """An open order that has stood still, as its entry in the index describes it.

    `restarts` is how often the sweep has started its workflow, `swept_at` the time of the last start.
    """

    customer_id: str
    order_id: str
    placed_at: str
    updated_at: str
    status: Status
    correlation_id: str
    swept_at: str | None = None
    restarts: int = 0

    @property
    def restarts_in_vain(self) -> int:
        """How often the sweep has started the order's workflow since the order last changed."""
        return self.restarts if self.swept_at and self.swept_at > self.updated_at else 0


class IdlePage(NamedTuple):
    """A page of idle orders; often empty. `unreadable` are the ids of orders whose entries are damaged."""

    orders: list[IdleOrder]
    unreadable: list[str]


def open_shard_of(order_id: str) -> str:
    """The partition of the index of open orders that lists this order: one of `open_shards`."""
    return _shard(int(order_id[-4:], 16) % OPEN_SHARDS)


def open_shards() -> list[str]:
    """Every partition of the index of open orders."""
    return [_shard(number) for number in range(OPEN_SHARDS)]


def _shard(number: int) -> str:
    return f"{number:02d}"


def decode_order(item: dict[str, Any]) -> Order:
    """The order in an item of the table or of its stream. Raises `ValueError` (msgspec) if it isn't one."""
    return msgspec.convert(from_item(item), Order)


class OrdersTable:
    """The orders table, by customer and order id."""

    def __init__(self, client: "DynamoDBClient", name: str | None = None, catalogue: str | None = None) -> None:
        self._client = client
        self._name = name or os.environ["ORDERS_TABLE"]
        self._catalogue = catalogue or os.environ.get("CATALOGUE_TABLE", "")

    @staticmethod
    def _key(customer_id: str, order_id: str) -> dict[str, Any]:
        return {"customerId": {"S": customer_id}, "orderId": {"S": order_id}}

    def put_new(self, order: Order) -> Order | None:
        """Store a new order as an open one. Returns None, or the stored order that has its id already.

        This one conditional write is the acceptance, the idempotency record and, by the table's stream, the outbox.
        """
        order.open_shard = open_shard_of(order.order_id)
        try:
            self._client.put_item(
                TableName=self._name,
                Item=to_item(msgspec.to_builtins(order)),
                ConditionExpression="attribute_not_exists(orderId)",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except self._client.exceptions.ConditionalCheckFailedException as error:
            return decode_order(error.response["Item"])  # type: ignore[typeddict-item]
        return None

    def get(self, customer_id: str, order_id: str, *, consistent: bool = False) -> Order | None:
        """A customer's order, or None. A read before a dependent write must be `consistent`."""
        answer = self._client.get_item(
            TableName=self._name, Key=self._key(customer_id, order_id), ConsistentRead=consistent
        )
        return decode_order(answer["Item"]) if "Item" in answer else None

    def list_newest_first(self, customer_id: str, limit: int, after: tuple[str, str] | None) -> Page:
        """A page of a customer's orders, newest first, `after` a place in the list. Damaged items don't spoil it."""
        request: dict[str, Any] = {
            "TableName": self._name,
            "IndexName": "newest-first",
            "KeyConditionExpression": "customerId = :customer",
            "ExpressionAttributeValues": {":customer": {"S": customer_id}},
            "ScanIndexForward": False,
            "Limit": limit,
        }
        if after is not None:
            placed_at, order_id = after
            request["ExclusiveStartKey"] = {**self._key(customer_id, order_id), "placedAt": {"S": placed_at}}
        page = self._client.query(**request)
        order_ids = [item["orderId"]["S"] for item in page["Items"]]
        found: dict[str, Order] = {}
        unreadable: list[str] = []
        for item in get_items(self._client, self._name, [self._key(customer_id, each) for each in order_ids]):
            try:
                found[item["orderId"]["S"]] = decode_order(item)
            except ValueError:
                unreadable.append(item["orderId"]["S"])
        last = page.get("LastEvaluatedKey")
        orders = [found[order_id] for order_id in order_ids if order_id in found]
        return Page(orders, unreadable, (last["placedAt"]["S"], last["orderId"]["S"]) if last else None)

    def customer_of(self, order_id: str) -> str | None:
        """The customer of an order; None if there is no such order. The index lags behind the table."""
        found = self._client.query(
            TableName=self._name,
            IndexName="by-order-id",
            KeyConditionExpression="orderId = :id",
            ExpressionAttributeValues={":id": {"S": order_id}},
        )["Items"]
        return found[0]["customerId"]["S"] if found else None

    def count_of(self, customer_id: str) -> int:
        """How many orders a customer has."""
        pages = self._client.get_paginator("query").paginate(
            TableName=self._name,
            IndexName="newest-first",
            KeyConditionExpression="customerId = :customer",
            ExpressionAttributeValues={":customer": {"S": customer_id}},
            Select="COUNT",
        )
        return sum(page["Count"] for page in pages)

    def open_longest(self, placed_before: str = "9") -> Iterator[OpenOrder]:
        """The open orders that were placed before this time, all by default, from the sparse index."""
        for shard in open_shards():
            for items in self._open_in(shard, placed_before):
                for item in items:
                    yield OpenOrder(item["customerId"]["S"], item["orderId"]["S"], item["placedAt"]["S"])

    def idle(self, *, since: str, paid_since: str, first_shard: int = 0) -> Iterator[IdlePage]:
        """The open orders that have neither changed nor been restarted since a time, page by page.

        For PAID orders the time is `paid_since`. `first_shard` is the number of the shard to begin with. An order
        with a status that only newer code knows is left out.
        """
        unpaid = {f":open{number}": {"S": status} for number, status in enumerate(sorted(OPEN - {Status.PAID}))}
        shards = open_shards()
        for shard in shards[first_shard:] + shards[:first_shard]:
            pages = self._open_in(
                shard,
                max(since, paid_since),
                # DynamoDB leaves the others out, so that they cost this process nothing.
                FilterExpression=(
                    f"(#status IN ({', '.join(unpaid)}) AND updatedAt < :since"
                    " AND (attribute_not_exists(sweptAt) OR sweptAt < :since))"
                    " OR (#status = :paid AND updatedAt < :paidSince"
                    " AND (attribute_not_exists(sweptAt) OR sweptAt < :paidSince))"
                    " OR attribute_not_exists(#status) OR attribute_not_exists(updatedAt)"
                    " OR attribute_not_exists(correlationId)"
                ),
                ExpressionAttributeNames={"#status": "status"},
                values={
                    **unpaid,
                    ":paid": {"S": Status.PAID},
                    ":since": {"S": since},
                    ":paidSince": {"S": paid_since},
                },
            )
            for items in pages:
                page = IdlePage([], [])
                for item in items:
                    try:
                        page.orders.append(msgspec.convert(from_item(item), IdleOrder))
                    except ValueError:
                        page.unreadable.append(item["orderId"]["S"])
                yield page

    def _open_in(
        self, shard: str, placed_before: str, *, values: dict[str, Any] | None = None, **more: Any
    ) -> Iterator[list[dict[str, Any]]]:
        """Pages of a shard's entries of the index of open orders, oldest order first."""
        pages = self._client.get_paginator("query").paginate(
            TableName=self._name,
            IndexName="open-by-shard",
            KeyConditionExpression="openShard = :shard AND placedAt < :before",
            ExpressionAttributeValues={":shard": {"S": shard}, ":before": {"S": placed_before}, **(values or {})},
            **more,
        )
        for page in pages:
            yield page["Items"]

    def claim_restart(self, order: IdleOrder, restarts: int) -> bool:
        """Write in an idle order that its workflow is started now, for the `restarts`th time.

        False if the order has changed, or somebody else has claimed it, since its entry in the index was written.
        """
        values: dict[str, Any] = {
            ":now": {"S": timestamp()},
            ":restarts": {"N": str(restarts)},
            ":status": {"S": order.status},
            ":updated": {"S": order.updated_at},
        }
        unclaimed = "attribute_not_exists(sweptAt)"
        if order.swept_at is not None:
            unclaimed, values[":swept"] = "sweptAt = :swept", {"S": order.swept_at}
        try:
            self._client.update_item(
                TableName=self._name,
                Key=self._key(order.customer_id, order.order_id),
                UpdateExpression="SET sweptAt = :now, restarts = :restarts",
                ConditionExpression=f"#status = :status AND updatedAt = :updated AND {unclaimed}",
                ExpressionAttributeNames={"#status": "status"},
                ExpressionAttributeValues=values,
            )
        except self._client.exceptions.ConditionalCheckFailedException:
            return False
        return True

    def ended(self, keys: Iterable[tuple[str, str]]) -> dict[str, Status]:
        """The statuses of those orders, by id, that have ended, among at most 100 (customer id, order id).

        An end is final, so an eventually consistent read suffices: it misses at worst an end of this moment.
        """
        items = get_items(self._client, self._name, [self._key(*key) for key in dict.fromkeys(keys)])
        found = {item["orderId"]["S"]: Status(item.get("status", {}).get("S", "")) for item in items}
        return {order_id: status for order_id, status in found.items() if status in TERMINAL}

    def note(self, customer_id: str, order_id: str, what: str, detail: str, *, once: bool = False) -> None:
        """Add an entry to an order's timeline without a change of status; with `once`, unless the entry is there."""
        if once:
            order = self.get(customer_id, order_id, consistent=True)
            if order is None or any(entry.what == what for entry in order.timeline):
                return
        try:
            self._client.update_item(
                TableName=self._name,
                Key=self._key(customer_id, order_id),
                UpdateExpression="SET timeline = list_append(timeline, :entry)",
                ConditionExpression="attribute_exists(orderId) AND size(timeline) < :most",
                ExpressionAttributeValues={
                    ":entry": to_attribute([{"at": timestamp(), "what": what, "detail": detail}]),
                    ":most": {"N": str(MAX_TIMELINE)},
                },
            )
        except self._client.exceptions.ConditionalCheckFailedException:
            return

    def mark_paid(self, customer_id: str, order_id: str, payment_id: str) -> None:
        """RESERVED becomes PAID; does nothing if the order is PAID or FULFILLED with this payment already.

        Raises `OrderCancelled` if the order has ended meanwhile, so that the payment must be refunded, and
        `OrderFailing` if another execution undoes the order and so refunds the payment.
        """
        now = timestamp()
        try:
            self._client.update_item(
                TableName=self._name,
                Key=self._key(customer_id, order_id),
                UpdateExpression=(
                    "SET #status = :paid, version = version + :one, paymentId = :payment, updatedAt = :now, "
                    "timeline = list_append(timeline, :entry)"
                ),
                ConditionExpression="#status = :reserved",
                ExpressionAttributeNames={"#status": "status"},
                ExpressionAttributeValues={
                    ":paid": {"S": Status.PAID},
                    ":reserved": {"S": Status.RESERVED},
                    ":one": {"N": "1"},
                    ":payment": {"S": payment_id},
                    ":now": {"S": now},
                    ":entry": to_attribute([{"at": now, "what": Status.PAID}]),
                },
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except self._client.exceptions.ConditionalCheckFailedException as error:
            item = error.response.get("Item")
            order = decode_order(item) if item else None  # type: ignore[arg-type]
            if order is not None and order.status is Status.FAILING:
                raise OrderFailing("the order was given up") from None
            if order is None or order.payment_id != payment_id or order.status in {Status.FAILED, Status.CANCELLED}:
                raise OrderCancelled(f"the order is {order.status if order else 'gone'}") from None

    def start_failing(
        self, customer_id: str, order_id: str, reason: Reason, *, only: tuple[Status, ...] = CAN_FAIL
    ) -> Order:
        """An order that has one of the statuses `only` becomes FAILING; the event of that starts its undoing.

        Returns the order as it then is. An order with another status, also one that is FAILING already, stays as it
        is. Raises `LookupError` if there is no such order, and `ValueError` (msgspec) if its item can't be read.
        """
        now = timestamp()
        names = [f":open{number}" for number in range(len(only))]
        try:
            answer = self._client.update_item(
                TableName=self._name,
                Key=self._key(customer_id, order_id),
                UpdateExpression=(
                    "SET #status = :failing, version = version + :one, reason = :reason, updatedAt = :now, "
                    "timeline = list_append(timeline, :entry)"
                ),
                ConditionExpression=f"#status IN ({', '.join(names)})",
                ExpressionAttributeNames={"#status": "status"},
                ExpressionAttributeValues={
                    ":failing": {"S": Status.FAILING},
                    ":one": {"N": "1"},
                    ":reason": to_attribute(msgspec.to_builtins(reason)),
                    ":now": {"S": now},
                    ":entry": to_attribute([{"at": now, "what": Status.FAILING, "detail": reason.message}]),
                    **{name: {"S": status} for name, status in zip(names, only, strict=True)},
                },
                ReturnValues="ALL_NEW",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except self._client.exceptions.ConditionalCheckFailedException as error:
            item = error.response.get("Item")
            if not item:
                raise LookupError(f"there is no order {order_id} of this customer") from None
            return decode_order(item)  # type: ignore[arg-type]
        return decode_order(answer["Attributes"])

    def cancel(self, order: Order) -> None:
        """The order becomes CANCELLED and its reserved stock becomes available, in one transaction.

        Raises `IllegalTransition` if `order` can't be cancelled or has changed its status since it was read, and
        `Busy` if somebody else is writing to the order or to one of its products.
        """
        require_transition(order.status, Status.CANCELLED)
        ends = self._ends(
            self._key(order.customer_id, order.order_id),
            Status.CANCELLED,
            condition="#status = :current AND version = :version",
            values={":current": {"S": order.status}, ":version": {"N": str(order.version)}},
        )
        back = self._stock_writes(
            order.lines, "SET available = available + :quantity, reserved = reserved - :quantity"
        )
        if self._refused_by([ends, *back]):
            raise IllegalTransition("the order has moved on")

    def mark_fulfilled(self, customer_id: str, order_id: str, shipment_id: str, lines: list[PricedLine]) -> None:
        """PAID becomes FULFILLED and its reserved stock is sold, in one transaction; a second call changes nothing.

        So does FAILING: the parcel has left, so the order can't be undone. Raises `IllegalTransition` if the order
        has another status, and `Busy` if somebody else is writing to the order or to one of its products.
        """
        ends = self._ends(
            self._key(customer_id, order_id),
            Status.FULFILLED,
            condition="#status IN (:paid, :failing)",
            values={
                ":paid": {"S": Status.PAID},
                ":failing": {"S": Status.FAILING},
                ":shipment": {"S": shipment_id},
            },
            also=("shipmentId = :shipment", "reason"),
        )
        sold = self._stock_writes(lines, "SET reserved = reserved - :quantity ADD sold :quantity")
        refusal = self._refused_by([ends, *sold])
        if refusal is None:
            return
        order = decode_order(refusal["Item"]) if refusal.get("Item") else None
        if order is None or order.status is not Status.FULFILLED:
            raise IllegalTransition(f"the order is {order.status if order else 'gone'} and not PAID")

    def _ends(
        self,
        key: dict[str, Any],
        status: Status,
        *,
        condition: str,
        values: dict[str, Any],
        also: tuple[str, str] | None = None,
    ) -> dict[str, Any]:
        """The write that ends an order, for a transaction; `also` is one more attribute to set and one to remove."""
        now = timestamp()
        to_set, to_remove = (f", {also[0]}", f", {also[1]}") if also else ("", "")
        return {
            "Update": {
                "TableName": self._name,
                "Key": key,
                "UpdateExpression": (
                    "SET #status = :to, version = version + :one, updatedAt = :now, "
                    f"timeline = list_append(timeline, :entry){to_set} REMOVE openShard{to_remove}"
                ),
                "ConditionExpression": condition,
                "ExpressionAttributeNames": {"#status": "status"},
                "ExpressionAttributeValues": {
                    ":to": {"S": status},
                    ":one": {"N": "1"},
                    ":now": {"S": now},
                    ":entry": to_attribute([{"at": now, "what": status}]),
                    **values,
                },
                "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
            }
        }

    def _stock_writes(self, lines: list[PricedLine], update: str) -> list[Any]:
        """A write to the catalogue for each shard that the lines hold, if that much is reserved there."""
        return [
            {
                "Update": {
                    "TableName": self._catalogue,
                    "Key": {"sku": {"S": stock_key(line.sku, taken.shard)}},
                    "UpdateExpression": update,
                    "ConditionExpression": "reserved >= :quantity",
                    "ExpressionAttributeValues": {":quantity": {"N": str(taken.quantity)}},
                }
            }
            for line in lines
            for taken in held_by(line)
        ]

    def _refused_by(self, writes: list[Any]) -> dict[str, Any] | None:
        """Write all or nothing. Returns None, or the cancellation reason of the first write, which is the order's.

        Raises `Busy` for a transient reason.
        """
        try:
            self._client.transact_write_items(TransactItems=writes)
        except self._client.exceptions.TransactionCanceledException as error:
            reasons: list[Any] = error.response.get("CancellationReasons", [])
            codes = [reason.get("Code") for reason in reasons]
            if codes and codes[0] == "ConditionalCheckFailed":
                return reasons[0]  # type: ignore[no-any-return]
            if not TRANSIENT.isdisjoint(codes):
                raise Busy("the order or one of its products is being changed") from None
            raise
        return None
