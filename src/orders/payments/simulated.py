"""A simulated payment provider that behaves by payment token.

Tokens, in the manner of a provider's test cards: `tok_visa` is charged; `tok_declined` is declined;
`tok_provider_down_<n>` fails n times and then works; `tok_slow_<seconds>` takes that long;
`tok_timeout_after_charge` charges and then loses the answer, once; `tok_receipt_down_<n>` is charged, but
its receipt details can't be had n times; `tok_refund_down_<n>` is charged, but its refund fails n times.
"""

import os
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from orders.domain.clock import timestamp
from orders.domain.errors import OrderCancelled, PaymentDeclined, PaymentProviderError

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient


_COUNTED = re.compile(r"tok_(provider_down|receipt_down|refund_down|slow)_(\d{1,6})\Z")


class SimulatedPaymentProvider:
    """A provider whose ledger is a DynamoDB table, so that "charged exactly once" can be checked."""

    def __init__(self, client: "DynamoDBClient", table: str | None = None) -> None:
        self._client = client
        self._table = table or os.environ["PAYMENTS_TABLE"]

    def charge(self, idempotency_key: str, amount: int, currency: str, token: str) -> str:
        """See `PaymentProvider.charge`."""
        if token == "tok_declined":
            raise PaymentDeclined("the card was declined")
        self._fail_at_first("provider_down", token, idempotency_key, "the payment provider answered 503")
        if (slow := _COUNTED.match(token)) and slow[1] == "slow":
            time.sleep(int(slow[2]))
        payment_id = f"pay_{idempotency_key}"
        try:
            self._ask(
                self._client.update_item,
                Key={"idempotencyKey": {"S": idempotency_key}},
                UpdateExpression=(
                    "SET #status = :charged, amount = :amount, currency = :currency, #token = :token, "
                    "chargedAt = :now ADD charges :one"
                ),
                ConditionExpression="attribute_not_exists(#status)",
                ExpressionAttributeNames={"#status": "status", "#token": "token"},
                ExpressionAttributeValues={
                    ":charged": {"S": "CHARGED"},
                    ":amount": {"N": str(amount)},
                    ":currency": {"S": currency},
                    ":token": {"S": token},
                    ":now": {"S": timestamp()},
                    ":one": {"N": "1"},
                },
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except self._client.exceptions.ConditionalCheckFailedException as error:
            entry: dict[str, Any] = error.response["Item"]  # type: ignore[typeddict-item]
            if entry["status"]["S"] != "CHARGED":
                raise OrderCancelled(f"the payment is {entry['status']['S']}") from None
            return payment_id
        if token == "tok_timeout_after_charge":
            raise PaymentProviderError("the payment provider's answer was lost")
        return payment_id

    def refund(self, idempotency_key: str) -> str:
        """See `PaymentProvider.refund`."""
        entry = self._entry(idempotency_key)
        self._fail_at_first(
            "refund_down",
            entry.get("token", {}).get("S", ""),
            idempotency_key,
            "the payment provider answered 503",
        )
        charged = entry.get("status", {}).get("S") == "CHARGED"
        try:
            self._ask(
                self._client.update_item,
                Key={"idempotencyKey": {"S": idempotency_key}},
                UpdateExpression="SET #status = :status, refundedAt = :now"
                + (" ADD refunds :one" if charged else ""),
                ConditionExpression="#status = :charged" if charged else "attribute_not_exists(#status)",
                ExpressionAttributeNames={"#status": "status"},
                ExpressionAttributeValues={
                    ":status": {"S": "REFUNDED" if charged else "VOIDED"},
                    ":now": {"S": timestamp()},
                    **({":charged": {"S": "CHARGED"}, ":one": {"N": "1"}} if charged else {}),
                },
            )
        except self._client.exceptions.ConditionalCheckFailedException:
            status: str = self._entry(idempotency_key)["status"]["S"]
            # Charged between the read and the write: a retry finds the charge.
            if status == "CHARGED":
                raise PaymentProviderError("the payment changed while it was refunded") from None
            return status
        return "REFUNDED" if charged else "VOIDED"

    def receipt_details(self, idempotency_key: str) -> str:
        """See `PaymentProvider.receipt_details`."""
        entry = self._entry(idempotency_key)
        if "status" not in entry:
            raise PaymentProviderError(f"there is no payment {idempotency_key}")
        self._fail_at_first(
            "receipt_down",
            entry["token"]["S"],
            idempotency_key,
            "the payment provider's receipt service answered 503",
        )
        return "visa ending in 4242"

    def _entry(self, idempotency_key: str) -> dict[str, Any]:
        key = {"idempotencyKey": {"S": idempotency_key}}
        item: dict[str, Any] = self._ask(self._client.get_item, Key=key, ConsistentRead=True).get("Item", {})
        return item

    def _ask(self, call: Callable[..., Any], **request: Any) -> Any:
        """One call to the ledger. A failed call means that the provider is down."""
        try:
            return call(TableName=self._table, **request)
        except self._client.exceptions.ConditionalCheckFailedException:
            raise
        except (ClientError, BotoCoreError) as error:
            # The customer reads this message in the order's timeline; the cause is for the log.
            raise PaymentProviderError("the payment provider can't be reached") from error

    def _fail_at_first(self, behaviour: str, token: str, idempotency_key: str, message: str) -> None:
        """Raise `PaymentProviderError` for the first n calls if the token demands so. The ledger keeps the count."""
        counted = _COUNTED.match(token)
        if counted is None or counted[1] != behaviour:
            return
        answer = self._ask(
            self._client.update_item,
            Key={"idempotencyKey": {"S": idempotency_key}},
            UpdateExpression="ADD #calls :one",
            ExpressionAttributeNames={"#calls": f"{behaviour}_calls"},
            ExpressionAttributeValues={":one": {"N": "1"}},
            ReturnValues="UPDATED_NEW",
        )
        if int(answer["Attributes"][f"{behaviour}_calls"]["N"]) <= int(counted[2]):
            raise PaymentProviderError(message)
