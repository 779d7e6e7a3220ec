"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from orderctl.cloud import DEFAULT_PORT

Name = Annotated[str, typer.Option("--name", help="Which local cloud.", envvar="ORDERCTL_NAME")]
Port = Annotated[
    int | None,
    typer.Option(min=1, max=65535, help=f"Port on 127.0.0.1 to start it on (default {DEFAULT_PORT})."),
]
Json = Annotated[bool, typer.Option("--json", help="Write the result as JSON to stdout.")]
Stack = Annotated[
    str | None,
    typer.Option(help="A stack on AWS instead of the local cloud.", envvar="ORDERCTL_STACK"),
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
    ),
]
Password = Annotated[
    str | None, typer.Option(help="The customer's password; needed on AWS.", envvar="ORDERCTL_PASSWORD")
]


def examples(*lines: str) -> str:
    """Return command lines as the epilogue of a command's help."""
    return "Examples:\n\n" + "\n\n".join(f"[cyan]{line}[/]" for line in lines)
