"""The warehouse: its interface, and the one place that chooses the implementation."""

import os
from typing import TYPE_CHECKING, Protocol

from orders.domain.order import PricedLine, StoredAddress

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient


class Warehouse(Protocol):
    """A warehouse. Every call may be repeated: one order is one parcel."""

    def ship(self, order_id: str, lines: list[PricedLine], address: StoredAddress) -> str:
        """Send the parcel and return the shipment's id; an order ships once.

        Raises `WarehouseError` if the order never will be shipped (also if its shipment was cancelled),
        `WarehouseUnavailable` where a retry may help.
        """

    def cancel(self, order_id: str) -> None:
        """Make sure that the order won't be shipped. Raises `AlreadyShipped`, `WarehouseUnavailable`."""


def warehouse(dynamodb: "DynamoDBClient") -> Warehouse:
    """The warehouse that the setting `WAREHOUSE` names. Raises `ValueError` for a name without a warehouse."""
    match os.environ["WAREHOUSE"]:
        case "simulated":
            from orders.warehouse.simulated import SimulatedWarehouse  # noqa: PLC0415 - only if chosen

            return SimulatedWarehouse(dynamodb)
        case name:
            raise ValueError(f"WAREHOUSE is {name!r}: there is only 'simulated'")
