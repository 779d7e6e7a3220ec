"""The command `orderctl demo`."""

from __future__ import annotations

import typer

from orderctl.defaults import DEFAULT_NAME
from orderctl.exits import Exit
from orderctl.options import Json, Name, Password, Profile, Region, Stack, Username, examples

app = typer.Typer()


@app.command(epilog=examples("orderctl demo", "orderctl demo --json", "orderctl demo --stack orders-dev"))
def demo(
    *,
    username: Username = None,
    password: Password = None,
    stack: Stack = None,
    profile: Profile = None,
    region: Region = None,
    name: Name = DEFAULT_NAME,
    as_json: Json = False,
) -> None:
    """Send the sample orders over REST, watch them, and check that each ends as expected."""
    from orderctl.demo import demonstration
    from orderctl.stack.target import choose

    if not demonstration.run(choose(stack, name, profile, region), username, password, as_json):
        raise SystemExit(int(Exit.NOT_AS_EXPECTED))
