"""Lambda functions that read a DynamoDB stream.

Each event source mapping processes one batch at a time, on a thread of its own.
"""

import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ministack.core.arn import ArnParseError, parse_arn
from ministack.core.responses import request_scope
from ministack.services import cloudwatch, dynamodb, dynamodb_streams, lambda_svc

from localcloud.corrections.lambda_async import deliver
from localcloud.patching import Correction, internal, is_true, replace
from localcloud.settings import Settings

MAX_DELAY_S = 30.0

logger = logging.getLogger("localcloud.streams")

JsonObject = dict[str, Any]
Records = list[JsonObject]


class MappingGoneError(Exception):
    """The mapping was deleted or disabled while a batch was processed."""


@dataclass
class StreamReader:
    """Invokes one mapping's function with the records of its table's stream."""

    mapping: JsonObject
    table: str
    retry_base_s: float

    def read(self) -> None:
        """Process all records of the stream; the position advances after each batch."""
        with self._giving_way():
            while records := self._next_records():
                wanted: Records = internal(lambda_svc, "_apply_filter_criteria")(records, self.mapping)
                if wanted:
                    self._process(wanted)
                self._advance(records[-1])

    @contextmanager
    def _giving_way(self) -> Iterator[None]:
        try:
            yield
        except MappingGoneError:
            logger.info("The mapping %s was deleted or disabled.", self.mapping["UUID"])

    def _next_records(self) -> Records:
        self._check_mapping()
        position = internal(lambda_svc, "_dynamodb_stream_positions")[self.mapping["UUID"]]
        size = int(self.mapping.get("BatchSize", 100))
        return list(internal(dynamodb, "stream_records_since")(self.table, position, size))

    def _check_mapping(self) -> None:
        current = internal(lambda_svc, "_esms").get(self.mapping["UUID"])
        if current is not self.mapping or not current.get("Enabled", True):
            raise MappingGoneError

    def _advance(self, last: JsonObject) -> None:
        """Set the position after a record."""
        start = internal(dynamodb, "stream_start_position")(self.table)
        records = internal(dynamodb, "stream_live_records")(self.table)
        # From the newest record, which is that of a mapping that keeps up.
        offset = next((i for i in range(len(records) - 1, -1, -1) if records[i] is last), -1)
        positions = internal(lambda_svc, "_dynamodb_stream_positions")
        with internal(lambda_svc, "_dynamodb_stream_positions_lock"):
            positions[self.mapping["UUID"]] = start + offset + 1

    def _process(self, records: Records) -> None:
        """Invoke the function until the batch is processed, or given up and reported to the destination."""
        attempts = throttles = 0
        while records:
            self._check_mapping()
            result = self._invoke(records)
            if result.get("throttle"):
                throttles += 1
            else:
                attempts += 1
                done = self._processed(records, result)
                if done == len(records):
                    self.mapping["LastProcessingResult"] = "OK"
                    return
                self.mapping["LastProcessingResult"] = "PROBLEM: Function call failed"
                if done:
                    self._advance(records[done - 1])
                    records, attempts = records[done:], 0
                    continue
                if len(records) > 1 and is_true(self.mapping.get("BisectBatchOnFunctionError")):
                    middle = len(records) // 2
                    self._process(records[:middle])
                    self._advance(records[middle - 1])
                    self._process(records[middle:])
                    return
                if self._retries_exhausted(attempts):
                    self._give_up(records, result, "RetryAttemptsExhausted", attempts)
                    return
            if self._too_old(records):
                self._give_up(records, result, "MaximumRecordAgeExceeded", attempts)
                return
            time.sleep(min(self.retry_base_s * 2 ** (attempts + throttles - 1), MAX_DELAY_S))

    def _invoke(self, records: Records) -> JsonObject:
        func, config = self._function()
        age_ms = max(0.0, time.time() - float(records[-1]["dynamodb"]["ApproximateCreationDateTime"])) * 1000
        dimensions = {"FunctionName": config["FunctionName"]}
        internal(cloudwatch, "record_metric")("AWS/Lambda", "IteratorAge", age_ms, "Milliseconds", dimensions)
        result: JsonObject = internal(lambda_svc, "_execute_function")(func, {"Records": records})
        return result

    def _function(self) -> tuple[JsonObject, JsonObject]:
        name, qualifier = self.mapping["FunctionName"], self.mapping.get("Qualifier")
        func, config = internal(lambda_svc, "_get_func_record_for_qualifier")(name, qualifier)
        if func is None:
            raise MappingGoneError
        return func, config

    def _processed(self, records: Records, result: JsonObject) -> int:
        """Return the number of records, from the first, that are processed."""
        if result.get("error"):
            return 0
        if "ReportBatchItemFailures" not in self.mapping.get("FunctionResponseTypes", []):
            return len(records)
        return first_failure(records, result.get("body"))

    def _retries_exhausted(self, attempts: int) -> bool:
        limit = int(self.mapping.get("MaximumRetryAttempts", -1))
        return limit >= 0 and attempts > limit

    def _too_old(self, records: Records) -> bool:
        limit = int(self.mapping.get("MaximumRecordAgeInSeconds", -1))
        oldest = float(records[0]["dynamodb"]["ApproximateCreationDateTime"])
        return limit >= 0 and time.time() - oldest > limit

    def _give_up(self, records: Records, result: JsonObject, condition: str, attempts: int) -> None:
        logger.warning("%s gave up %d stream records: %s", self.mapping["FunctionName"], len(records), condition)
        destination = (self.mapping.get("DestinationConfig") or {}).get("OnFailure") or {}
        if not destination.get("Destination"):
            return
        try:
            _, config = self._function()
            failure = self._failure(records, result, condition, attempts)
            deliver(destination["Destination"], failure, config.get("Role"))
        except Exception:
            logger.exception("The destination of the mapping %s refused the record.", self.mapping["UUID"])

    def _failure(self, records: Records, result: JsonObject, condition: str, attempts: int) -> JsonObject:
        first, last = records[0]["dynamodb"], records[-1]["dynamodb"]
        return {
            "requestContext": {
                "requestId": str(uuid.uuid4()),
                "functionArn": self.mapping["FunctionArn"],
                "condition": condition,
                "approximateInvokeCount": attempts,
            },
            "responseContext": {
                "statusCode": 200,
                "executedVersion": self.mapping.get("Qualifier") or "$LATEST",
                "functionError": result.get("function_error") or "Unhandled",
            },
            "version": "1.0",
            "timestamp": iso(time.time(), "milliseconds"),
            "DDBStreamBatchInfo": {
                "shardId": internal(dynamodb_streams, "_DEFAULT_SHARD_ID"),
                "startSequenceNumber": first["SequenceNumber"],
                "endSequenceNumber": last["SequenceNumber"],
                "approximateArrivalOfFirstRecord": iso(first["ApproximateCreationDateTime"]),
                "approximateArrivalOfLastRecord": iso(last["ApproximateCreationDateTime"]),
                "batchSize": len(records),
                "streamArn": self.mapping["EventSourceArn"],
            },
        }


