"""CloudWatch user guide: evaluating an alarm; SQS developer guide: available metrics."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from conformance.support import LocalCloud, eventually, unique


def alarm(cloud: LocalCloud, namespace: str, metric: str, **options: Any) -> str:
    """Create an alarm on more than 10 within a minute and return its name."""
    name = unique("alarm")
    settings = {
        "Statistic": "Maximum",
        "Period": 60,
        "EvaluationPeriods": 1,
        "Threshold": 10,
        "ComparisonOperator": "GreaterThanThreshold",
        **options,
    }
    cloud.client("cloudwatch").put_metric_alarm(AlarmName=name, Namespace=namespace, MetricName=metric, **settings)
    return name


def state(cloud: LocalCloud, name: str) -> str:
    """Return an alarm's state."""
    answer = cloud.client("cloudwatch").describe_alarms(AlarmNames=[name])
    return str(answer["MetricAlarms"][0]["StateValue"])


def put(cloud: LocalCloud, namespace: str, value: float, minutes_ago: float = 0, **dimensions: str) -> None:
    """Put a value of the metric Depth."""
    datum = {
        "MetricName": "Depth",
        "Value": value,
        "Timestamp": datetime.now(UTC) - timedelta(minutes=minutes_ago),
        "Dimensions": [{"Name": name, "Value": text} for name, text in dimensions.items()],
    }
    cloud.client("cloudwatch").put_metric_data(Namespace=namespace, MetricData=[datum])


def test_an_alarm_looks_at_its_own_dimensions_only(cloud: LocalCloud) -> None:
    # GIVEN two alarms on one metric with different dimensions
    namespace = unique("Jobs")
    high, low = (
        alarm(cloud, namespace, "Depth", Dimensions=[{"Name": "queue", "Value": queue}]) for queue in ("high", "low")
    )
    # WHEN one of them is high
    put(cloud, namespace, 99, queue="high")
    put(cloud, namespace, 1, queue="low")
    # THEN that one is in alarm
    eventually(lambda: (state(cloud, high), state(cloud, low)) == ("ALARM", "OK"))


@pytest.mark.parametrize(
    ("treatment", "expected"),
    [("notBreaching", "OK"), ("breaching", "ALARM"), ("missing", "INSUFFICIENT_DATA")],
)
def test_missing_data_are_treated_as_the_alarm_says(cloud: LocalCloud, treatment: str, expected: str) -> None:
    # GIVEN an alarm on a metric without data
    name = alarm(cloud, unique("Jobs"), "Depth", TreatMissingData=treatment)
    # WHEN it is evaluated
    # THEN its state is the one for missing data
    eventually(lambda: state(cloud, name) == expected)


def test_an_alarm_needs_all_its_periods(cloud: LocalCloud) -> None:
    # GIVEN an alarm on two periods
    namespace = unique("Jobs")
    name = alarm(cloud, namespace, "Depth", EvaluationPeriods=2, TreatMissingData="notBreaching")
    # WHEN only the newest one is high
    put(cloud, namespace, 99)
    # THEN it is quiet; when both are, it is not
    eventually(lambda: state(cloud, name) == "OK")
    put(cloud, namespace, 99, minutes_ago=1.5)
    eventually(lambda: state(cloud, name) == "ALARM")


def test_a_message_that_waits_raises_the_alarm_of_its_queue(cloud: LocalCloud) -> None:
    # GIVEN an alarm on a queue that tells another queue through a topic
    queue, told = cloud.queue(), cloud.queue()
    sns = cloud.client("sns")
    topic = sns.create_topic(Name=unique("topic"))["TopicArn"]
    statement = '{"Effect": "Allow", "Principal": "*", "Action": "sqs:SendMessage", "Resource": "*"}'
    policy = f'{{"Version": "2012-10-17", "Statement": [{statement}]}}'
    told.client.set_queue_attributes(QueueUrl=told.url, Attributes={"Policy": policy})
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=told.arn)
    name = alarm(
        cloud,
        "AWS/SQS",
        "ApproximateNumberOfMessagesVisible",
        Dimensions=[{"Name": "QueueName", "Value": queue.arn.rsplit(":", 1)[1]}],
        Threshold=0,
        AlarmActions=[topic],
    )
    # WHEN a message stays on the queue
    queue.send({})
    # THEN the alarm fires by itself and its action runs
    assert name in told.next()["Body"]
    assert state(cloud, name) == "ALARM"
