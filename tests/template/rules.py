"""The rules that the template keeps. Each takes a template and yields a sentence, resource first, per breach.

They go over all resources, so that a new one that breaks a rule fails by its name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from orders.runtime.queues import MAX_RECEIVES
from tests.template.cloudformation import ROOT, Template, as_list, logical_id

Rule = Callable[[Template], Iterator[str]]
RULES: list[Rule] = []

# The end of the line: what is in here is for a person, who is told by an alarm.
LAST_QUEUES = {"FailuresDeadLetterQueue"}
# Each kind of data is decided upon: it ages, or it is kept for good and so survives the stack.
AGEING_TABLES = {"IdempotencyTable", "FailuresTable"}
KEPT_TABLES = {"OrdersTable", "CatalogueTable", "PaymentsTable", "ShipmentsTable"}
# SAM attaches these by itself: logs, traces, and reading the function's own event source.
MANAGED_POLICIES = {
    "AWSLambdaBasicExecutionRole",
    "AWSLambdaDynamoDBExecutionRole",
    "AWSLambdaSQSQueueExecutionRole",
    "AWSXrayWriteOnlyAccess",
    "AWSXRayDaemonWriteAccess",
}
# Log delivery and X-Ray take no narrower resource: Service Authorization Reference, "CloudWatch Logs", "X-Ray".
ACTIONS_ON_ANY_RESOURCE = re.compile(
    r"logs:(\w+LogDelivery|ListLogDeliveries|\w*Resource\w+|DescribeLogGroups)|xray:\w+"
)
OPEN_PATHS = {("/openapi.json", "get"), ("/health", "get")}
# What the local cloud refuses to deploy unless a false condition hides it.
REFUSED_BY_LOCAL_CLOUD = re.compile(
    r"Events::(Archive|Connection|ApiDestination|EventBusPolicy)|EventSchemas::.*|Logs::QueryDefinition"
    r"|CloudWatch::(CompositeAlarm|AnomalyDetector|InsightRule)|Budgets::Budget|WAFv2::WebACLAssociation"
    r"|CodeDeploy::.*|ApplicationInsights::.*|ResourceGroups::Group|XRay::.*|AppSync::(Api|ChannelNamespace)"
    r"|StepFunctions::(StateMachineVersion|StateMachineAlias|Activity)|ApiGatewayV2::(Deployment|RouteResponse)"
    r"|(SQS::QueueInlinePolicy|SNS::TopicInlinePolicy)|SecretsManager::RotationSchedule"
    r"|ApplicationAutoScaling::.*|Synthetics::.*"
)
# The actions on the table itself that the methods of OrdersTable need; the others query an index.
ACTIONS_OF_METHODS = {
    "put_new": "dynamodb:PutItem",
    "get": "dynamodb:GetItem",
    "list_newest_first": "dynamodb:BatchGetItem",
    "ended": "dynamodb:BatchGetItem",
    "claim_restart": "dynamodb:UpdateItem",
    "note": "dynamodb:UpdateItem",
    "mark_paid": "dynamodb:UpdateItem",
    "start_failing": "dynamodb:UpdateItem",
    "cancel": "dynamodb:UpdateItem",
    "mark_fulfilled": "dynamodb:UpdateItem",
}
DAY_S = 24 * 3600


def rule(check: Rule) -> Rule:
    """Have a rule checked."""
    RULES.append(check)
    return check


# ---- Every hop has a place to fail into


@rule
def rule_targets_have_a_dead_letter_queue(template: Template) -> Iterator[str]:
    """An event that can't be delivered is kept, and elsewhere than where it couldn't be delivered to."""
    for name, target in template.rule_targets():
        queue = logical_id(target.get("DeadLetterConfig", {}).get("Arn"))
        if template.type_of(queue) != "SQS::Queue":
            yield f"{name}: target {target['Id']} has no dead-letter queue"
        elif queue == logical_id(target["Arn"]):
            yield f"{name}: the dead-letter queue of target {target['Id']} is the target itself"


@rule
def rule_targets_retry(template: Template) -> Iterator[str]:
    """Within EventBridge's own bounds (185 attempts, 24 hours), and written down."""
    for name, target in template.rule_targets():
        policy = target.get("RetryPolicy", {})
        if not 1 <= policy.get("MaximumRetryAttempts", 0) <= 185:
            yield f"{name}: target {target['Id']} does not retry"
        if not 60 <= policy.get("MaximumEventAgeInSeconds", 0) <= DAY_S:
            yield f"{name}: target {target['Id']} does not say how long it retries"


