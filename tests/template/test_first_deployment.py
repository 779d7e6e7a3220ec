"""What a first deployment to an account would meet, and what no later deployment could mend."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.template.cloudformation import ROOT, Template, fixed_at_creation, load_raw, load_workflow, logical_id


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


# ---- A published version is what its function is

# Lambda publishes nothing, and the deployment fails, if only other properties than these have changed.
KEPT_IN_A_VERSION = {
    *("Architectures", "Code", "Environment", "Handler", "LoggingConfig", "MemorySize", "Role", "Runtime"),
    *("SnapStart", "Timeout", "TracingConfig"),
}
SAM_TAGS = [{"Key": "lambda:createdBy", "Value": "SAM"}]


def versions(template: Template) -> dict[str, str]:
    """The logical id of each published version's function, and that of the version."""
    return {str(logical_id(version["FunctionName"])): name for name, version in template.of_type("Lambda::Version")}


def published(**parameters: str) -> dict[str, Any]:
    """Each published version as CloudFormation compares it: by logical id and resolved description."""
    raw = load_raw()
    for name, value in parameters.items():
        raw["Parameters"][name]["Default"] = value
    template = Template(raw, load_workflow())
    values = {name: str(parameter.get("Default", "")) for name, parameter in raw["Parameters"].items()}
    return {
        function: (
            version,
            re.sub(
                r"\$\{(\w+)\}",
                lambda found: values[found[1]],
                template.properties(version)["Description"]["Fn::Sub"],
            ),
        )
        for function, version in versions(template).items()
    }


def test_the_apis_functions_are_called_by_an_alias(template: Template) -> None:
    assert set(versions(template)) == {"AcceptOrderFunction", "QueryOrdersFunction"}
    for name, permission in template.of_type("Lambda::Permission"):
        if permission["Principal"] == "apigateway.amazonaws.com":
            assert template.type_of(logical_id(permission["FunctionName"])) == "Lambda::Alias", name


def test_a_version_is_published_anew_when_a_parameter_changes(template: Template) -> None:
    for function in versions(template):
        text = json.dumps(template.properties(function))
        named = set(re.findall(r'"Ref": "(\w+)"|\$\{(\w+)\}', text))
        used = {name for pair in named for name in pair if name in template.raw["Parameters"]}
        for condition in re.findall(r'"Fn::If": \["(\w+)"', text):
            used |= set(re.findall(r'"Ref": "(\w+)"', json.dumps(template.raw["Conditions"][condition])))
        assert used
        for parameter in sorted(used):
            allowed = template.raw["Parameters"][parameter]["AllowedValues"]
            other = next(value for value in allowed if value != template.raw["Parameters"][parameter]["Default"])
            # THEN CloudFormation sees another version: a new logical id, or a description that makes it replace
            assert published(**{parameter: other})[function] != published()[function], (
                f"{function}: a changed {parameter} would not reach it; name the parameter in VersionDescription"
            )


def test_a_version_is_published_anew_when_a_property_changes(template: Template) -> None:
    for function in versions(template):
        raw = load_raw()
        raw["Resources"][function]["Properties"]["Timeout"] = 11
        assert versions(Template(raw, load_workflow()))[function] != versions(template)[function]


def test_a_published_function_has_no_property_that_a_version_does_not_keep(template: Template) -> None:
    for function in versions(template):
        properties = template.properties(function)
        assert set(properties) - KEPT_IN_A_VERSION == {"Tags"}, function
        assert properties["Tags"] == SAM_TAGS


def test_cloudformation_replaces_a_version_whose_description_changes() -> None:
    assert "/properties/Description" in fixed_at_creation("AWS::Lambda::Version")


def test_old_versions_and_their_snapshots_are_deleted(template: Template) -> None:
    for version in versions(template).values():
        resource = template.resources[version]
        assert resource["DeletionPolicy"] == "Delete"
        assert resource.get("UpdateReplacePolicy", "Delete") == "Delete"


def test_a_versions_description_fits(template: Template) -> None:
    longest = {
        name: max(map(str, parameter.get("AllowedValues", [""])), key=len)
        for name, parameter in template.raw["Parameters"].items()
    }
    assert all(len(description) <= 256 for _, description in published(**longest).values())


# ---- What nobody else would report has an alarm


def watched(template: Template, metric: str) -> set[str]:
    """What the alarms on a metric of AWS watch: the resources, or pseudo parameters, of their dimensions."""
    return {
        name
        for _, alarm in template.of_type("CloudWatch::Alarm")
        for name in re.findall(r'"(?:Ref|Fn::GetAtt)": \[?"([\w:]+)"', json.dumps(alarm.get("Dimensions", [])))
        if alarm["MetricName"] == metric
    }


def test_the_front_door_is_watched(template: Template) -> None:
    for metric in ("5XXError", "Latency"):
        assert watched(template, metric) == {"AWS::StackName"}, metric
    (api,) = [properties for _, properties in template.of_type("ApiGateway::RestApi")]
    assert api["Body"]["info"]["title"] == {"Ref": "AWS::StackName"}  # the API's name, which its metrics bear
    for metric in ("Errors", "Throttles"):
        assert "AcceptOrderFunction" in watched(template, metric), metric


def test_each_failure_that_reaches_no_dead_letter_queue_is_watched(template: Template) -> None:
    rules = {name for name, _ in template.rule_targets()}
    assert watched(template, "InvocationsFailedToBeSentToDlq") == rules | {"OrdersBus"}
    scheduled = {logical_id(schedule["Target"]["Arn"]) for _, schedule in template.of_type("Scheduler::Schedule")}
    with_destination = {
        logical_id(properties["FunctionName"])
        for kind in ("Lambda::EventInvokeConfig", "Lambda::EventSourceMapping")
        for _, properties in template.of_type(kind)
        if "DestinationConfig" in properties
    }
    # A scheduled function that fails is missed by its own alarm.
    assert watched(template, "DestinationDeliveryFailures") == with_destination - scheduled


def test_each_alarm_has_a_line_in_the_operators_page(template: Template) -> None:
    page = (ROOT / "docs/operations.md").read_text()
    for name, _ in template.of_type("CloudWatch::Alarm"):
        assert re.search(rf"^\| `{name}` \| .+ \| .+ \|$", page, re.MULTILINE), f"{name}: what is to be done?"


def test_a_budget_mails_somebody(template: Template) -> None:
    assert not template.exists("Budget")
    assert template.exists("Budget", MonthlyBudget="20")
    budget = template.properties("Budget")
    kinds = {each["Notification"]["NotificationType"] for each in budget["NotificationsWithSubscribers"]}
    assert kinds == {"ACTUAL", "FORECASTED"}
    for each in budget["NotificationsWithSubscribers"]:
        assert each["Subscribers"] == [{"SubscriptionType": "EMAIL", "Address": {"Ref": "AlarmEmail"}}]
    (rule,) = template.transformed["Rules"]["BudgetsTellSomebody"]["Assertions"]
    assert rule["Assert"] == {"Fn::Not": [{"Fn::Equals": [{"Ref": "AlarmEmail"}, ""]}]}


def test_each_parameter_has_a_line_in_the_page_of_deployments(template: Template) -> None:
    page = (ROOT / "docs/deploying.md").read_text()
    first_cells = " ".join(re.findall(r"^\| ([^|]+) \|", page, re.MULTILINE))
    assert [name for name in template.raw["Parameters"] if f"`{name}`" not in first_cells] == []
