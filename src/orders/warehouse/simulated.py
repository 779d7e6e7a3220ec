"""A simulated warehouse that behaves by postal code.

The warehouse refuses `TEST-REFUSED` for good, is down n times for `TEST-DOWN-<n>`, and ships to every other address.
Its ledger is a DynamoDB table with one entry for each order, so that a parcel leaves once, and shipping and
cancelling exclude each other.
"""

import os
import re
from typing import TYPE_CHECKING, Any

from orders.domain.clock import timestamp
from orders.domain.errors import AlreadyShipped, WarehouseError, WarehouseUnavailable
from orders.domain.order import PricedLine, StoredAddress

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient


_DOWN = re.compile(r"TEST-DOWN-(\d{1,4})\Z")


class SimulatedWarehouse:
    """A warehouse whose ledger is a DynamoDB table."""

    def __init__(self, client: "DynamoDBClient", table: str | None = None) -> None:
        self._client = client
        self._table = table or os.environ["SHIPMENTS_TABLE"]

    def ship(self, order_id: str, lines: list[PricedLine], address: StoredAddress) -> str:
        """See `Warehouse.ship`."""
        self._fail_at_first(order_id, address.postal_code)
        status = "REFUSED" if address.postal_code == "TEST-REFUSED" else "SHIPPED"
        entry = self._decide(order_id, status)
        match entry["status"]["S"]:
            case "SHIPPED":
                return f"ship_{order_id}"
            case "REFUSED":
                raise WarehouseError("the warehouse does not deliver to this address")
            case decided:
                raise WarehouseError(f"the shipment is {decided}")

    def cancel(self, order_id: str) -> None:
        """See `Warehouse.cancel`."""
        if self._decide(order_id, "CANCELLED")["status"]["S"] == "SHIPPED":
            raise AlreadyShipped(f"the parcel of order {order_id} has left")

    def _decide(self, order_id: str, status: str) -> dict[str, Any]:
        """The ledger's entry of an order. The first decision stands."""
        try:
            answer = self._client.update_item(
                TableName=self._table,
                Key={"orderId": {"S": order_id}},
                UpdateExpression="SET #status = :status, decidedAt = :now"
                + (" ADD shipments :one" if status == "SHIPPED" else ""),
                ConditionExpression="attribute_not_exists(#status)",
                ExpressionAttributeNames={"#status": "status"},
                ExpressionAttributeValues={
                    ":status": {"S": status},
                    ":now": {"S": timestamp()},
                    **({":one": {"N": "1"}} if status == "SHIPPED" else {}),
                },
                ReturnValues="ALL_NEW",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except self._client.exceptions.ConditionalCheckFailedException as error:
            return error.response["Item"]  # type: ignore[typeddict-item,no-any-return]
        return answer["Attributes"]

    def _fail_at_first(self, order_id: str, postal_code: str) -> None:
        down = _DOWN.match(postal_code)
        if down is None:
            return
        answer = self._client.update_item(
            TableName=self._table,
            Key={"orderId": {"S": order_id}},
            UpdateExpression="ADD calls :one",
            ExpressionAttributeValues={":one": {"N": "1"}},
            ReturnValues="UPDATED_NEW",
        )
        if int(answer["Attributes"]["calls"]["N"]) <= int(down[1]):
            raise WarehouseUnavailable("the warehouse does not answer")
