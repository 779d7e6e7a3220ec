"""orderctl: run the order pipeline on this machine, place orders, and look at them, here or on AWS.

This module registers the commands. Each is defined, with its help and examples, in `orderctl.commands`.
"""

from __future__ import annotations

from importlib import metadata
from typing import Annotated

import typer

from orderctl.commands import cloud, demo, doctor, explain, failures, logs, orders, replay, smoke, stock
from orderctl.commands.group import Commands
from orderctl.exits import EXIT_CODES_HELP
from orderctl.ui import console

app = typer.Typer(
    cls=Commands,
    help=f"Run the order pipeline here, and place and watch orders, here or on AWS.\n\n{EXIT_CODES_HELP}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (cloud, orders, demo, failures, stock, explain, logs, replay, doctor, smoke):
    app.add_typer(module.app)


def _show_version(asked: bool) -> None:
    if asked:
        console.out.print(f"orderctl {metadata.version('order-pipeline')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Hold the options that come before a command."""


if __name__ == "__main__":
    app()
