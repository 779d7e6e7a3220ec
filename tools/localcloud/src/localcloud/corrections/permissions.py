"""Permissions of the calls that services make to each other.

Step Functions calls a service as the state machine's role. Lambda sends an invocation record as the function's
execution role. EventBridge needs a resource policy (queue, function) or the target's role (state machine, bus).
MiniStack checks calls over HTTP only; these are calls within its process.
"""

from typing import Any

from ministack import app
from ministack.core import iam_evaluator
from ministack.core.iam_evaluator import EvalContext
from ministack.services import lambda_svc, sqs

from localcloud.patching import internal


def enforced() -> bool:
    """Whether policies are enforced at all."""
    return bool(internal(app, "AUTH"))


def role_may(role_arn: str | None, action: str, resource_arn: str) -> bool:
    """Whether a role's policies allow an action on a resource."""
    if not enforced():
        return True
    if not role_arn:
        return False
    account, name = role_arn.split(":")[4], role_arn.rsplit("/", 1)[-1]
    context = EvalContext(
        principal_arn=f"arn:aws:sts::{account}:assumed-role/{name}/localcloud",
        principal_type="AssumedRole",
        principal_account=account,
        action=action,
        resource_arn=resource_arn,
        region=resource_arn.split(":")[3],
    )
    policies = internal(iam_evaluator, "_gather_role_policies")(name, account)
    decision: str = internal(iam_evaluator, "evaluate")(context, policies).decision
    return decision == "Allow"


def service_may(service: str, policy: Any, action: str, resource_arn: str, source_arn: str) -> bool:
    """Whether a resource's policy lets a service act on behalf of a source."""
    if not enforced():
        return True
    region, account = source_arn.split(":")[3:5] if source_arn else ("", "")
    context = EvalContext(
        principal_arn="*",
        principal_type="Service",
        principal_account="",
        action=action,
        resource_arn=resource_arn,
        region=region,
        service_context={"aws:sourcearn": source_arn, "aws:sourceaccount": account},
    )
    evaluate = internal(iam_evaluator, "evaluate_resource_policy")
    decision: str = evaluate(policy, context, service=service).decision
    return decision == "Allow"


def events_may_send(queue_arn: str, rule_arn: str) -> bool:
    """Whether a queue lets EventBridge send on behalf of a rule."""
    found = internal(sqs, "queue_policy_for_arn")(queue_arn)
    policy = found[0] if found else None
    return service_may("events.amazonaws.com", policy, "sqs:SendMessage", queue_arn, rule_arn)


def events_may_invoke(function_arn: str, rule_arn: str) -> bool:
    """Whether the policy of a function, version or alias allows EventBridge to invoke on behalf of a rule."""
    func, _, _ = internal(lambda_svc, "_get_base_func_record_for_ref")(function_arn)
    policy = (func or {}).get("policy")
    return service_may("events.amazonaws.com", policy, "lambda:InvokeFunction", function_arn, rule_arn)
