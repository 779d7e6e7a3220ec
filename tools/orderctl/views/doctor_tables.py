"""The doctor's report, for a human."""

from __future__ import annotations

from rich.markup import escape

from orderctl.doctor.examination import Report
from orderctl.doctor.model import Severity
from orderctl.ui import console

COLOURS = {Severity.HIGH: "red", Severity.MEDIUM: "yellow", Severity.LOW: "cyan"}


def show(report: Report, name: str) -> None:
    """Show the findings, the gravest first, then what was not checked, then a sum."""
    out = console.out.print
    for check, finding in report.findings:
        colour = COLOURS[finding.severity]
        out(f"[{colour}]{finding.severity:<6}[/]  [bold]{check}[/]: {escape(finding.what)}")
        out(f"        {escape(finding.do)}")
    for check, why in report.not_checked.items():
        out(f"[dim]not checked[/]  {check}: {escape(why)}")
    findings = console.count(len(report.findings), "finding") if report.findings else "Nothing found"
    counted = f"{len(report.passed)} checks passed"
    if report.not_checked:
        counted += f", {len(report.not_checked)} could not be made"
    out(f"\n{findings} about the {escape(name)} ({report.environment}); {counted}.")
