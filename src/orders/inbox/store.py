"""The failures table: every change is one conditional write on the record's version.

A payload that is too large for an item lies in a bucket, under the prefix of the record's status. Each object has a
key of its own. The object is written before the record names it, and deleted after the record has stopped naming it,
so every record has its payload, wherever a process dies.
"""

import datetime
import os
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from orders.domain.clock import timestamp, timestamp_before
from orders.domain.errors import Contended
from orders.inbox.healing import HOLDS_KEY, Cause, Holds, Pace
from orders.inbox.record import (
    CLAIM_LEASE_S,
    RETENTION_DAYS,
    SETTLED,
    Failure,
    FailureRecord,
    FailureStatus,
    claimed,
    first_seen,
    released,
    seen_again,
    sent,
    settled,
)
from orders.storage.dynamodb import from_item, to_item

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient
    from types_boto3_s3 import S3Client

# An item takes 400 KB (DynamoDB's quota); the record's other fields stay below 150 KB.
MAX_PAYLOAD = 250_000
ATTEMPTS = 10
# The bucket's lifecycle deletes settled payloads after 90 days (template.yaml).
OPEN_PREFIX = "payloads/"
SETTLED_PREFIX = "settled/"


T = TypeVar("T", Pace, Holds)


def _expiry() -> int:
    """When an item that is settled or changed now may go, in epoch seconds."""
    expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=RETENTION_DAYS)
    return int(expires.timestamp())


def decode_record(item: dict[str, Any]) -> FailureRecord:
    """The record in an item. Raises `ValueError` (msgspec) if it isn't one."""
    return msgspec.convert(from_item(item), FailureRecord)