def _eventbridge_may_send(template: Template, queue: str | None, source: str) -> bool:
    """Whether a queue's policy lets EventBridge write to it on behalf of this rule, and only by name."""
    for _, policy in template.of_type("SQS::QueuePolicy"):
        if queue not in map(logical_id, policy["Queues"]):
            continue
        for statement in as_list(policy["PolicyDocument"]["Statement"]):
            condition = statement.get("Condition", {})
            sources = (condition.get("ArnEquals") or condition.get("ArnLike") or {}).get("aws:SourceArn", [])
            if (
                statement["Effect"] == "Allow"
                and "events.amazonaws.com" in as_list(statement["Principal"].get("Service"))
                and "sqs:SendMessage" in as_list(statement["Action"])
                and queue in map(logical_id, as_list(statement["Resource"]))
                and source in map(logical_id, as_list(sources))
            ):
                return True
    return False


@rule
def eventbridge_may_write_to_dead_letter_queues(template: Template) -> Iterator[str]:
    """Without the queue policy, what can't be delivered is lost without a trace."""
    for name, target in template.rule_targets():
        queue = logical_id(target.get("DeadLetterConfig", {}).get("Arn"))
        if queue and not _eventbridge_may_send(template, queue, name):
            yield f"{name}: no policy on {queue} lets EventBridge send there what {target['Id']} didn't take"


@rule
def eventbridge_may_reach_its_targets(template: Template) -> Iterator[str]:
    """A queue by its policy, a function by its permission, a workflow by the target's role."""
    for name, target in template.rule_targets():
        reached = logical_id(target["Arn"])
        match template.type_of(reached):
            case "SQS::Queue":
                allowed = _eventbridge_may_send(template, reached, name)
            case "Lambda::Function":
                allowed = any(
                    permission["Principal"] == "events.amazonaws.com"
                    and permission["Action"] == "lambda:InvokeFunction"
                    and logical_id(permission["FunctionName"]) == reached
                    and logical_id(permission.get("SourceArn")) == name
                    for _, permission in template.of_type("Lambda::Permission")
                )
            case "StepFunctions::StateMachine":
                role = logical_id(target.get("RoleArn"))
                allowed = template.allows(role, "states:StartExecution", reached)
            case _:
                allowed = False
        if not allowed:
            yield f"{name}: EventBridge may not call target {target['Id']}"


@rule
def schedules_can_fail(template: Template) -> Iterator[str]:
    """As rule targets can; the Scheduler does all of it under the schedule's role."""
    for name, schedule in template.of_type("Scheduler::Schedule"):
        target = schedule["Target"]
        queue, role = logical_id(target.get("DeadLetterConfig", {}).get("Arn")), logical_id(target.get("RoleArn"))
        if not target.get("RetryPolicy", {}).get("MaximumRetryAttempts"):
            yield f"{name}: does not retry"
        if not template.allows(role, "sqs:SendMessage", queue):
            yield f"{name}: no dead-letter queue that it may write to"
        if not template.allows(role, "lambda:InvokeFunction", logical_id(target["Arn"])):
            yield f"{name}: may not invoke its target"


@rule
def queues_redrive(template: Template) -> Iterator[str]:
    """After at least 5 tries (AWS's advice for a Lambda consumer), a message goes to a dead-letter queue."""
    for name, queue in template.of_type("SQS::Queue"):
        policy = queue.get("RedrivePolicy", {})
        if name in LAST_QUEUES:
            if policy:
                yield f"{name}: the last queue must keep what it has"
        elif template.type_of(logical_id(policy.get("deadLetterTargetArn"))) != "SQS::Queue":
            yield f"{name}: no dead-letter queue"
        elif not 5 <= policy.get("maxReceiveCount", 0) <= 1000:
            yield f"{name}: a message is given up after {policy.get('maxReceiveCount')} tries"


