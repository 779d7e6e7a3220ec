"""The command `orderctl smoke`."""

from __future__ import annotations

from typing import Annotated

import typer

from orderctl.defaults import DEFAULT_NAME
from orderctl.exits import Exit, Interrupted
from orderctl.options import Json, Name, Profile, Region, Stack, examples, filled
from orderctl.ui import console

app = typer.Typer()


@app.command(
    epilog=examples(
        "orderctl smoke",
        "orderctl smoke --stack orders-dev --json",
        "orderctl smoke --stack orders-dev --remove 1f2e3d4c",
    )
)
def smoke(
    *,
    charge_real_providers: Annotated[
        bool,
        typer.Option("--charge-real-providers", help="Also where prod's providers charge, ship and mail for real."),
    ] = False,
    remove: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Only remove what this run left behind.", callback=filled),
    ] = None,
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Check a deployment with orders of a throw-away customer, and remove everything that this makes.

    Sends the sample orders with their failures, cancels one, redrives one. Checks that every function has run and was
    refused nothing, and that the alarms' metrics have values. Takes up to six minutes on AWS: Lambda tries a failed
    receipt again after one minute and after two more. Mails' idempotency keys, logs and archived events expire by
    themselves. Exit 0: all is well and removed; 4: refused, because providers are real; 5: something isn't well.
    """
    from orderctl.smoke import running
    from orderctl.stack.target import choose
    from orderctl.views import smoke_tables

    target = choose(stack, name, profile, region)
    done, interrupted = running.Smoke(remove or running.new_run()), False
    try:
        if remove:
            running.remove_only(target, done)
        else:
            running.run(target, done, charge_real_providers=charge_real_providers)
    except Interrupted:
        interrupted = True  # say what was removed all the same
    if as_json:
        console.emit_json(done.as_json())
    else:
        smoke_tables.show(done, target.name)
    if interrupted:
        raise Interrupted
    if not done.ok:
        raise SystemExit(int(Exit.NOT_AS_EXPECTED))