class FailuresTable:
    """The failures table by failure id, and the bucket of large payloads."""

    def __init__(
        self, client: "DynamoDBClient", s3: "S3Client", name: str | None = None, bucket: str | None = None
    ) -> None:
        self._client = client
        self._s3 = s3
        self._name = name or os.environ["FAILURES_TABLE"]
        self._bucket = bucket or os.environ["FAILED_PAYLOADS_BUCKET"]

    def add(self, failure: Failure, message_id: str) -> FailureRecord:
        """Record a message's failure: a new record, or one more count of a known one."""
        failure = self._with_payload_stored(failure, message_id)
        record = first_seen(failure, at=timestamp(), message_id=message_id)
        try:
            self._client.put_item(
                TableName=self._name,
                Item=to_item(msgspec.to_builtins(record)),
                ConditionExpression="attribute_not_exists(failureId)",
            )
        except self._client.exceptions.ConditionalCheckFailedException:
            record = self.change(
                failure.failure_id,
                lambda known: seen_again(known, failure, at=timestamp(), message_id=message_id),
            )
            if failure.payload_key and failure.payload_key != record.payload_key:
                self._delete_object(failure.payload_key)
        return record

    def get(self, failure_id: str) -> FailureRecord | None:
        """The present record, or None."""
        answer = self._client.get_item(
            TableName=self._name, Key={"failureId": {"S": failure_id}}, ConsistentRead=True
        )
        return decode_record(answer["Item"]) if "Item" in answer else None

    def change(self, failure_id: str, transition: Callable[[FailureRecord], FailureRecord]) -> FailureRecord:
        """Replace a record by `transition` of it, with retries while others change it.

        Raises `LookupError` if there is no such record, `Contended`, and what `transition` raises.
        """
        for _ in range(ATTEMPTS):
            record = self.get(failure_id)
            if record is None:
                raise LookupError(f"there is no failure {failure_id}")
            changed = transition(record)
            if changed is record:
                return record
            changed.version = record.version + 1
            copy = self._with_payload_moved(changed)
            try:
                self._client.put_item(
                    TableName=self._name,
                    Item=to_item(msgspec.to_builtins(changed)),
                    ConditionExpression="version = :version",
                    ExpressionAttributeValues={":version": {"N": str(record.version)}},
                )
            except self._client.exceptions.ConditionalCheckFailedException:
                if copy:
                    self._delete_object(copy)
                continue
            if record.payload_key and record.payload_key != changed.payload_key:
                self._delete_object(record.payload_key)
            return changed
        raise Contended(f"failure {failure_id} keeps changing")

    def claim(self, failure_id: str, *, by: str, again: bool = False) -> FailureRecord:
        """Claim a failure for a redrive; of two who try, one succeeds. Raises `NotAllowed`, `LookupError`."""

        def transition(record: FailureRecord) -> FailureRecord:
            oldest = timestamp_before(CLAIM_LEASE_S)
            expired = record.claimed_at is not None and record.claimed_at < oldest
            return claimed(record, at=timestamp(), lease_expired=expired, by=by, again=again)

        return self.change(failure_id, transition)

    def confirm(self, claim: FailureRecord, detail: str) -> FailureRecord:
        """Note that a claimed failure's payload was sent, unless the failure has occurred again already."""
        return self._under_claim(claim, lambda record: sent(record, at=timestamp(), detail=detail))

    def release(self, claim: FailureRecord, detail: str) -> FailureRecord:
        """Release a claimed failure because its payload could not be sent."""
        return self._under_claim(claim, lambda record: released(record, at=timestamp(), detail=detail))

    def settle(
        self, failure_id: str, status: FailureStatus, *, by: str, reason: str, if_version: int | None = None
    ) -> FailureRecord:
        """Mark a failure RESOLVED or DISCARDED; 90 days later it is gone. Raises `NotAllowed`, `LookupError`.

        With `if_version`, a record of another version is returned unchanged.
        """

        def transition(record: FailureRecord) -> FailureRecord:
            if if_version is not None and record.version != if_version:
                return record
            return settled(record, status, at=timestamp(), expires_at=_expiry(), by=by, reason=reason)

        return self.change(failure_id, transition)

    def pace(self, cause: Cause) -> Pace:
        """How a cause heals; a new `Pace` if nothing was sent yet. Raises `ValueError` (msgspec) if it is damaged."""
        return self._fields_of(cause.key, Pace) or Pace(failure_id=cause.key)

    def store_pace(self, pace: Pace) -> bool:
        """Store a changed pace, unless somebody else has changed it meanwhile. Returns whether it is stored."""
        changed = msgspec.structs.replace(pace, version=pace.version + 1, expires_at=_expiry())
        return self._put_if_version(msgspec.to_builtins(changed), pace.version)

    def holds(self) -> Holds:
        """What operators keep from healing by itself. Raises `ValueError` (msgspec) for a damaged item."""
        return self._fields_of(HOLDS_KEY, Holds) or Holds()

    def change_holds(self, transition: Callable[[Holds], None]) -> Holds:
        """Change what is held, with retries while others change it. `transition` changes the object that it gets.

        Raises `Contended`, and what `transition` raises.
        """
        for _ in range(ATTEMPTS):
            holds = self.holds()
            before = holds.version
            transition(holds)
            holds.version += 1
            if self._put_if_version(msgspec.to_builtins(holds), before):
                return holds
        raise Contended("what is held keeps changing")

    def _fields_of(self, key: str, kind: type[T]) -> T | None:
        answer = self._client.get_item(TableName=self._name, Key={"failureId": {"S": key}}, ConsistentRead=True)
        return msgspec.convert(from_item(answer["Item"]), kind) if "Item" in answer else None

    def _put_if_version(self, fields: dict[str, Any], version: int) -> bool:
        """Put an item of healing; `version` is the one that was read, 0 if there was no item."""
        try:
            self._client.put_item(
                TableName=self._name,
                Item=to_item(fields),
                ConditionExpression="version = :version OR (:version = :none AND attribute_not_exists(failureId))",
                ExpressionAttributeValues={":version": {"N": str(version)}, ":none": {"N": "0"}},
            )
        except self._client.exceptions.ConditionalCheckFailedException:
            return False
        return True

    def _with_payload_moved(self, record: FailureRecord) -> str | None:
        """Copy a record's payload object to the prefix of the record's status, and name the copy in the record.

        The bucket's lifecycle ends what lies under `SETTLED_PREFIX` together with its record. Returns the copy's
        key, None if there is nothing to move.
        """
        old = record.payload_key
        wanted = SETTLED_PREFIX if record.status in SETTLED else OPEN_PREFIX
        if old is None or old.startswith(wanted):
            return None
        new = f"{wanted}{record.failure_id}/{uuid.uuid4().hex}"
        try:
            self._s3.copy_object(Bucket=self._bucket, Key=new, CopySource={"Bucket": self._bucket, "Key": old})
        except self._s3.exceptions.ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchKey":
                raise
            return None  # moved by somebody else, so that this change will be refused; or gone
        record.payload_key = new
        return new

    def _delete_object(self, key: str) -> None:
        self._s3.delete_object(Bucket=self._bucket, Key=key)

    def _under_claim(
        self, claim: FailureRecord, transition: Callable[[FailureRecord], FailureRecord]
    ) -> FailureRecord:
        def guarded(record: FailureRecord) -> FailureRecord:
            held = record.status is FailureStatus.REDRIVEN and record.claimed_at == claim.claimed_at
            return transition(record) if held else record

        return self.change(claim.failure_id, guarded)

    def payload_of(self, record: FailureRecord) -> str:
        """The payload, from the record or from the bucket. Raises botocore's ClientError."""
        for _ in range(ATTEMPTS):
            if record.payload is not None or record.payload_key is None:
                return record.payload or ""
            try:
                return self._s3.get_object(Bucket=self._bucket, Key=record.payload_key)["Body"].read().decode()
            except self._s3.exceptions.NoSuchKey:
                now = self.get(record.failure_id)
                if now is None or now.payload_key == record.payload_key:
                    raise
                record = now  # the payload was moved after the record was read
        raise Contended(f"the payload of failure {record.failure_id} keeps moving")

    def with_status(
        self, status: FailureStatus, *, since: str = "0", unreadable: list[str] | None = None
    ) -> Iterator[FailureRecord]:
        """The failures of one status, last seen first, without payload, stack trace and history.

        Raises `ValueError` (msgspec) for a damaged record; with `unreadable`, its id is added to that list instead.
        """
        for item in self._query("by-status", "status", status, since):
            try:
                record = decode_record(item)
            except ValueError:
                if unreadable is None:
                    raise
                unreadable.append(item["failureId"]["S"])
                continue
            yield record

    def of_order(self, order_id: str, *, unreadable: list[str] | None = None) -> list[FailureRecord]:
        """Every failure of an order, in its present state, oldest first. `unreadable`: see `with_status`."""
        records = []
        for item in self._query("by-order", "orderId", order_id):
            failure_id = item["failureId"]["S"]
            try:
                records.append(self.get(failure_id))
            except ValueError:
                if unreadable is None:
                    raise
                unreadable.append(failure_id)
        return sorted((record for record in records if record), key=lambda record: record.first_seen_at)

    def _query(self, index: str, key: str, value: str, since: str = "0") -> Iterator[dict[str, Any]]:
        pages = self._client.get_paginator("query").paginate(
            TableName=self._name,
            IndexName=index,
            KeyConditionExpression="#key = :key AND lastSeenAt >= :since",
            ExpressionAttributeNames={"#key": key},
            ExpressionAttributeValues={":key": {"S": value}, ":since": {"S": since}},
            ScanIndexForward=False,
        )
        for page in pages:
            yield from page["Items"]

    def _with_payload_stored(self, failure: Failure, message_id: str) -> Failure:
        """The failure with its payload in the bucket, if the payload is too large for an item.

        The key names the message: a retry after a crash writes the same object.
        """
        payload = (failure.payload or "").encode()
        if len(payload) <= MAX_PAYLOAD:
            return failure
        key = f"{OPEN_PREFIX}{failure.failure_id}/{message_id}"
        self._s3.put_object(Bucket=self._bucket, Key=key, Body=payload)
        return msgspec.structs.replace(failure, payload=None, payload_key=key)