def first_failure(records: Records, body: Any) -> int:
    """Return the index of the first record that a function reports as failed; 0 for an invalid answer.

    Lambda developer guide, "Configuring partial batch response with DynamoDB and Lambda".
    """
    if body in (None, "", {}):
        return len(records)
    if not isinstance(body, dict):
        return 0
    failures = body.get("batchItemFailures")
    if failures in (None, []):
        return len(records)
    try:
        failed = {str(item["itemIdentifier"]) for item in failures}
    except (KeyError, TypeError):
        return 0
    numbers = [record["dynamodb"]["SequenceNumber"] for record in records]
    if not failed <= set(numbers):
        return 0
    return min(numbers.index(number) for number in failed)


def iso(epoch_s: float, timespec: str = "seconds") -> str:
    """Return a time in UTC in the format of Lambda's records."""
    return datetime.fromtimestamp(float(epoch_s), UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def table_of(mapping: JsonObject, account: str, region: str) -> str | None:
    """Return the name of the table whose current stream a mapping reads, or None."""
    arn = mapping.get("EventSourceArn", "")
    try:
        spec = parse_arn(arn)
    except ArnParseError:
        return None
    if (spec.service, spec.account_id, spec.region) != ("dynamodb", account, region):
        return None
    name, marker, _ = spec.resource.removeprefix("table/").partition("/stream/")
    table = internal(dynamodb, "_tables").get(name)
    return name if marker and table and table.get("LatestStreamArn") == arn else None


def install(settings: Settings) -> None:
    """Read each mapping's stream on a thread of its own."""
    for name in ("_dispatch_esm_batch", "_esm_inflight", "_dynamodb_stream_positions"):
        internal(lambda_svc, name)

    def poll_streams() -> bool:
        """Start a reader for each mapping that is behind; returns False: the poller has no more to do."""
        for account, region, mapping in internal(lambda_svc, "_iter_all_esms")():
            if is_true(mapping.get("Enabled", True)):
                with request_scope(account, region):
                    start_reader(mapping, account, region)
        return False

    def start_reader(mapping: JsonObject, account: str, region: str) -> None:
        table = table_of(mapping, account, region)
        if table is None or internal(lambda_svc, "_esm_inflight").get(mapping["UUID"]):
            return
        positions = internal(lambda_svc, "_dynamodb_stream_positions")
        if mapping["UUID"] not in positions:
            starting = mapping.get("StartingPosition", "LATEST")
            internal(lambda_svc, "_init_stream_position")(mapping["UUID"], mapping["EventSourceArn"], starting)
        if positions[mapping["UUID"]] < internal(dynamodb, "stream_end_position")(table):
            reader = StreamReader(mapping, table, settings.retry_base_s)
            internal(lambda_svc, "_dispatch_esm_batch")(mapping["UUID"], reader.read)

    replace(lambda_svc, "_poll_dynamodb_streams", poll_streams)


CORRECTIONS = (
    Correction(
        name="lambda-streams",
        service="Lambda",
        aws=(
            "A batch that fails is retried until MaximumRetryAttempts or MaximumRecordAgeInSeconds. "
            "BisectBatchOnFunctionError splits the batch first, which is no retry. ReportBatchItemFailures "
            "continues at the first record that failed. A pointer to a batch that is given up goes to the "
            "on-failure destination, and the shard goes on. A throttled invocation is no attempt."
        ),
        ministack=(
            "A failing batch is retried until its record age, or for ever; the other settings are ignored. One "
            "slow function holds up all event sources."
        ),
        here="Retries, bisecting, partial batches, record age and on-failure destination of each mapping.",
        install=install,
    ),
)
