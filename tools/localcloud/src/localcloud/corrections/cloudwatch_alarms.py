"""Metrics of queues, and alarms."""

import logging
import operator
import threading
import time
from collections.abc import Callable
from typing import Any

from ministack.core.responses import request_scope
from ministack.services import cloudwatch, sqs

from localcloud.patching import Correction, internal, replace
from localcloud.settings import Settings

COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "GreaterThanOrEqualToThreshold": operator.ge,
    "GreaterThanThreshold": operator.gt,
    "LessThanThreshold": operator.lt,
    "LessThanOrEqualToThreshold": operator.le,
}

logger = logging.getLogger("localcloud.cloudwatch")

JsonObject = dict[str, Any]


def period_values(alarm: JsonObject, now: float) -> list[float | None]:
    """Return an alarm's statistic in each of its evaluation periods, newest first; None without data."""
    dimensions = {item["Name"]: item["Value"] for item in alarm.get("Dimensions") or []}
    key = (alarm["Namespace"], alarm["MetricName"], internal(cloudwatch, "_dims_key")(dimensions))
    points = internal(cloudwatch, "_metrics").get(key) or []
    period = int(alarm.get("Period", 60))
    statistic = alarm.get("ExtendedStatistic") or alarm.get("Statistic", "Average")
    values: list[float | None] = []
    for number in range(int(alarm.get("EvaluationPeriods", 1))):
        end = now - number * period
        window = [point for point in points if end - period < point["Timestamp"] <= end]
        stats = internal(cloudwatch, "_calc_stats")(window) if window else None
        values.append(internal(cloudwatch, "_stat_value")(stats, statistic, window) if stats else None)
    return values


def state_of(alarm: JsonObject, values: list[float | None]) -> str:
    """Return the state that follows from the statistics of an alarm's periods."""
    compare = COMPARISONS[alarm["ComparisonOperator"]]
    missing = alarm.get("TreatMissingData") or "missing"
    verdicts = [compare(value, float(alarm["Threshold"])) for value in values if value is not None]
    if missing in ("breaching", "notBreaching"):
        verdicts += [missing == "breaching"] * values.count(None)
    if not verdicts:
        return str(alarm["StateValue"]) if missing == "ignore" else "INSUFFICIENT_DATA"
    needed = int(alarm.get("DatapointsToAlarm") or alarm.get("EvaluationPeriods", 1))
    return "ALARM" if sum(verdicts) >= min(needed, len(verdicts)) else "OK"


def evaluate_alarm(alarm: JsonObject) -> None:
    """Set an alarm's state by its metric, and run its actions if the state has changed."""
    if not alarm.get("MetricName") or alarm.get("ComparisonOperator") not in COMPARISONS:
        return
    values = period_values(alarm, time.time())
    old, new = alarm["StateValue"], state_of(alarm, values)
    if old == new:
        return
    reason = f"Threshold {alarm['Threshold']} ({alarm['ComparisonOperator']}), latest values {values}"
    alarm.update(StateValue=new, StateReason=reason, StateUpdatedTimestamp=int(time.time()))
    internal(cloudwatch, "_record_history")(alarm["AlarmName"], old, new, reason)
    internal(cloudwatch, "_dispatch_alarm_actions")(alarm, old, new, reason)
    internal(cloudwatch, "_evaluate_parent_alarms")(alarm)


def record_queue(queue: JsonObject) -> None:
    """Record the metrics of a queue."""
    internal(sqs, "_refresh_counts")(queue)
    attributes = queue["attributes"]
    dimensions = {"QueueName": attributes["QueueArn"].rsplit(":", 1)[-1]}
    record = internal(cloudwatch, "record_metric")
    for state in ("Visible", "NotVisible", "Delayed"):
        name = "ApproximateNumberOfMessages" + ("" if state == "Visible" else state)
        metric = f"ApproximateNumberOfMessages{state}"
        record("AWS/SQS", metric, float(attributes.get(name, 0)), "Count", dimensions)
    oldest = min((message["sent_at"] for message in list(queue["messages"])), default=None)
    age = time.time() - oldest if oldest else 0.0
    record("AWS/SQS", "ApproximateAgeOfOldestMessage", age, "Seconds", dimensions)


def report() -> None:
    """Record the metrics of all queues and evaluate all alarms, in every account."""
    for (account, region, _), queue in list(internal(sqs, "_queues").all_items()):
        with request_scope(account, region):
            record_queue(queue)
    for (account, region, _), alarm in list(internal(cloudwatch, "_alarms").all_items()):
        with request_scope(account, region):
            evaluate_alarm(alarm)


def install(settings: Settings) -> None:
    """Report the metrics of queues and evaluate alarms at regular intervals."""
    replace(cloudwatch, "_evaluate_alarm", evaluate_alarm)

    def run() -> None:
        while True:
            time.sleep(settings.metrics_interval_s)
            try:
                report()
            except Exception:
                logger.exception("The metrics could not be reported.")

    threading.Thread(target=run, daemon=True, name="cloudwatch-report").start()


CORRECTIONS = (
    Correction(
        name="cloudwatch-alarms",
        service="CloudWatch",
        aws=(
            "SQS reports for each queue, every minute, the number of visible, invisible and delayed messages and "
            "the age of the oldest. An alarm looks at the metric with exactly its dimensions in each of its last "
            "EvaluationPeriods, needs DatapointsToAlarm of them, and treats missing data as TreatMissingData says."
        ),
        ministack=(
            "Queues report nothing. An alarm mixes all dimensions into one figure over all periods, ignores "
            "missing data, and is evaluated on request only."
        ),
        here="Queues report metrics; alarms look at their own metric and periods, every --metrics-interval.",
        install=install,
    ),
)
