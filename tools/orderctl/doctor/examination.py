"""All checks, and how they are made: a check that can't be made is no pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from orderctl.doctor import alarming, quotas, settings, upkeep, wiring
from orderctl.doctor.model import AnyCheck, Circumstances, Deployed, Finding, NotCheckable, Severity
from orderctl.stack.description import describe
from orderctl.stack.target import Target

CHECKS: tuple[AnyCheck, ...] = (
    *upkeep.CHECKS,
    *wiring.CHECKS,
    *alarming.CHECKS,
    *settings.CHECKS,
    *quotas.CHECKS,
)


@dataclass
class Report:
    """What the checks found, by name of the check: passed, findings, and why a check could not be made."""

    environment: str
    passed: list[str] = field(default_factory=list)
    findings: list[tuple[str, Finding]] = field(default_factory=list)
    not_checked: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the report for a program to read."""
        return {
            "ok": not self.findings,
            "environment": self.environment,
            "findings": [
                {"check": name, "severity": each.severity, "what": each.what, "do": each.do}
                for name, each in self.findings
            ],
            "notChecked": [{"check": name, "why": why} for name, why in self.not_checked.items()],
            "passed": self.passed,
        }


def examine(target: Target, expected_rate: float, checks: Iterable[AnyCheck] = CHECKS) -> Report:
    """Make the checks; findings are sorted by severity. Raises ClientError if the stack can't be described at all."""
    deployed = Deployed(target, describe(target))
    circumstances = Circumstances(deployed.description.environment, expected_rate)
    report = Report(circumstances.environment)
    for check in checks:
        try:
            findings = check.judge(check.read(deployed), circumstances)
        except NotCheckable as error:
            report.not_checked[check.name] = str(error)
        except ClientError as error:
            code, said = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
            report.not_checked[check.name] = f"{error.operation_name} was refused: {code} {said}".strip()
        except BotoCoreError as error:
            report.not_checked[check.name] = f"AWS's answer can't be had: {error}"
        except LookupError as error:
            report.not_checked[check.name] = f"AWS's answer has no {error}"
        else:
            report.findings += [(check.name, finding) for finding in findings]
            if not findings:
                report.passed.append(check.name)
    order = list(Severity)
    report.findings.sort(key=lambda named: order.index(named[1].severity))
    return report
