"""The account's quotas against the expected rate of orders."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from orderctl.doctor.model import Check, Circumstances, Deployed, Finding, NotCheckable, Severity

# What an order takes (docs/scaling.md), with headroom for peaks and for a provider that takes a second to answer.
CONCURRENCY_PER_ORDER = 2.0
# The order itself, and a look at its state.
REQUESTS_PER_ORDER = 2.0
EXECUTIONS_PER_ORDER = 1.1
# One for each change of status, where batches don't fill.
PUT_EVENTS_PER_ORDER = 5.0
REQUEST = "Request an increase in Service Quotas, or lower --expected-rate."


@dataclass(frozen=True)
class Quota:
    """A quota by name: its value, and how much of it an order a second takes."""

    name: str
    value: float
    per_order: float
    advice: str = REQUEST


def judge(quotas: list[Quota], circumstances: Circumstances) -> list[Finding]:
    """Find the quotas that the expected rate meets."""
    rate = circumstances.expected_rate
    return [
        Finding(
            Severity.HIGH,
            f"{quota.name} is {quota.value:,.0f}; {rate:g} orders a second need {_needed(quota, rate):,}.",
            quota.advice,
        )
        for quota in quotas
        if quota.value < rate * quota.per_order
    ]


def _needed(quota: Quota, rate: float) -> int:
    return math.ceil(rate * quota.per_order)


def _concurrency(deployed: Deployed) -> list[Quota]:
    limit = deployed.target.client("lambda").get_account_settings()["AccountLimit"]
    free = limit["UnreservedConcurrentExecutions"]
    return [Quota("Lambda's unreserved concurrency of the account", free, CONCURRENCY_PER_ORDER)]


def _api(deployed: Deployed) -> list[Quota]:
    gateway = deployed.target.client("apigateway")
    account = gateway.get_account()["throttleSettings"]["rateLimit"]
    found = [Quota("API Gateway's rate for the account", account, REQUESTS_PER_ORDER)]
    for stage in gateway.get_stages(restApiId=deployed.target.output("ApiId"))["item"]:
        for settings in stage.get("methodSettings", {}).values():
            if "throttlingRateLimit" in settings:
                name = f"the stage {stage['stageName']}'s ThrottlingRateLimit"
                advice = "Raise it in template.yaml and deploy, or lower --expected-rate."
                found.append(Quota(name, settings["throttlingRateLimit"], REQUESTS_PER_ORDER, advice))
    return found


def _listed(deployed: Deployed, service: str, *words: str) -> float:
    """Return the smallest quota of a service whose name contains all these words."""
    pages = deployed.target.client("service-quotas").get_paginator("list_service_quotas")
    values = [
        quota["Value"]
        for page in pages.paginate(ServiceCode=service)
        for quota in page["Quotas"]
        if all(word in quota["QuotaName"].lower() for word in words)
    ]
    if not values:
        raise NotCheckable(f"Service Quotas lists none of {service} that is named {' '.join(words)!r}")
    return float(min(values))


def _executions(deployed: Deployed) -> list[Quota]:
    refill = _listed(deployed, "states", "startexecution", "express", "refill")
    return [Quota("Step Functions' StartExecution for Express, a second,", refill, EXECUTIONS_PER_ORDER)]


def _put_events(deployed: Deployed) -> list[Quota]:
    return [Quota("EventBridge's PutEvents a second", _listed(deployed, "events", "putevents"), PUT_EVENTS_PER_ORDER)]


CHECKS: list[Check[Any]] = [
    Check("lambda-concurrency", _concurrency, judge),
    Check("api-throttle", _api, judge),
    Check("start-execution", _executions, judge),
    Check("put-events", _put_events, judge),
]
