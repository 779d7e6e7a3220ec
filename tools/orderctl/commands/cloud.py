"""The commands on the local cloud: up, run, down, status."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from orderctl import hints
from orderctl.cloud.state import Cloud, known_clouds, shown
from orderctl.defaults import DEFAULT_NAME
from orderctl.exits import Exit, Interrupted
from orderctl.options import Json, Name, Port, examples
from orderctl.ui import console

app = typer.Typer()

Fresh = Annotated[bool, typer.Option("--fresh", help="Start empty: remove all earlier orders of this local cloud.")]


@app.command(epilog=examples("orderctl up", "orderctl up --name second --port 4600", "orderctl up --fresh"))
def up(name: Name = DEFAULT_NAME, port: Port = None, fresh: Fresh = False, as_json: Json = False) -> None:
    """Start the local cloud, build and deploy the stack, and fill in the catalogue and a demo user.

    Reuses a running cloud, and deploys again only what has changed. If a step fails, nothing is left running. After
    `down` or `make down`, the port and the orders are those of the last run.
    """
    from orderctl import lifecycle

    cloud = Cloud(name)
    lifecycle.up(cloud, port, persist=True, fresh=fresh)
    _show_status(lifecycle.status(cloud), as_json)


@app.command(epilog=examples("orderctl run", "orderctl run --name second --port 4600", "orderctl run --fresh"))
def run(name: Name = DEFAULT_NAME, port: Port = None, fresh: Fresh = False, as_json: Json = False) -> None:
    """Start the local cloud, then send the sample orders and watch them (`make run`).

    An interruption stops the local cloud, if this command has started it.
    """
    from orderctl import lifecycle
    from orderctl.demo import demonstration
    from orderctl.stack.target import of_state

    cloud = Cloud(name)
    was_up = lifecycle.status(cloud)["status"] in {"up", "starting"}
    try:
        state, _ = lifecycle.up(cloud, port, persist=True, fresh=fresh)
        ended_well = demonstration.run(of_state(state), None, None, as_json)
    except Interrupted:
        if not was_up:
            lifecycle.down(cloud)
        raise
    if not ended_well:
        raise SystemExit(int(Exit.NOT_AS_EXPECTED))


@app.command(epilog=examples("orderctl down", "orderctl down --all"))
def down(
    name: Name = DEFAULT_NAME,
    every: Annotated[bool, typer.Option("--all", help="Every local cloud of this checkout.")] = False,
    as_json: Json = False,
) -> None:
    """Save the local cloud's orders, stop its processes, and check that none is left."""
    from orderctl import lifecycle
    from orderctl.cloud import server_process

    clouds = known_clouds() if every else [Cloud(name)]
    ended = {cloud.name: lifecycle.down(cloud) for cloud in clouds}
    if as_json:
        console.emit_json({"ended": ended})
        return
    for cloud in clouds:
        count, saved = ended[cloud.name], cloud.saved_at()
        console.out.print(
            f"The local cloud {cloud.name!r} is down: {count} process{'' if count == 1 else 'es'} ended, none left."
            if count
            else f"The local cloud {cloud.name!r} was not running."
        )
        if saved:
            again, empty = (hints.command(each, name=cloud.name) for each in ("up", "up --fresh"))
            console.out.print(f"Its orders are kept, as of {server_process.local_time(saved)}.")
            console.out.print(f"  Start it with them:    {again}\n  Start it without them: {empty}")
    if not every and not ended[name] and (running := lifecycle.running_names()):
        console.out.print(f"This checkout's running local clouds: {', '.join(running)}.")
    if not ended:
        console.out.print("No local cloud was running.")


@app.command(epilog=examples("orderctl status", "orderctl status --json | jq -r .apiUrl"))
def status(name: Name = DEFAULT_NAME, as_json: Json = False) -> None:
    """Show whether the local cloud runs, where, and whether the latest code is deployed to it."""
    from orderctl import lifecycle

    found = lifecycle.status(Cloud(name))
    _show_status(found, as_json)
    if found["status"] != "up":
        raise SystemExit(int(Exit.NO_TARGET))


def _show_status(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        console.emit_json(found)
        return
    name = found["name"]
    table = Table.grid(padding=(0, 2))
    table.add_row("Local cloud", f"{name}: [bold]{found['status']}[/]")
    if found["status"] in {"up", "starting"}:
        if url := found["apiUrl"]:
            table.add_row("REST API", url)
            table.add_row("Description", f"{url}/openapi.json")
        table.add_row("AWS endpoint", found["endpoint"])
        table.add_row("AWS tools", f"--endpoint-url {found['endpoint']}; key and secret: test")
        table.add_row("Process", f"{found['pid']}, since {found['startedAt']}, {found['runtime']}")
        table.add_row(
            "Latest code", "yes" if found["upToDate"] else f"no; deploy it: {hints.command('up', name=name)}"
        )
    else:
        if others := found.get("running"):
            table.add_row("Running", ", ".join(others))
        table.add_row("Start it", hints.command("up", name=name))
    if "log" in found:
        table.add_row("Log", shown(Path(found["log"])))
    if "fate" in found:
        console.out.print(found["fate"].replace(". ", ".\n"))
    console.out.print(table)
