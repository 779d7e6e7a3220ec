"""What a first deployment to an account would meet, and what no later deployment could mend."""

from __future__ import annotations

import json
import re

import pytest

from tests.template.cloudformation import Template, load_raw, load_workflow


@pytest.fixture(scope="module")
def template() -> Template:
    return Template(load_raw(), load_workflow())


# ---- One stage


def test_the_api_has_one_stage(template: Template) -> None:
    # SAM names a stage in the deployment unless OpenApiVersion is set: a second, public one without throttling.
    assert [properties["StageName"] for _, properties in template.of_type("ApiGateway::Stage")] == ["v1"]
    deployments = [properties for _, properties in template.of_type("ApiGateway::Deployment")]
    assert deployments
    assert not any("StageName" in properties for properties in deployments)


# ---- Reserved concurrency


def test_no_function_reserves_concurrency_by_default(template: Template) -> None:
    """Lambda keeps 100 executions unreserved and a new account has 10 or 50, so any reservation fails there."""
    for name, function in template.of_type("Lambda::Function"):
        match function.get("ReservedConcurrentExecutions", {"Ref": "AWS::NoValue"}):
            case {"Ref": "AWS::NoValue"}:
                continue
            case {"Fn::If": [condition, {"Ref": parameter}, {"Ref": "AWS::NoValue"}]}:
                assert template.raw["Conditions"][condition] == {
                    "Fn::Not": [{"Fn::Equals": [{"Ref": parameter}, ""]}]
                }, f"{name}: {condition} doesn't ask whether {parameter} is empty"
                assert template.raw["Parameters"][parameter]["Default"] == "", f"{name}: {parameter} has a default"
            case reserved:
                pytest.fail(f"{name}: reserves {reserved}, which a new account refuses")


# ---- Two stacks in one account and region


def test_each_stack_has_its_own_metrics(template: Template) -> None:
    own = {"Fn::Sub": "OrderPipeline/${AWS::StackName}"}
    for name, function in template.of_type("Lambda::Function"):
        assert function["Environment"]["Variables"]["POWERTOOLS_METRICS_NAMESPACE"] == own, name
    for name, alarm in template.of_type("CloudWatch::Alarm"):
        if not str(alarm["Namespace"]).startswith("AWS/"):
            assert alarm["Namespace"] == own, f"{name}: other stacks' metrics ring this alarm"


def test_each_alarm_watches_its_own_stack(template: Template) -> None:
    for name, alarm in template.of_type("CloudWatch::Alarm"):
        if alarm["Namespace"] == {"Fn::Sub": "OrderPipeline/${AWS::StackName}"}:
            continue
        values = [dimension["Value"] for dimension in alarm.get("Dimensions", [])]
        assert values, f"{name}: watches the whole account"
        for value in values:
            named = set(re.findall(r'"(?:Ref|Fn::GetAtt)": \[?"([\w:]+)"', json.dumps(value)))
            assert named & {*template.resources, "AWS::StackName"}, f"{name}: {value} is the same in each stack"


# Names within another resource, such as an API's stage or a table's index, need no stack's name.
NAMES = {
    "AWS::ApiGateway::RestApi": "Name",
    "AWS::CloudWatch::Alarm": "AlarmName",
    "AWS::CloudWatch::Dashboard": "DashboardName",
    "AWS::Cognito::UserPool": "UserPoolName",
    "AWS::DynamoDB::Table": "TableName",
    "AWS::Events::Archive": "ArchiveName",
    "AWS::Events::EventBus": "Name",
    "AWS::Events::Rule": "Name",
    "AWS::IAM::Role": "RoleName",
    "AWS::Lambda::Function": "FunctionName",
    "AWS::Logs::LogGroup": "LogGroupName",
    "AWS::S3::Bucket": "BucketName",
    "AWS::SNS::Topic": "TopicName",
    "AWS::SQS::Queue": "QueueName",
    "AWS::Scheduler::Schedule": "Name",
    "AWS::StepFunctions::StateMachine": "StateMachineName",
}


def test_each_name_holds_the_stacks_name(template: Template) -> None:
    for name, resource in template.resources.items():
        given = resource.get("Properties", {}).get(NAMES.get(resource["Type"], ""))
        assert given is None or "AWS::StackName" in json.dumps(given), f"{name}: a second stack can't use {given}"
    for name, output in template.raw["Outputs"].items():
        export = output.get("Export")
        assert export is None or "AWS::StackName" in json.dumps(export), f"{name}: exports a name for all stacks"


# ---- Sign-up and alarms reach somebody


def test_customers_sign_up_only_where_an_identity_sends_the_codes(template: Template) -> None:
    # Cognito's own sender stops after about 50 mails a day.
    pool = template.properties("UserPool")
    assert template.raw["Parameters"]["SignUpIdentity"]["Default"] == ""
    assert template.raw["Conditions"]["CustomersSignUp"] == {
        "Fn::Not": [{"Fn::Equals": [{"Ref": "SignUpIdentity"}, ""]}]
    }
    assert pool["AdminCreateUserConfig"] == {"AllowAdminCreateUserOnly": {"Fn::If": ["CustomersSignUp", False, True]}}
    sender = {"EmailSendingAccount": "DEVELOPER", "SourceArn": {"Ref": "SignUpIdentity"}}
    assert pool["EmailConfiguration"] == {"Fn::If": ["CustomersSignUp", sender, {"Ref": "AWS::NoValue"}]}


def test_prod_is_refused_without_somebody_to_tell(template: Template) -> None:
    rule = template.transformed["Rules"]["ProdTellsSomebody"]
    assert rule["RuleCondition"] == {"Fn::Equals": [{"Ref": "Environment"}, "prod"]}
    assert [each["Assert"] for each in rule["Assertions"]] == [
        {"Fn::Not": [{"Fn::Equals": [{"Ref": "AlarmEmail"}, ""]}]}
    ]


# ---- Cheap while nothing happens


def test_nothing_is_paid_for_that_is_free_or_not_asked_for(template: Template) -> None:
    for name, table in template.of_type("DynamoDB::Table"):
        # DynamoDB encrypts with a key of its own for nothing; SSEEnabled chooses the key aws/dynamodb, billed by use.
        assert "SSESpecification" not in table, name
    for name, stage in template.of_type("ApiGateway::Stage"):
        # Five metrics for each method of each path.
        assert not any(setting.get("MetricsEnabled") for setting in stage["MethodSettings"]), name
    for name, pool in template.of_type("Cognito::UserPool"):
        assert pool["UserPoolTier"] == "LITE", f"{name}: a newer pool is ESSENTIALS unless told otherwise"
