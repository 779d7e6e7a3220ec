"""The template keeps every rule, and every rule finds the resource that breaks it."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.template import rules, workflow_rules
from tests.template.cloudformation import ROOT, TEMPLATE, WORKFLOW, Template, load_raw, load_workflow
from tests.template.rules import RULES, Rule


@pytest.fixture(scope="session")
def template() -> Template:
    return Template(load_raw(), load_workflow())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_template_keeps_the_rule(template: Template, rule: Rule) -> None:
    assert list(rule(template)) == []


@pytest.mark.parametrize("path", [TEMPLATE, WORKFLOW], ids=lambda path: path.name)
def test_no_yaml_aliases(path: Any) -> None:
    # CloudFormation and the SAM CLI read them differently.
    with path.open() as text:
        aliases = [event.anchor for event in yaml.parse(text) if isinstance(event, yaml.AliasEvent)]
    assert aliases == []


@pytest.mark.parametrize("environment", ["dev", "prod"])
def test_deployments_to_aws_never_ask_for_the_local_target(environment: str) -> None:
    config = tomllib.loads((ROOT / "samconfig.toml").read_text())
    overrides = config[environment]["deploy"]["parameters"]["parameter_overrides"]
    assert "Target" not in overrides
    assert f"Environment={environment}" in overrides


Mutation = Callable[[dict[str, Any], dict[str, Any]], None]


def drop(*path: str | int) -> Mutation:
    """Removes what is at this path of the template's resources."""

    def mutate(resources: dict[str, Any], _: dict[str, Any]) -> None:
        *parents, last = path
        node: Any = resources
        for step in parents:
            node = node[step]
        del node[last]

    return mutate


def put(value: Any, *path: str | int) -> Mutation:
    """Puts a value at this path of the template's resources; a path that ends in `+` appends to a list."""

    def mutate(resources: dict[str, Any], _: dict[str, Any]) -> None:
        *parents, last = path
        node: Any = resources
        for step in parents:
            node = node[step]
        if last == "+":
            node.append(value)
        else:
            node[last] = value

    return mutate


def in_state(state: str, **changes: Any) -> Mutation:
    """Changes a state of the workflow; None removes."""

    def mutate(_: dict[str, Any], states: dict[str, Any]) -> None:
        for name, value in changes.items():
            if value is None:
                del states[state][name]
            else:
                states.setdefault(state, {})[name] = value

    return mutate


def in_text(state: str, part: str, old: str, new: str) -> Mutation:
    """Replaces text in an argument of a state."""

    def mutate(_: dict[str, Any], states: dict[str, Any]) -> None:
        assert old in states[state]["Arguments"][part]
        states[state]["Arguments"][part] = states[state]["Arguments"][part].replace(old, new)

    return mutate


def a_function(**properties: Any) -> dict[str, Any]:
    return {
        "Type": "AWS::Serverless::Function",
        "Properties": {
            "Handler": "orders.functions.accept_order.handler",
            "LoggingConfig": {"LogGroup": {"Ref": "AcceptOrderLogs"}},
            **properties,
        },
    }


def a_rule(target: dict[str, Any]) -> dict[str, Any]:
    return {
        "Type": "AWS::Events::Rule",
        "Properties": {"EventPattern": {"source": ["orders"]}, "Targets": [{"Id": "New", **target}]},
    }


