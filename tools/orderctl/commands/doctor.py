"""The command `orderctl doctor`."""

from __future__ import annotations

from typing import Annotated

import typer

from orderctl.defaults import DEFAULT_NAME
from orderctl.options import Json, Name, Profile, Region, Stack, examples
from orderctl.ui import console

app = typer.Typer()

FOUND = 1  # as linters have it


@app.command(
    epilog=examples(
        "orderctl doctor",
        "orderctl doctor --stack orders-prod --expected-rate 200",
        "orderctl doctor --stack orders-prod --json",
    )
)
def doctor(
    *,
    expected_rate: Annotated[
        float, typer.Option(min=0.1, max=100_000, help="How many orders a second the account must carry.")
    ] = 50,
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Look at a deployed stack, and say what isn't as it should be. Changes nothing.

    A check that can't be made (no such API, no permission) is listed as not checked, and is no finding.
    Exit 0: nothing was found; 1: something was.
    """
    from orderctl.doctor.examination import examine
    from orderctl.stack.target import choose
    from orderctl.views import doctor_tables

    target = choose(stack, name, profile, region)
    report = examine(target, expected_rate)
    if as_json:
        console.emit_json(report.as_json())
    else:
        doctor_tables.show(report, target.name)
    if report.findings:
        raise SystemExit(FOUND)