@rule
def consumers_know_when_a_message_comes_for_the_last_time(template: Template) -> Iterator[str]:
    """Then they hand it to the failure inbox with its error (orders/queues.py); SQS would move it without."""
    for name, mapping in template.mappings_of("SQS::Queue"):
        queue = logical_id(mapping["EventSourceArn"])
        tries = template.properties(queue).get("RedrivePolicy", {}).get("maxReceiveCount")
        if queue != "FailuresQueue" and tries != MAX_RECEIVES:
            yield f"{queue}: gives up after {tries} tries, its consumer after {MAX_RECEIVES} ({name})"


@rule
def dead_letter_queues_keep_longest(template: Template) -> Iterator[str]:
    """A message keeps its age when it is moved, so a dead-letter queue has to keep it longer than its source."""
    for name, queue in template.of_type("SQS::Queue"):
        dead_letters = logical_id(queue.get("RedrivePolicy", {}).get("deadLetterTargetArn"))
        kept = template.properties(dead_letters).get("MessageRetentionPeriod", 4 * DAY_S)
        if dead_letters and kept < 14 * DAY_S:
            yield f"{dead_letters}: keeps the dead letters of {name} for less than the 14 days that SQS allows"


@rule
def last_queues_are_watched(template: Template) -> Iterator[str]:
    """The first message in a queue that nobody reads rings an alarm."""
    watched = {
        logical_id(dimension["Value"])
        for _, alarm in template.of_type("CloudWatch::Alarm")
        for dimension in alarm.get("Dimensions", [])
        if alarm.get("MetricName") == "ApproximateNumberOfMessagesVisible" and alarm.get("Threshold") == 0
    }
    consumed = {logical_id(mapping["EventSourceArn"]) for _, mapping in template.mappings_of("SQS::Queue")}
    for name, _ in template.of_type("SQS::Queue"):
        if name not in consumed and name not in watched:
            yield f"{name}: nobody reads it and no alarm watches it"


@rule
def consumers_finish_within_the_visibility_timeout(template: Template) -> Iterator[str]:
    """Six times the function's time-out: the Lambda guide's figure, for retries of a throttled batch."""
    for name, mapping in template.mappings_of("SQS::Queue"):
        queue = logical_id(mapping["EventSourceArn"])
        consumer = logical_id(mapping["FunctionName"])
        visibility_s = template.properties(queue).get("VisibilityTimeout", 30)
        timeout_s = template.properties(consumer).get("Timeout", 3)
        if visibility_s < 6 * timeout_s:
            yield f"{queue}: visibility timeout {visibility_s} s, 6 times {consumer}'s are {6 * timeout_s} s ({name})"


@rule
def queue_consumers_fail_message_by_message(template: Template) -> Iterator[str]:
    """One bad message doesn't bring its batch back, and a flood doesn't take the account's whole concurrency."""
    for name, mapping in template.mappings_of("SQS::Queue"):
        if mapping.get("FunctionResponseTypes") != ["ReportBatchItemFailures"]:
            yield f"{name}: does not report partial batch failures"
        if "MaximumConcurrency" not in mapping.get("ScalingConfig", {}):
            yield f"{name}: no maximum concurrency"


@rule
def streams_cannot_be_blocked(template: Template) -> Iterator[str]:
    """A poison record is isolated, given up after a time, and put somewhere; no number of tries ends sooner.

    A failing batch is tried again within seconds: any number of tries would be used up by an outage of minutes.
    """
    for name, mapping in template.of_type("Lambda::EventSourceMapping"):
        if template.type_of(logical_id(mapping["EventSourceArn"])) not in {"DynamoDB::Table", "Kinesis::Stream"}:
            continue
        if mapping.get("FunctionResponseTypes") != ["ReportBatchItemFailures"]:
            yield f"{name}: does not report partial batch failures"
        if mapping.get("BisectBatchOnFunctionError") is not True:
            yield f"{name}: does not bisect a failing batch"
        if mapping.get("MaximumRetryAttempts", -1) != -1:
            yield f"{name}: gives up by number, before the age that the runbook promises"
        if not 60 <= mapping.get("MaximumRecordAgeInSeconds", -1) < DAY_S:
            yield f"{name}: a record is not given up before the stream forgets it"
        if not template.type_of(_on_failure(mapping)):
            yield f"{name}: no on-failure destination"