QUEUE_ARN = {"Fn::GetAtt": ["NotificationsQueue", "Arn"]}
FAILURES_ARN = {"Fn::GetAtt": ["FailuresQueue", "Arn"]}
FULL_TARGET = {
    "Arn": QUEUE_ARN,
    "DeadLetterConfig": {"Arn": FAILURES_ARN},
    "RetryPolicy": {"MaximumRetryAttempts": 5, "MaximumEventAgeInSeconds": 600},
}
PUT_EVENTS = {"Effect": "Allow", "Action": "events:PutEvents", "Resource": {"Fn::GetAtt": ["OrdersBus", "Arn"]}}
A_STATEMENT = {"Effect": "Allow", "Action": "dynamodb:GetItem", "Resource": {"Fn::GetAtt": ["OrdersTable", "Arn"]}}
A_TASK: dict[str, Any] = {"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "Arguments": {}, "End": True}


def statements(function: str) -> tuple[str | int, ...]:
    return (function, "Properties", "Policies", 0, "Statement")


# Each: the rule, the resource that it must name, and what somebody did to the template.
BREACHES: list[tuple[Rule, str, Mutation]] = [
    (
        rules.rule_targets_have_a_dead_letter_queue,
        "OrderWorkRule",
        drop("OrderWorkRule", "Properties", "Targets", 0, "DeadLetterConfig"),
    ),
    (rules.rule_targets_have_a_dead_letter_queue, "NewRule", put(a_rule({"Arn": QUEUE_ARN}), "NewRule")),
    (
        rules.rule_targets_have_a_dead_letter_queue,
        "NewRule",
        put(a_rule(FULL_TARGET | {"DeadLetterConfig": {"Arn": QUEUE_ARN}}), "NewRule"),
    ),
    (
        rules.rule_targets_retry,
        "OrderEventsRule",
        drop("OrderEventsRule", "Properties", "Targets", 0, "RetryPolicy"),
    ),
    (
        rules.rule_targets_retry,
        "OrderFulfilledRule",
        put(0, "OrderFulfilledRule", "Properties", "Targets", 0, "RetryPolicy", "MaximumRetryAttempts"),
    ),
    (rules.eventbridge_may_write_to_dead_letter_queues, "NewRule", put(a_rule(FULL_TARGET), "NewRule")),
    (rules.eventbridge_may_write_to_dead_letter_queues, "OrderWorkRule", drop("FailuresQueuePolicy")),
    (rules.eventbridge_may_reach_its_targets, "NewRule", put(a_rule(FULL_TARGET), "NewRule")),
    (rules.eventbridge_may_reach_its_targets, "OrderEventsRule", drop("NotificationsQueuePolicy")),
    (rules.eventbridge_may_reach_its_targets, "OrderFulfilledRule", drop("OrderFulfilledRulePermission")),
    (
        rules.eventbridge_may_reach_its_targets,
        "OrderWorkRule",
        drop("OrderWorkRuleRole", "Properties", "Policies", 0),
    ),
    *(
        (rules.schedules_can_fail, "SweepSchedule", drop("SweepSchedule", "Properties", "Target", setting))
        for setting in ("RetryPolicy", "DeadLetterConfig", "RoleArn")
    ),
    (
        rules.asynchronous_functions_have_an_on_failure_destination,
        "SweepOrdersFunction: called by SweepSchedule",
        drop("SweepOrdersFunction", "Properties", "EventInvokeConfig"),
    ),
    (rules.queues_redrive, "FulfilmentQueue", drop("FulfilmentQueue", "Properties", "RedrivePolicy")),
    (rules.queues_redrive, "NewQueue", put({"Type": "AWS::SQS::Queue", "Properties": {}}, "NewQueue")),
    (
        rules.queues_redrive,
        "FulfilmentQueue",
        put(1, "FulfilmentQueue", "Properties", "RedrivePolicy", "maxReceiveCount"),
    ),
    (
        rules.queues_redrive,
        "FailuresDeadLetterQueue",
        put(
            {"deadLetterTargetArn": FAILURES_ARN, "maxReceiveCount": 5},
            "FailuresDeadLetterQueue",
            "Properties",
            "RedrivePolicy",
        ),
    ),
    (
        rules.consumers_know_when_a_message_comes_for_the_last_time,
        "FulfilmentQueue",
        put(7, "FulfilmentQueue", "Properties", "RedrivePolicy", "maxReceiveCount"),
    ),
    (
        rules.dead_letter_queues_keep_longest,
        "FailuresQueue",
        drop("FailuresQueue", "Properties", "MessageRetentionPeriod"),
    ),
    (rules.last_queues_are_watched, "FailuresDeadLetterQueue", drop("FailureNotCapturedAlarm")),
    (rules.last_queues_are_watched, "NewQueue", put({"Type": "AWS::SQS::Queue", "Properties": {}}, "NewQueue")),
    (
        rules.consumers_finish_within_the_visibility_timeout,
        "FulfilmentQueue",
        put(31, "ShipOrderFunction", "Properties", "Timeout"),
    ),
    (
        rules.consumers_finish_within_the_visibility_timeout,
        "NotificationsQueue",
        drop("NotificationsQueue", "Properties", "VisibilityTimeout"),
    ),
    (
        rules.queue_consumers_fail_message_by_message,
        "ShipOrderFunctionFulfilment",
        drop("ShipOrderFunction", "Properties", "Events", "Fulfilment", "Properties", "FunctionResponseTypes"),
    ),
    (
        rules.queue_consumers_fail_message_by_message,
        "NotifyCustomerFunctionNotifications",
        drop("NotifyCustomerFunction", "Properties", "Events", "Notifications", "Properties", "ScalingConfig"),
    ),
    *(
        (
            rules.streams_cannot_be_blocked,
            "PublishEventsFunctionOrdersStream",
            drop("PublishEventsFunction", "Properties", "Events", "OrdersStream", "Properties", setting),
        )
        for setting in (
            "FunctionResponseTypes",
            "BisectBatchOnFunctionError",
            "MaximumRecordAgeInSeconds",
            "DestinationConfig",
        )
    ),
    (
        rules.streams_cannot_be_blocked,
        "PublishEventsFunctionOrdersStream",
        put(
            100,
            *("PublishEventsFunction", "Properties", "Events", "OrdersStream", "Properties", "MaximumRetryAttempts"),
        ),
    ),
    (
        rules.asynchronous_functions_have_an_on_failure_destination,
        "IssueReceiptFunction",
        drop("IssueReceiptFunction", "Properties", "EventInvokeConfig"),
    ),
    (
        rules.asynchronous_functions_have_an_on_failure_destination,
        "AcceptOrderFunction",
        put(a_rule(FULL_TARGET | {"Arn": {"Fn::GetAtt": ["AcceptOrderFunction", "Arn"]}}), "NewRule"),
    ),
    (
        rules.functions_may_write_to_their_destinations,
        "NewFunctionEventInvokeConfig",
        put(
            a_function(
                Role={"Fn::GetAtt": ["OrderWorkRuleRole", "Arn"]},
                EventInvokeConfig={"DestinationConfig": {"OnFailure": {"Type": "SQS", "Destination": FAILURES_ARN}}},
            ),
            "NewFunction",
        ),
    ),
    (
        rules.functions_and_workflows_have_their_own_role,
        "NewFunction",
        put(a_function(Role={"Fn::GetAtt": ["AcceptOrderFunctionRole", "Arn"]}), "NewFunction"),
    ),
    (
        rules.functions_and_workflows_have_their_own_role,
        "NewFunction",
        put(a_function(Role="arn:aws:iam::123456789012:role/admin"), "NewFunction"),
    ),
    (
        rules.policies_name_their_actions_and_resources,
        "AcceptOrderFunctionRole",
        put(A_STATEMENT | {"Action": "dynamodb:*"}, *statements("AcceptOrderFunction"), "+"),
    ),
    (
        rules.policies_name_their_actions_and_resources,
        "ShipOrderFunctionRole",
        put(A_STATEMENT | {"Resource": "*"}, *statements("ShipOrderFunction"), "+"),
    ),
    (
        rules.policies_name_their_actions_and_resources,
        "NewFunctionRole",
        put(a_function(Policies=["AmazonDynamoDBFullAccess"]), "NewFunction"),
    ),
    (
        rules.only_the_outbox_publishes,
        "AcceptOrderFunctionRole",
        put(PUT_EVENTS, *statements("AcceptOrderFunction"), "+"),
    ),
    (
        rules.only_the_outbox_publishes,
        "OrderExpressWorkflowRole",
        put(PUT_EVENTS, *statements("OrderExpressWorkflow"), "+"),
    ),
    (
        rules.only_the_outbox_publishes,
        "PublishEventsFunctionRole",
        put(A_STATEMENT | {"Action": "dynamodb:UpdateItem"}, *statements("PublishEventsFunction"), "+"),
    ),
    (rules.log_groups_expire, "ShipOrderLogs", drop("ShipOrderLogs", "Properties", "RetentionInDays")),
    (rules.log_groups_expire, "NewLogs", put({"Type": "AWS::Logs::LogGroup"}, "NewLogs")),
    (
        rules.functions_and_workflows_log_to_their_own_group,
        "ShipOrderFunction",
        drop("ShipOrderFunction", "Properties", "LoggingConfig"),
    ),
    (rules.functions_and_workflows_log_to_their_own_group, "NewFunction", put(a_function(), "NewFunction")),
    (rules.functions_are_traced, "NewFunction", put(a_function(Tracing="PassThrough"), "NewFunction")),
    (rules.functions_are_traced, "OrderExpressWorkflow", drop("OrderExpressWorkflow", "Properties", "Tracing")),
    (
        rules.handlers_and_functions_match,
        "SweepOrdersFunction: the environment lacks STATE_MACHINE_ARN",
        drop("SweepOrdersFunction", "Properties", "Environment"),
    ),
    (
        rules.handlers_and_functions_match,
        "NewFunction",
        put(a_function(Handler="orders.functions.new.handler"), "NewFunction"),
    ),
    (rules.handlers_and_functions_match, "ship_order", drop("ShipOrderFunction")),
    (
        rules.api_paths_need_a_token,
        "Api: GET /orders is open",
        put(
            {"Authorizer": "NONE"},
            *("QueryOrdersFunction", "Properties", "Events", "ListOrders", "Properties", "Auth"),
        ),
    ),
    (rules.apis_are_throttled, "Apiv1Stage", drop("Api", "Properties", "MethodSettings")),
    (
        rules.api_functions_answer_before_the_gateway_gives_up,
        "QueryOrdersFunction",
        put(60, "QueryOrdersFunction", "Properties", "Timeout"),
    ),
    (rules.tables_are_safe, "PaymentsTable", drop("PaymentsTable", "Properties", "BillingMode")),
    (rules.tables_are_safe, "PaymentsTable", drop("PaymentsTable", "Properties", "PointInTimeRecoverySpecification")),
    (
        rules.data_ages_or_is_kept,
        "NewTable",
        put({"Type": "AWS::DynamoDB::Table", "Properties": {}}, "NewTable"),
    ),
    (
        rules.data_ages_or_is_kept,
        "IdempotencyTable",
        drop("IdempotencyTable", "Properties", "TimeToLiveSpecification"),
    ),
    (rules.data_ages_or_is_kept, "OrdersTable", drop("OrdersTable", "DeletionPolicy")),
    (rules.data_ages_or_is_kept, "UserPool", put("Delete", "UserPool", "UpdateReplacePolicy")),
    (
        rules.buckets_are_private_and_encrypted,
        "ReceiptsBucket",
        drop("ReceiptsBucket", "Properties", "PublicAccessBlockConfiguration"),
    ),
    (
        rules.buckets_are_private_and_encrypted,
        "NewBucket",
        put({"Type": "AWS::S3::Bucket", "Properties": {}}, "NewBucket"),
    ),
    (
        rules.queues_are_encrypted,
        "NotificationsQueue",
        drop("NotificationsQueue", "Properties", "SqsManagedSseEnabled"),
    ),
    (
        rules.alarms_reach_somebody,
        "FailureNotCapturedAlarm",
        drop("FailureNotCapturedAlarm", "Properties", "AlarmActions"),
    ),
    (
        rules.without_healing_every_failure_pages,
        "FailureCapturedAlarm",
        put([{"Ref": "TicketTopic"}], "FailureCapturedAlarm", "Properties", "AlarmActions"),
    ),
    (
        rules.without_healing_every_failure_pages,
        "HumanNeededAlarm",
        put([{"Ref": "TicketTopic"}], "HumanNeededAlarm", "Properties", "AlarmActions"),
    ),
    (rules.without_healing_every_failure_pages, "HealingMissingAlarm", drop("HealingMissingAlarm", "Condition")),
    (rules.without_healing_every_failure_pages, "HealSchedule", drop("HealSchedule", "Properties", "State")),
    (rules.alarms_reach_somebody, "AlarmTopic", put({"KmsMasterKeyId": "alias/aws/sns"}, "AlarmTopic", "Properties")),
    (rules.the_local_cloud_is_spared_what_it_refuses, "OrdersArchive", drop("OrdersArchive", "Condition")),
    (
        rules.the_local_cloud_is_spared_what_it_refuses,
        "NewAlarm",
        put({"Type": "AWS::CloudWatch::Alarm", "Properties": {"Metrics": []}}, "NewAlarm"),
    ),
    (
        rules.the_local_cloud_is_spared_what_it_refuses,
        "NewQuery",
        put({"Type": "AWS::Logs::QueryDefinition", "Properties": {}}, "NewQuery"),
    ),
    (
        rules.nothing_local_reaches_aws,
        "AcceptOrderFunction",
        put(
            {"Variables": {"AWS_ENDPOINT_URL": "http://localhost:4566"}},
            *("AcceptOrderFunction", "Properties", "Environment"),
        ),
    ),
    (
        rules.deletion_policies_are_plain,
        "OrdersTable",
        put({"Fn::If": ["IsAws", "Retain", "Delete"]}, "OrdersTable", "DeletionPolicy"),
    ),
    (
        rules.functions_may_do_to_orders_what_they_do,
        "CancelShipmentFunction: calls start_failing",
        put("orders.functions.validate_order.handler", "CancelShipmentFunction", "Properties", "Handler"),
    ),
    (
        rules.readers_of_payloads_are_told_what_is_missing,
        "AcceptOrderFunctionRole",
        put(
            {
                "Effect": "Allow",
                "Action": "s3:GetObject",
                "Resource": {"Fn::Sub": "${FailedPayloadsBucket.Arn}/payloads/*"},
            },
            *(*statements("AcceptOrderFunction"), "+"),
        ),
    ),
    # ---- the workflow
    (workflow_rules.tasks_time_out, "FulfillOrder", in_state("FulfillOrder", TimeoutSeconds=None)),
    (workflow_rules.tasks_time_out, "New", in_state("New", **A_TASK)),
    (workflow_rules.tasks_retry, "ProcessPayment", in_state("ProcessPayment", Retry=None)),
    (workflow_rules.tasks_retry, "New", in_state("New", **A_TASK)),
    (
        workflow_rules.tasks_retry,
        "RefundPayment",
        in_state("RefundPayment", Retry=[{"ErrorEquals": ["States.ALL"], "MaxAttempts": 3}]),
    ),
    (workflow_rules.tasks_catch_everything, "ReleaseInventory", in_state("ReleaseInventory", Catch=None)),
    (
        workflow_rules.tasks_catch_everything,
        "ProcessPayment",
        in_state("ProcessPayment", Catch=[{"ErrorEquals": ["PaymentError"], "Next": "ReleaseInventory"}]),
    ),
    (
        workflow_rules.tasks_catch_everything,
        "OrderFailed",
        in_state("OrderFailed", Catch=[{"ErrorEquals": ["States.ALL"], "Next": "NothingToDo"}]),
    ),
    (
        workflow_rules.business_errors_are_not_retried,
        "ProcessPayment",
        in_state(
            "ProcessPayment", Retry=[{"ErrorEquals": ["States.ALL"], "MaxAttempts": 3, "JitterStrategy": "FULL"}]
        ),
    ),
    (workflow_rules.states_lead_somewhere, "FulfillOrder", in_state("FulfillOrder", Next="Party")),
    (workflow_rules.states_lead_somewhere, "New", in_state("New", Type="Succeed")),
    (
        workflow_rules.business_errors_are_not_retried,
        "ReleaseInventory",
        in_state("ReleaseInventory", Retry=[{"ErrorEquals": ["States.ALL"], "MaxAttempts": 8}]),
    ),
    (
        workflow_rules.tasks_catch_everything,
        "RefundPayment",
        in_state("DoesSomebodyElseWorkOnIt", Default="NothingToDo"),
    ),
    (workflow_rules.states_lead_somewhere, "ReleaseRefused", in_state("ReleaseRefused", Default=None)),
    (
        workflow_rules.substitutions_are_filled,
        "CatalogueTable",
        drop("OrderExpressWorkflow", "Properties", "DefinitionSubstitutions", "CatalogueTable"),
    ),
    (
        workflow_rules.the_workflow_may_do_what_it_does_and_no_more,
        "ProcessPayment",
        drop(*statements("OrderExpressWorkflow"), 0),
    ),
    (
        workflow_rules.the_workflow_may_do_what_it_does_and_no_more,
        "OrderExpressWorkflowRole",
        put(A_STATEMENT | {"Action": "dynamodb:DeleteItem"}, *statements("OrderExpressWorkflow"), "+"),
    ),
    (
        workflow_rules.states_outwait_their_functions,
        "ProcessPayment",
        put(30, "ProcessPaymentFunction", "Properties", "Timeout"),
    ),
    (
        workflow_rules.nothing_takes_longer_than_an_express_workflow,
        "OrderExpressWorkflow: ReportStuck may end",
        in_state("FulfillOrder", TimeoutSeconds=60),
    ),
    (
        workflow_rules.nothing_takes_longer_than_an_express_workflow,
        "ReportStuck: may take 67 s",
        in_state("ReportStuck", TimeoutSeconds=15),
    ),
    (
        workflow_rules.nothing_takes_longer_than_an_express_workflow,
        "nothing ends this loop",
        in_state("ReleaseRefused", Choices=[]),
    ),
    (
        workflow_rules.nothing_takes_longer_than_an_express_workflow,
        "FulfillOrder: an Express workflow refuses",
        in_state("FulfillOrder", Resource="arn:aws:states:::sqs:sendMessage.waitForTaskToken"),
    ),
    (
        workflow_rules.nothing_takes_longer_than_an_express_workflow,
        "OrderExpressWorkflow: is not",
        put("STANDARD", "OrderExpressWorkflow", "Properties", "Type"),
    ),
    (
        workflow_rules.failed_executions_report_themselves,
        "ReportStuck: fails the execution without",
        in_state("ReportStuck", Arguments={"QueueUrl": "${FailuresQueueUrl}", "MessageBody": {"kind": "Stuck"}}),
    ),
    (
        workflow_rules.failed_executions_report_themselves,
        "DoesSomebodyElseWorkOnIt: fails the execution without",
        in_state("DoesSomebodyElseWorkOnIt", Default="OrderStuck"),
    ),
    (
        workflow_rules.transitions_are_legal,
        "ReleaseInventory",
        in_text("ReleaseInventory", "TransactItems", "':to': {'S': 'FAILED'}", "':to': {'S': 'PLACED'}"),
    ),
    (
        workflow_rules.transitions_are_legal,
        "OrderFailed",
        in_state("OrderFailed", Arguments={"UpdateExpression": "SET #status = :failed", "ConditionExpression": ""}),
    ),
    (
        workflow_rules.status_writes_are_complete,
        "ReleaseInventory: openShard",
        in_text("ReleaseInventory", "TransactItems", "REMOVE openShard", ""),
    ),
    (
        workflow_rules.status_writes_are_complete,
        "OrderFailed: does not set version",
        in_text("OrderFailed", "UpdateExpression", "version = version + :one, ", ""),
    ),
]


@pytest.mark.parametrize(
    ("rule", "breach", "mutate"), BREACHES, ids=[f"{rule.__name__}-{named}" for rule, named, _ in BREACHES]
)
def test_a_breach_is_reported_by_name(rule: Rule, breach: str, mutate: Mutation) -> None:
    # GIVEN a template in which somebody broke the rule
    raw, workflow = load_raw(), load_workflow()
    mutate(raw["Resources"], workflow["States"])

    # WHEN it is checked
    found = list(rule(Template(raw, workflow)))

    # THEN the resource is named
    assert any(breach in sentence for sentence in found), found


def test_every_rule_is_shown_to_bite() -> None:
    assert {rule.__name__ for rule in RULES} == {rule.__name__ for rule, _, _ in BREACHES}
