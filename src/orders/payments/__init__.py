"""The payment provider: its interface, and the one place that chooses the implementation."""

import os
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient


class PaymentProvider(Protocol):
    """A payment provider. Every call may be repeated with the same idempotency key."""

    def charge(self, idempotency_key: str, amount: int, currency: str, token: str) -> str:
        """Charge `amount` (minor units) and return the payment's id; the same key charges once.

        Raises `PaymentDeclined`; `PaymentProviderError` where a retry may help, also if the charge may have happened;
        `OrderCancelled` if the key was refunded or voided before.
        """

    def refund(self, idempotency_key: str) -> str:
        """Refund this key's charge and return `REFUNDED`. Without a charge, block the key for ever and return
        `VOIDED`. Raises `PaymentProviderError`.
        """

    def receipt_details(self, idempotency_key: str) -> str:
        """The line to print on the receipt, such as `visa ending in 4242`. Raises `PaymentProviderError`."""


def payment_provider(dynamodb: "DynamoDBClient") -> PaymentProvider:
    """The provider that the setting `PAYMENT_PROVIDER` names. Raises `ValueError` for a name without a provider."""
    match os.environ["PAYMENT_PROVIDER"]:
        case "simulated":
            from orders.payments.simulated import SimulatedPaymentProvider  # noqa: PLC0415 - only if chosen

            return SimulatedPaymentProvider(dynamodb)
        case name:
            raise ValueError(f"PAYMENT_PROVIDER is {name!r}: there is only 'simulated'")