def _on_failure(properties: dict[str, Any]) -> str | None:
    return logical_id(properties.get("DestinationConfig", {}).get("OnFailure", {}).get("Destination"))


def _asynchronous_functions(template: Template) -> Iterator[tuple[str, str]]:
    """Each function that EventBridge, its Scheduler, SNS or S3 calls, and by which resource."""
    for name, schedule in template.of_type("Scheduler::Schedule"):
        function = logical_id(schedule["Target"]["Arn"])
        if function and template.type_of(function) == "Lambda::Function":
            yield function, name
    for name, target in template.rule_targets():
        function = logical_id(target["Arn"])
        if function and template.type_of(function) == "Lambda::Function":
            yield function, name
    for name, permission in template.of_type("Lambda::Permission"):
        function = logical_id(permission["FunctionName"])
        principals = {"sns.amazonaws.com", "s3.amazonaws.com", "events.amazonaws.com", "scheduler.amazonaws.com"}
        if function and permission["Principal"] in principals:
            yield function, name


@rule
def asynchronous_functions_have_an_on_failure_destination(template: Template) -> Iterator[str]:
    """It carries the error, which the older DeadLetterConfig does not."""
    configured = {
        logical_id(config["FunctionName"]): config for _, config in template.of_type("Lambda::EventInvokeConfig")
    }
    for function, caller in sorted(set(_asynchronous_functions(template))):
        config = configured.get(function, {})
        if not template.type_of(_on_failure(config)):
            yield f"{function}: called by {caller}, but has no on-failure destination"
        elif "MaximumRetryAttempts" not in config or "MaximumEventAgeInSeconds" not in config:
            yield f"{function}: called by {caller}, but does not say how it is retried"


@rule
def functions_may_write_to_their_destinations(template: Template) -> Iterator[str]:
    """Lambda writes a failure record with the function's own permissions."""
    for kind in ("Lambda::EventInvokeConfig", "Lambda::EventSourceMapping"):
        for name, properties in template.of_type(kind):
            destination = _on_failure(properties)
            if template.type_of(destination) == "SQS::Queue" and not template.allows(
                template.role_of(logical_id(properties["FunctionName"])), "sqs:SendMessage", destination
            ):
                yield f"{name}: {logical_id(properties['FunctionName'])} may not send to {destination}"


# ---- Least privilege


@rule
def functions_and_workflows_have_their_own_role(template: Template) -> Iterator[str]:
    """A shared role is the union of what its users need."""
    users: dict[str | None, str] = {}
    for name, _ in template.of_type("Lambda::Function", "StepFunctions::StateMachine"):
        role = template.role_of(name)
        if template.type_of(role) != "IAM::Role":
            yield f"{name}: its role is not in the template"
        elif role in users:
            yield f"{name}: shares a role with {users[role]}"
        users[role] = name


@rule
def policies_name_their_actions_and_resources(template: Template) -> Iterator[str]:
    """No wildcard but where AWS knows nothing narrower, and no managed policies but SAM's own."""
    for name, role in template.of_type("IAM::Role"):
        for arn in role.get("ManagedPolicyArns", []):
            if str(arn).rpartition("/")[2] not in MANAGED_POLICIES:
                yield f"{name}: managed policy {arn}"
        for statement in template.statements(name):
            if "NotAction" in statement or "NotResource" in statement:
                yield f"{name}: names what is not allowed instead of what is"
            yield from (f"{name}: action {action}" for action in statement["Action"] if "*" in action)
            named = [action for action in statement["Action"] if not ACTIONS_ON_ANY_RESOURCE.fullmatch(action)]
            if named and not all(map(template.type_of, map(logical_id, statement["Resource"]))):
                yield f"{name}: {', '.join(named)} on {json.dumps(statement['Resource'])}"
    for name, _ in template.of_type("IAM::Policy", "IAM::ManagedPolicy"):
        yield f"{name}: permissions belong into the role of the function that needs them"


