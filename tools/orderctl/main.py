"""orderctl: run the order pipeline on this machine, place orders, and look at them, here or on AWS."""

from __future__ import annotations

import os
import traceback
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperGroup

from orderctl import hints, interrupts
from orderctl.cloud.state import DEFAULT_NAME, LOCAL, Cloud, known_clouds, shown
from orderctl.commands import explain, failures, logs, orders, replay
from orderctl.exits import EXIT_CODES_HELP, Exit, Interrupted, Stop
from orderctl.options import Json, Name, Password, Port, Profile, Region, Stack, Username, examples
from orderctl.ui import console


class Commands(TyperGroup):
    """The commands, with one place that turns what goes wrong into a sentence and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command; ends the process with one of the documented exit codes."""
        try:
            return super().main(*args, **kwargs)
        except Stop as stop:
            console.complain(stop.what, stop.next_step)
            raise SystemExit(int(stop.code)) from None
        except (Interrupted, KeyboardInterrupt):
            console.complain("interrupted.")
            raise SystemExit(int(Exit.INTERRUPTED)) from None
        except BrokenPipeError:
            raise SystemExit(int(Exit.OK)) from None
        except Exception as error:
            known = Stop(Exit.INTERRUPTED, "interrupted.") if interrupts.raised() else _explain(error)
            if known is None:
                raise SystemExit(int(_report_bug(error))) from error
            console.complain(known.what, known.next_step)
            raise SystemExit(int(known.code)) from None


def _explain(error: Exception) -> Stop | None:
    """Return what an AWS or HTTP error means for the user; None if it is not theirs to mend."""
    # Not at the top: the commands that need neither library should not pay for importing them.
    import httpx  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    if isinstance(error, ClientError):
        code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
        return Stop(Exit.REFUSED, f"{error.operation_name} was refused: {code}: {message}")
    if isinstance(error, BotoCoreError):
        return Stop(Exit.NO_TARGET, f"AWS can't be reached: {error}", "Check the target, network and credentials.")
    if isinstance(error, httpx.TransportError):
        return Stop(Exit.NO_TARGET, f"The API can't be reached: {error}", f"See what runs: {hints.command('status')}")
    if isinstance(error, OSError):
        return Stop(Exit.STEP_FAILED, f"{error.strerror or error}: {error.filename or 'no file'}")
    return None


def _report_bug(error: Exception) -> Exit:
    if os.environ.get("ORDERCTL_DEBUG"):
        traceback.print_exception(error)
    log = LOCAL / "log" / "orderctl.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("".join(traceback.format_exception(error)))
    console.complain(
        f"orderctl met something that it does not expect: {type(error).__name__}: {error}",
        f"The details are in {shown(log)}.",
    )
    return Exit.UNEXPECTED


