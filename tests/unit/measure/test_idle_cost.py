"""What a stack costs in a month without any order."""

from __future__ import annotations

import pytest

from measure import cost, template

# Due with use alone: a resource of these types costs nothing while nothing happens.
BY_USE = {
    *("AWS::Cognito::UserPool", "AWS::Cognito::UserPoolClient"),
    *("AWS::DynamoDB::Table", "AWS::S3::Bucket", "AWS::SQS::Queue", "AWS::SQS::QueuePolicy"),
    *("AWS::Events::Archive", "AWS::Events::EventBus", "AWS::Events::Rule"),
    *("AWS::IAM::Role", "AWS::Lambda::Permission", "AWS::Logs::LogGroup"),
    *("AWS::SNS::Subscription", "AWS::SNS::Topic"),
    *("AWS::Serverless::Api", "AWS::Serverless::Function", "AWS::Serverless::StateMachine"),
    "AWS::Budgets::Budget",  # an account's first two are free, and more have no actions, which alone are billed
}
# Counted by fixed_monthly.
COUNTED = {"AWS::CloudWatch::Alarm", "AWS::Scheduler::Schedule"}


def test_a_stack_without_orders_costs_less_than_six_dollars_a_month() -> None:
    fixed = cost.fixed_monthly(cost.load_prices(), cost.Assumptions())
    assert sum(fixed.values()) < 6, fixed


def test_each_type_of_resource_is_known_to_cost_nothing_at_rest_or_is_counted() -> None:
    types = {resource["Type"] for resource in template.template()["Resources"].values()}
    assert not types - BY_USE - COUNTED, "say what these cost while nothing happens, in fixed_monthly or here"


def test_only_metrics_of_each_run_are_due_without_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    assert template.idle_metrics() == {"FailuresForHumans", "OrdersRestarted"}
    monkeypatch.setattr(template, "runs_a_month", lambda: {"AcceptOrderFunction": 1})
    assert template.idle_metrics() == {"OrderReplayed"}