@rule
def only_the_outbox_publishes(template: Template) -> Iterator[str]:
    """No dual writes: nothing that writes to the orders table may put events on the bus."""
    writes = {"dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:DeleteItem", "dynamodb:BatchWriteItem"}
    for name, _ in template.of_type("IAM::Role"):
        publishes = any("events:PutEvents" in statement["Action"] for statement in template.statements(name))
        if publishes and name != template.role_of("PublishEventsFunction"):
            yield f"{name}: only PublishEventsFunction may put events on the bus"
        if publishes and any(template.allows(name, write, "OrdersTable") for write in writes):
            yield f"{name}: may write to the orders table and put events on the bus"


@rule
def functions_may_do_to_orders_what_they_do(template: Template) -> Iterator[str]:
    """A rare path, such as that of an earlier release's order, meets a missing permission in production only."""
    for name, function in template.of_type("Lambda::Function"):
        module = function["Handler"].removeprefix("orders.functions.").removesuffix(".handler")
        path = ROOT / f"src/orders/functions/{module}.py"
        called = re.findall(r"\b_orders\.(\w+)\(", path.read_text()) if path.exists() else []
        for method in sorted(set(called) & set(ACTIONS_OF_METHODS)):
            action = ACTIONS_OF_METHODS[method]
            if not template.allows(template.role_of(name), action, "OrdersTable"):
                yield f"{name}: calls {method} and may not {action}"


@rule
def readers_of_payloads_are_told_what_is_missing(template: Template) -> Iterator[str]:
    """S3 answers 404 for a missing object only to those who may list the bucket, and 403 to others."""
    for name, _ in template.of_type("IAM::Role"):
        reads = template.allows(name, "s3:GetObject", "FailedPayloadsBucket")
        if reads and not template.allows(name, "s3:ListBucket", "FailedPayloadsBucket"):
            yield f"{name}: may read payloads, and takes a missing one for a forbidden one"


# ---- Functions and logs


@rule
def log_groups_expire(template: Template) -> Iterator[str]:
    """Without a retention, logs are kept, and paid for, for ever."""
    for name, group in template.of_type("Logs::LogGroup"):
        if not group.get("RetentionInDays"):
            yield f"{name}: no retention"


@rule
def functions_and_workflows_log_to_their_own_group(template: Template) -> Iterator[str]:
    """A group that Lambda makes by itself has no retention, and outlives the stack."""
    users: dict[str, str] = {}
    for name, properties in template.of_type("Lambda::Function", "StepFunctions::StateMachine"):
        if "LoggingConfiguration" in properties:
            destinations = properties["LoggingConfiguration"]["Destinations"]
            group = logical_id(destinations[0]["CloudWatchLogsLogGroup"]["LogGroupArn"])
        else:
            group = logical_id(properties.get("LoggingConfig", {}).get("LogGroup"))
        if group is None or template.type_of(group) != "Logs::LogGroup":
            yield f"{name}: no log group of its own"
        elif group in users:
            yield f"{name}: logs to the group of {users[group]}"
        users[group or ""] = name


@rule
def functions_are_traced(template: Template) -> Iterator[str]:
    """One trace from the API to the receipt."""
    for name, function in template.of_type("Lambda::Function"):
        if function.get("TracingConfig") != {"Mode": "Active"}:
            yield f"{name}: not traced"
    for name, machine in template.of_type("StepFunctions::StateMachine"):
        if machine.get("TracingConfiguration") != {"Enabled": True}:
            yield f"{name}: not traced"


@rule
def handlers_and_functions_match(template: Template) -> Iterator[str]:
    """Every function has its module, every module its function, and every environment variable a value."""
    modules = {path.stem for path in (ROOT / "src/orders/functions").glob("[!_]*.py")}
    deployed = set()
    for name, function in template.of_type("Lambda::Function"):
        module = function["Handler"].removeprefix("orders.functions.").removesuffix(".handler")
        deployed.add(module)
        if module not in modules:
            yield f"{name}: there is no handler {function['Handler']}"
        for variable in sorted(_variables_read(f"orders.functions.{module}")):
            if variable not in function.get("Environment", {}).get("Variables", {}):
                yield f"{name}: the environment lacks {variable}"
    for module in sorted(modules - deployed):
        yield f"{module}: no function runs this handler"


