"""What gathers or goes stale: the deployment, the catalogue, versions, logs, an index, what a smoke left behind."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import Any

from orderctl.cloud import deployment
from orderctl.cloud.state import ROOT
from orderctl.doctor.model import Check, Circumstances, Deployed, Finding, NotCheckable, Severity
from orderctl.stack.throwaway import Left, left_behind
from orders.domain.clock import seconds_since

OLD_INDEX = "open-orders"
COMMIT_TAG = "commit"
DEPLOYED_PATHS = ("src", "statemachine", "template.yaml")
HOUR_S = 3600


@dataclass(frozen=True)
class Snapshots:
    """A function's versions with a SnapStart snapshot that no alias names."""

    function: str
    versions: list[str]


def judge_state(status: str, _: Circumstances) -> list[Finding]:
    """Find a deployment that failed, was rolled back or is under way."""
    if "FAILED" in status:
        what = f"The stack is {status}: the last deployment broke half-way."
        return [Finding(Severity.HIGH, what, "Look at the stack's events, then deploy again.")]
    if "ROLLBACK" in status:
        what = f"The stack is {status}: the last deployment was rolled back."
        return [Finding(Severity.MEDIUM, what, "Look at the stack's events for the first failure.")]
    if "IN_PROGRESS" in status:
        return [Finding(Severity.LOW, f"The stack is {status}.", "Run the doctor again when it has ended.")]
    return []


def judge_code(differs: bool, _: Circumstances) -> list[Finding]:
    """Find a stack that runs other code than this checkout's."""
    if not differs:
        return []
    return [Finding(Severity.LOW, "The deployed code isn't that of this checkout.", "Deploy, or check the tag out.")]


def judge_catalogue(has_products: bool, circumstances: Circumstances) -> list[Finding]:
    """Find an empty catalogue."""
    if has_products:
        return []
    severity = Severity.HIGH if circumstances.is_prod else Severity.MEDIUM
    return [
        Finding(severity, "The catalogue is empty: every order fails.", "Fill CatalogueTable: docs/deploying.md.")
    ]


def judge_snapshots(found: list[Snapshots], _: Circumstances) -> list[Finding]:
    """Find snapshots that cost money and that no request can reach."""
    return [
        Finding(
            Severity.LOW,
            f"{each.function} keeps {len(each.versions)} SnapStart versions that no alias names "
            f"({', '.join(each.versions)}). AWS bills each snapshot.",
            "Delete those that no rollback needs: aws lambda delete-function --qualifier VERSION.",
        )
        for each in found
        if each.versions
    ]


def judge_indexes(names: list[str], _: Circumstances) -> list[Finding]:
    """Find the index of release 1.0.0, which nobody reads any more and every order writes."""
    if OLD_INDEX not in names:
        return []
    what = f"The orders table still has the index {OLD_INDEX} of release 1.0.0: each order pays for it."
    return [Finding(Severity.LOW, what, "Deploy once more, with KeepOpenOrdersIndex=false.")]


def judge_log_groups(endless: list[str], _: Circumstances) -> list[Finding]:
    """Find log groups that keep every line for ever."""
    return [
        Finding(
            Severity.LOW,
            f"The log group {each} has no retention: its lines are kept, and paid for, for ever.",
            f"aws logs put-retention-policy --retention-in-days 30 --log-group-name {each}",
        )
        for each in endless
    ]


def judge_left_behind(found: list[Left], _: Circumstances) -> list[Finding]:
    """Find what killed smokes left behind. One younger than an hour may still run."""
    return [
        Finding(
            Severity.LOW,
            f"The smoke {each.run} of {each.created_at} left its customer and perhaps orders and products behind.",
            f"Remove them: orderctl smoke --remove {each.run}",
        )
        for each in found
        if seconds_since(each.created_at) > HOUR_S
    ]


def _code(deployed: Deployed) -> bool:
    """Whether the deployed code differs from this checkout's."""
    local = deployed.target.local
    if local:
        return local.deployed != deployment.fingerprint(local.runtime)
    commit = deployed.description.tags.get(COMMIT_TAG)
    if not commit:
        tell = f'deploy with --tags "{COMMIT_TAG}=$(git rev-parse HEAD)"'
        raise NotCheckable(f"the stack's tag {COMMIT_TAG!r} doesn't say which commit it is; {tell}")
    command = ["git", "diff", "--quiet", commit, "--", *DEPLOYED_PATHS]
    try:
        code = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, timeout=60).returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotCheckable(f"git can't compare: {error}") from error
    if code not in {0, 1}:
        raise NotCheckable(f"this checkout doesn't know the deployed commit {commit[:12]}")
    return code == 1


def _has_products(deployed: Deployed) -> bool:
    table = deployed.target.output("CatalogueTable")
    return bool(deployed.target.client("dynamodb").scan(TableName=table, Limit=1)["Items"])


def _snapshots(deployed: Deployed) -> list[Snapshots]:
    functions = deployed.target.client("lambda")
    found = []
    for logical_id, name in deployed.description.of_kind("AWS::Lambda::Function").items():
        versions = [
            each["Version"]
            for page in functions.get_paginator("list_versions_by_function").paginate(FunctionName=name)
            for each in page["Versions"]
            if each["Version"] != "$LATEST" and each.get("SnapStart", {}).get("ApplyOn") == "PublishedVersions"
        ]
        if versions:
            named = {each["FunctionVersion"] for each in functions.list_aliases(FunctionName=name)["Aliases"]}
            found.append(Snapshots(logical_id, [each for each in versions if each not in named]))
    return found


def _indexes(deployed: Deployed) -> list[str]:
    table = deployed.target.client("dynamodb").describe_table(TableName=deployed.target.output("OrdersTable"))
    return [each["IndexName"] for each in table["Table"].get("GlobalSecondaryIndexes", [])]


def _endless(deployed: Deployed) -> list[str]:
    """Return the log groups of the stack, and those that AWS made for its functions, that have no retention."""
    mine = set(deployed.description.of_kind("AWS::Logs::LogGroup").values())
    mine |= {f"/aws/lambda/{name}" for name in deployed.description.of_kind("AWS::Lambda::Function").values()}
    pages = deployed.target.client("logs").get_paginator("describe_log_groups").paginate()
    return sorted(
        group["logGroupName"]
        for page in pages
        for group in page["logGroups"]
        if group["logGroupName"] in mine and not group.get("retentionInDays")
    )


CHECKS: list[Check[Any]] = [
    Check("deployment", lambda deployed: deployed.description.status, judge_state),
    Check("code", _code, judge_code),
    Check("catalogue", _has_products, judge_catalogue),
    Check("snapshots", _snapshots, judge_snapshots),
    Check("indexes", _indexes, judge_indexes),
    Check("log-retention", _endless, judge_log_groups),
    Check("left-behind", lambda deployed: left_behind(deployed.target), judge_left_behind),
]