app = typer.Typer(
    cls=Commands,
    help=f"Run the order pipeline here, and place and watch orders, here or on AWS.\n\n{EXIT_CODES_HELP}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


Fresh = Annotated[bool, typer.Option("--fresh", help="Start empty: remove all earlier orders of this local cloud.")]


@app.command(epilog=examples("orderctl up", "orderctl up --name second --port 4600", "orderctl up --fresh"))
def up(name: Name = DEFAULT_NAME, port: Port = None, fresh: Fresh = False, as_json: Json = False) -> None:
    """Start the local cloud, build and deploy the stack to it, and fill in catalogue and demo user.

    Uses what runs already; deploys again only what has changed. Nothing stays behind if it fails. The orders of
    before are there again, if the local cloud was stopped by `down` or `make down`. The port stays the same too.
    """
    from orderctl.cloud import lifecycle  # noqa: PLC0415

    cloud = Cloud(name)
    lifecycle.up(cloud, port, persist=True, fresh=fresh)
    _show_status(lifecycle.status(cloud), as_json)


@app.command(epilog=examples("orderctl run", "orderctl run --name second --port 4600", "orderctl run --fresh"))
def run(name: Name = DEFAULT_NAME, port: Port = None, fresh: Fresh = False, as_json: Json = False) -> None:
    """Bring the local cloud up, then send the sample orders and watch them (`make run`).

    Interrupted, it stops the local cloud again if it has started it.
    """
    from orderctl.cloud import lifecycle  # noqa: PLC0415
    from orderctl.demo import stories as demonstration  # noqa: PLC0415
    from orderctl.stack import target  # noqa: PLC0415

    cloud = Cloud(name)
    was_up = lifecycle.status(cloud)["status"] in {"up", "starting"}
    try:
        state, _ = lifecycle.up(cloud, port, persist=True, fresh=fresh)
        ended_well = demonstration.run(target.of_state(state), None, None, as_json)
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
    """Stop the local cloud and all its workers, and check that no process is left; its orders are kept."""
    from orderctl.cloud import lifecycle, server  # noqa: PLC0415

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
            console.out.print(f"Its orders are kept, as they were at {server.local_time(saved)}.")
            console.out.print(f"  Start it with them:    {again}\n  Start it without them: {empty}")
    if not every and not ended[name] and (running := lifecycle.running_names()):
        console.out.print(f"Of this checkout run: {', '.join(running)}.")
    if not ended:
        console.out.print("No local cloud was running.")


@app.command(epilog=examples("orderctl status", "orderctl status --json | jq -r .apiUrl"))
def status(name: Name = DEFAULT_NAME, as_json: Json = False) -> None:
    """Show whether the local cloud runs, where, and whether it has the latest code."""
    from orderctl.cloud import lifecycle  # noqa: PLC0415

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


app.command(epilog=examples("orderctl token", "orderctl token --stack orders-dev --user ada@example.com"))(
    orders.token
)
app.command(
    epilog=examples(
        "orderctl submit fulfilled --wait",
        "orderctl submit my-order.json --idempotency-key order-17",
        "orderctl submit declined --stack orders-dev --region eu-west-1 --user ada@example.com",
    )
)(orders.submit)
app.command(epilog=examples("orderctl cancel 6f1c2d3e", "orderctl cancel 6f1c2d3e --user ada@example.com --json"))(
    orders.cancel
)
app.command(epilog=examples("orderctl order 6f1c2d3e", "orderctl order 6f1c2d3e --json --stack orders-dev"))(
    orders.order
)
app.command(
    epilog=examples(
        "orderctl orders --limit 5", "orderctl orders --open --watch", "orderctl orders --customer SUB --json"
    )
)(orders.orders)
app.command(name="open", epilog=examples("orderctl open", "orderctl open --json | jq -r .url"))(orders.open_api)


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
    """Send the sample orders over REST, watch them, and check that each ended where it should."""
    from orderctl.demo import stories as demonstration  # noqa: PLC0415
    from orderctl.stack import target  # noqa: PLC0415

    if not demonstration.run(target.choose(stack, name, profile, region), username, password, as_json):
        raise SystemExit(int(Exit.NOT_AS_EXPECTED))


app.add_typer(failures.app, name="failures")
app.command(epilog=examples("orderctl explain 6f1c2d3e", "orderctl explain 6f1c2d3e --stack orders-prod --json"))(
    explain.explain
)
app.command(
    epilog=examples(
        "orderctl logs --order 6f1c2d3e",
        "orderctl logs --component ProcessPayment --since 15m",
        "orderctl logs --follow --stack orders-dev",
        "orderctl logs --since 7d --json | jq 'select(.level == \"ERROR\")'",
    )
)(logs.logs)
app.command(
    epilog=examples(
        "orderctl replay --from 2026-11-20T09:00Z --to 2026-11-20T10:00Z --dry-run",
        "orderctl replay --from 2026-11-20T09:00Z --to 2026-11-20T10:00Z --rule OrderFulfilledRule",
    )
)(replay.replay)


if __name__ == "__main__":
    app()