@cache
def _variables_read(handler: str) -> frozenset[str]:
    """The environment variables that a module reads, and the modules of ours that it imports, and theirs."""
    variables: set[str] = set()
    seen, waiting = set(), [handler]
    while waiting:
        module = waiting.pop()
        path = ROOT / "src" / f"{module.replace('.', '/')}.py"
        if module in seen or not path.exists():
            continue
        seen.add(module)
        text = path.read_text()
        variables.update(re.findall(r"os\.environ\[\"([A-Z_]+)\"", text))
        waiting += re.findall(r"^ *from (orders[\w.]*) import", text, re.MULTILINE)
        waiting += [f"orders.{name}" for name in re.findall(r"^from orders import ([\w, ]+)", text, re.MULTILINE)]
    return frozenset(variables)


# ---- API


@rule
def api_paths_need_a_token(template: Template) -> Iterator[str]:
    """All but the description and the health check."""
    for name, api in template.of_type("ApiGateway::RestApi"):
        body = api["Body"]
        authorizers = body.get("components", {}).get("securitySchemes", {})
        for path, methods in body["paths"].items():
            for method, operation in methods.items():
                security = {scheme for entry in operation.get("security", []) for scheme in entry}
                if (path, method) not in OPEN_PATHS and not security & set(authorizers):
                    yield f"{name}: {method.upper()} {path} is open to all"


@rule
def apis_are_throttled(template: Template) -> Iterator[str]:
    """A flood is answered 429 by the gateway and costs no function call."""
    for name, stage in template.of_type("ApiGateway::Stage"):
        settings = stage.get("MethodSettings", [])
        if not any({"ThrottlingRateLimit", "ThrottlingBurstLimit"} <= setting.keys() for setting in settings):
            yield f"{name}: not throttled"


@rule
def api_functions_answer_before_the_gateway_gives_up(template: Template) -> Iterator[str]:
    """API Gateway waits 29 seconds for an integration."""
    for name, permission in template.of_type("Lambda::Permission"):
        function = logical_id(permission["FunctionName"])
        if template.type_of(function) == "Lambda::Alias":
            function = logical_id(template.properties(function)["FunctionName"])
        if permission["Principal"] == "apigateway.amazonaws.com":
            timeout_s = template.properties(function).get("Timeout", 3)
            if timeout_s > 29:
                yield f"{function}: may take {timeout_s} s, longer than the API waits ({name})"


# ---- Data


@rule
def tables_are_safe(template: Template) -> Iterator[str]:
    """Paid by request and recoverable to any second. DynamoDB encrypts every table."""
    for name, table in template.of_type("DynamoDB::Table"):
        if table.get("BillingMode") != "PAY_PER_REQUEST":
            yield f"{name}: not billed by request"
        if table.get("PointInTimeRecoverySpecification") != {"PointInTimeRecoveryEnabled": True}:
            yield f"{name}: no point-in-time recovery"


@rule
def data_ages_or_is_kept(template: Template) -> Iterator[str]:
    """Of each table it is decided whether its items expire, or stay even if the stack goes."""
    for name, table in template.of_type("DynamoDB::Table"):
        expires = table.get("TimeToLiveSpecification", {}).get("Enabled") is True
        if name not in AGEING_TABLES | KEPT_TABLES:
            yield f"{name}: not decided whether its items age"
        elif expires != (name in AGEING_TABLES):
            yield f"{name}: its items {'expire' if expires else 'never expire'}"
    kept = [*KEPT_TABLES, "FailuresTable", *(name for name, _ in template.of_type("S3::Bucket", "Cognito::UserPool"))]
    for name in kept:
        resource = template.resources.get(name, {})
        for policy in ("DeletionPolicy", "UpdateReplacePolicy"):
            if name in template.resources and not str(resource.get(policy, "")).startswith("Retain"):
                yield f"{name}: {policy} would delete what is in it"


@rule
def buckets_are_private_and_encrypted(template: Template) -> Iterator[str]:
    """Whatever a policy or an ACL says."""
    for name, bucket in template.of_type("S3::Bucket"):
        blocked = bucket.get("PublicAccessBlockConfiguration", {})
        for setting in ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"):
            if blocked.get(setting) is not True:
                yield f"{name}: {setting} is not set"
        if not bucket.get("BucketEncryption", {}).get("ServerSideEncryptionConfiguration"):
            yield f"{name}: not encrypted"


