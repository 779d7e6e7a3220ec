"""Whether the stack is set as its environment asks: parameters, sign-in, providers, healing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from orderctl.doctor.model import Check, Circumstances, Deployed, Finding, NotCheckable, Severity
from orderctl.stack import records
from orderctl.stack.description import SIMULATED, providers
from orders.domain.clock import seconds_since
from orders.inbox.healing import Holds

DAY_S = 86_400
DEPLOY = "Deploy with --parameter-overrides"

# What looks like dev in prod: parameter, value, severity, what the value does.
DEV_VALUES = (
    ("LogLevel", "DEBUG", Severity.MEDIUM, "it logs, and costs, more than production needs", "INFO"),
    (
        "WorkflowLogLevel",
        "ALL",
        Severity.LOW,
        "each state of each order is logged; docs/cost.md has the price",
        "ERROR",
    ),
)


@dataclass(frozen=True)
class Healing:
    """Whether failures heal by themselves, and what operators hold: by its words, since when (ISO 8601)."""

    enabled: bool
    held: dict[str, str]


def judge_parameters(parameters: dict[str, str], circumstances: Circumstances) -> list[Finding]:
    """Find parameters of a prod stack that fit dev."""
    if not circumstances.is_prod:
        return []
    return [
        Finding(severity, f"{name} is {value} in prod: {effect}.", f"{DEPLOY} {name}={better}.")
        for name, value, severity, effect, better in DEV_VALUES
        if parameters.get(name) == value
    ]


def judge_sign_in(flows: list[str], circumstances: Circumstances) -> list[Finding]:
    """Find sign-in by password in prod: a client sends the password itself, which SRP never does."""
    if not circumstances.is_prod or "ALLOW_USER_PASSWORD_AUTH" not in flows:
        return []
    what = "Customers of prod can sign in with USER_PASSWORD_AUTH, which sends the password itself."
    do = "In the user pool's client, replace ALLOW_USER_PASSWORD_AUTH by ALLOW_ADMIN_USER_PASSWORD_AUTH; SRP stays."
    return [Finding(Severity.MEDIUM, what, do)]


def judge_providers(settings: dict[str, dict[str, str]], circumstances: Circumstances) -> list[Finding]:
    """Find simulated providers in prod; `settings` has each function's, by function."""
    if not circumstances.is_prod:
        return []
    simulated = sorted({name for each in settings.values() for name, value in each.items() if value == SIMULATED})
    if not simulated:
        return []
    what = f"{', '.join(simulated)} of prod: simulated. Nobody is charged, shipped to or mailed."
    return [Finding(Severity.HIGH, what, "Choose your own providers: docs/architecture.md, Packages.")]


def judge_healing(healing: Healing, _: Circumstances) -> list[Finding]:
    """Find healing that is switched off, and what is held for longer than a day."""
    found = []
    if not healing.enabled:
        what = "Self-healing is switched off: each failure waits for a human."
        found.append(Finding(Severity.MEDIUM, what, f"{DEPLOY} SelfHealing=true."))
    for held, since in healing.held.items():
        age_s = seconds_since(since)
        if age_s > DAY_S:
            what = f"Healing of {held} has been held for {age_s / DAY_S:.0f} days, since {since}."
            found.append(Finding(Severity.MEDIUM, what, "Release it: orderctl failures release."))
    return found


def _flows(deployed: Deployed) -> list[str]:
    client = deployed.target.client("cognito-idp").describe_user_pool_client(
        UserPoolId=deployed.target.output("UserPoolId"), ClientId=deployed.target.output("UserPoolClientId")
    )
    return list(client["UserPoolClient"]["ExplicitAuthFlows"])


def _healing(deployed: Deployed) -> Healing:
    if "SelfHealing" not in deployed.description.parameters:
        raise NotCheckable("the stack is of a version without self-healing")
    try:
        holds: Holds = records.failures_table(deployed.target).holds()
    except ValueError as error:
        raise NotCheckable(f"what is held can't be read: {error}") from error
    held = {hold.what: hold.at for hold in holds.held.values()}
    return Healing(deployed.description.parameters["SelfHealing"] == "true", held)


CHECKS: list[Check[Any]] = [
    Check("parameters", lambda deployed: deployed.description.parameters, judge_parameters),
    Check("sign-in", _flows, judge_sign_in),
    Check("providers", lambda deployed: providers(deployed.target, deployed.description), judge_providers),
    Check("healing", _healing, judge_healing),
]
