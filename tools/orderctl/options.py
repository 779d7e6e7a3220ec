"""Options that several commands share."""

from __future__ import annotations

import re
from typing import Annotated

import typer
from rich.markup import escape

from orderctl import hints
from orderctl.defaults import DEFAULT_PORT
from orderctl.exits import Exit, Stop


def filled(parameter: typer.CallbackParam, value: str | None) -> str | None:
    """Return an option's value; Stop(USAGE) if it is blank, as the value of an unset shell variable is."""
    if value is not None and not value.strip():
        option = max(parameter.opts, key=len)
        raise Stop(
            Exit.USAGE,
            f"The value of {option} is empty.",
            "Give one, or leave the option out. An unset shell variable is empty, too.",
        )
    return value


Name = Annotated[str, typer.Option("--name", help="The local cloud's name.", envvar="ORDERCTL_NAME")]
Port = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=65535,
        help=f"Port on 127.0.0.1 (default: the cloud's last port; {DEFAULT_PORT} for its first start).",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Write the result as JSON to stdout.")]
Stack = Annotated[
    str | None,
    typer.Option(help="A stack on AWS instead of the local cloud.", envvar="ORDERCTL_STACK", callback=filled),
]
Profile = Annotated[str | None, typer.Option(help="With --stack: the AWS profile.")]
Region = Annotated[str | None, typer.Option(help="With --stack: the AWS region.")]
Username = Annotated[
    str | None,
    typer.Option(
        "--username",
        "--user",
        help="Customer to act as, by e-mail address (default on the local cloud: the demo user).",
        envvar="ORDERCTL_USERNAME",
        callback=filled,
    ),
]
Password = Annotated[
    str | None, typer.Option(help="The customer's password; needed on AWS.", envvar="ORDERCTL_PASSWORD")
]
OrderId = Annotated[
    str, typer.Argument(metavar="ORDER_ID", help="The order's id; its start is enough for an open or failed order.")
]
Watch = Annotated[bool, typer.Option("--watch", help="Refresh every 2 seconds, until Ctrl-C.")]

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> int:
    """Return a duration such as "30m" in seconds; Stop(USAGE) if it isn't one."""
    parts = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if parts is None:
        raise Stop(Exit.USAGE, f"{text!r} is no duration.", "Write a number and s, m, h or d: 45s, 30m, 2h, 7d.")
    return int(parts[1]) * UNITS_S[parts[2]]


def examples(*lines: str) -> str:
    """Return the epilogue of a command's help: example command lines, the program as the caller types it."""
    commands = (line.partition(" ") for line in lines)
    written = (f"[cyan]{escape(f'{hints.program(name)} {rest}')}[/]" for name, _, rest in commands)
    return "Examples:\n\n" + "\n\n".join(written)