@rule
def queues_are_encrypted(template: Template) -> Iterator[str]:
    """With keys that the services that write there may use: EventBridge can't use the AWS managed SQS key."""
    for name, queue in template.of_type("SQS::Queue"):
        if queue.get("SqsManagedSseEnabled") is not True and not template.type_of(
            logical_id(queue.get("KmsMasterKeyId"))
        ):
            yield f"{name}: not encrypted with a key that its writers may use"


def _branches(value: Any) -> list[Any]:
    """What an intrinsic function If may choose; the value itself otherwise."""
    match value:
        case {"Fn::If": [_, yes, no]}:
            return [*_branches(yes), *_branches(no)]
    return [value]


@rule
def without_healing_every_failure_pages(template: Template) -> Iterator[str]:
    """While failures heal by themselves, each is a ticket, and another alarm pages when a human is needed."""
    captured = template.properties("FailureCapturedAlarm").get("AlarmActions", [])
    if captured != [{"Fn::If": ["HealsItself", {"Ref": "TicketTopic"}, {"Ref": "AlarmTopic"}]}]:
        yield "FailureCapturedAlarm: must page where failures don't heal by themselves"
    for name in ("HumanNeededAlarm", "HealingMissingAlarm"):
        if [logical_id(action) for action in template.properties(name).get("AlarmActions", [])] != ["AlarmTopic"]:
            yield f"{name}: pages nobody"
        if template.resources[name].get("Condition") != "HealsItself":
            yield f"{name}: rings although nothing is to heal"
    if template.properties("HealSchedule").get("State") != {"Fn::If": ["HealsItself", "ENABLED", "DISABLED"]}:
        yield "HealSchedule: can't be switched off"


@rule
def alarms_reach_somebody(template: Template) -> Iterator[str]:
    """CloudWatch can't publish to a topic that is encrypted with the AWS managed SNS key."""
    for name, alarm in template.of_type("CloudWatch::Alarm", "CloudWatch::CompositeAlarm"):
        actions = [branch for action in alarm.get("AlarmActions", []) for branch in _branches(action)]
        topics = [logical_id(action) for action in actions]
        if not topics or any(template.type_of(topic) != "SNS::Topic" for topic in topics):
            yield f"{name}: rings nowhere"
        for topic in topics:
            if template.properties(topic).get("KmsMasterKeyId") == "alias/aws/sns":
                yield f"{topic}: CloudWatch may not use its key, so {name} would ring unheard"


# ---- One template for AWS and the local cloud


@rule
def the_local_cloud_is_spared_what_it_refuses(template: Template) -> Iterator[str]:
    """A type that the emulator doesn't know fails the whole deployment unless a condition hides it."""
    for name, resource in template.resources.items():
        refused = REFUSED_BY_LOCAL_CLOUD.fullmatch(template.type_of(name)) or (
            template.type_of(name) == "CloudWatch::Alarm" and "Metrics" in resource["Properties"]
        )
        if refused and template.exists(name, Target="local", Environment="local"):
            yield f"{name}: the local cloud refuses {resource['Type']}"


@rule
def nothing_local_reaches_aws(template: Template) -> Iterator[str]:
    """What is deployed to AWS by default is everything, and nothing in it knows of the local cloud."""
    if template.raw["Parameters"]["Target"].get("Default") != "aws":
        yield "Target: a deployment must go to AWS unless told otherwise"
    for name, resource in template.resources.items():
        if template.exists(name, Target="local") and not template.exists(name, Target="aws"):
            yield f"{name}: exists in the local cloud only"
        if found := re.search(
            r"localhost|127\.0\.0\.1|AWS_ENDPOINT_URL|ministack", json.dumps(resource), re.IGNORECASE
        ):
            yield f"{name}: mentions {found[0]}"


@rule
def deletion_policies_are_plain(template: Template) -> Iterator[str]:
    """CloudFormation takes no intrinsic function there without a language extension."""
    for name, resource in template.raw["Resources"].items():
        for policy in ("DeletionPolicy", "UpdateReplacePolicy"):
            if not isinstance(resource.get(policy, ""), str):
                yield f"{name}: {policy} is computed"
