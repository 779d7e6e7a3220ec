"""The local cloud's server: `python -m localcloud.server`.

Runs MiniStack on 127.0.0.1 with the corrections installed, until SIGTERM or SIGINT; then saves its state
(with --persist), ends every function process and removes its temporary files.
"""

import argparse
import asyncio
import contextlib
import importlib.metadata
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from localcloud import MINISTACK_VERSION, saving
from localcloud.patching import MissingInternalError
from localcloud.settings import Settings

GRACEFUL_STOP_S = 1.0
LONGEST_SAVE_S = 120.0
MOST_FILES_ON_MACOS = 10_240  # where the hard limit is "unlimited", which it then refuses
DEFAULT_DIRECTORY = Path(".local/cloud/default")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m localcloud.server", description=__doc__)
    add = parser.add_argument
    add("--port", type=int, default=4566, help="port on 127.0.0.1 (default: %(default)s)")
    add("--data-dir", type=Path, default=DEFAULT_DIRECTORY / "data", help="saved state (default: %(default)s)")
    add("--tmp-dir", type=Path, default=DEFAULT_DIRECTORY / "tmp", help="unpacked code (default: %(default)s)")
    add("--persist", action=argparse.BooleanOptionalAction, default=False, help="save all at a clean stop")
    add("--auth", action=argparse.BooleanOptionalAction, default=True, help="enforce the policies of roles")
    add("--region", default="us-east-1", help="the only region (default: %(default)s)")
    add("--max-environments", type=int, default=4, help="processes per function (default: %(default)s)")
    add("--python", default=sys.executable, help="interpreter that runs functions (default: the server's own)")
    add("--wait-scale", type=float, default=1.0, help="factor on Step Functions waits and retry intervals")
    add("--retry-base", type=float, default=1.0, help="first delay of asynchronous retries, in seconds")
    add("--metrics-interval", type=float, default=60.0, help="seconds between two reports of metrics")
    add("--log-level", default="INFO", help="DEBUG, INFO, WARNING or ERROR (default: %(default)s)")
    add("--bare", action="store_true", help="run MiniStack without the corrections")
    add("--list-corrections", action="store_true", help="list the corrections and exit")
    add("--json", action="store_true", help="with --list-corrections: as JSON")
    return parser.parse_args(arguments)


def list_corrections(*, as_json: bool) -> str:
    """Return the corrections' names and summaries, one per line or as a JSON array."""
    from localcloud.corrections import CORRECTIONS  # noqa: PLC0415 - imports MiniStack

    if as_json:
        return json.dumps([{"name": c.name, "summary": c.summary} for c in CORRECTIONS], indent=2)
    width = max(len(c.name) for c in CORRECTIONS)
    return "\n".join(f"{c.name:<{width}}  {c.summary}" for c in CORRECTIONS)


def check_version() -> None:
    """Refuse any MiniStack but the pinned one: the corrections hold on to its insides. Raises SystemExit."""
    try:
        found = importlib.metadata.version("ministack")
    except importlib.metadata.PackageNotFoundError:
        sys.exit("MiniStack is not installed here; run this in the local cloud's own environment.")
    if found != MINISTACK_VERSION:
        sys.exit(f"The local cloud needs MiniStack {MINISTACK_VERSION}, but {found} is installed.")


def check_port(port: int) -> None:
    """Raise SystemExit when something else listens on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            sys.exit(f"Port {port} on 127.0.0.1 is in use.")


def settings_from(options: argparse.Namespace) -> Settings:
    """Turn the command line into settings with absolute directories."""
    return Settings(
        port=options.port,
        data_dir=options.data_dir.resolve(),
        # A directory of our own inside it, because it is emptied without asking.
        tmp_dir=options.tmp_dir.resolve() / f"localcloud-{options.port}",
        persist=options.persist,
        auth=options.auth,
        region=options.region,
        max_environments=options.max_environments,
        python=options.python,
        wait_scale=options.wait_scale,
        retry_base_s=options.retry_base,
        metrics_interval_s=options.metrics_interval,
        log_level=options.log_level,
    )


def raise_file_limit() -> None:
    """Allow as many open files as the system lets us; bursts of connections need more than the default."""
    import resource  # noqa: PLC0415 - not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, MOST_FILES_ON_MACOS) if soft < hard or hard < 0 else ():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    import uvloop  # noqa: PLC0415 - only in the server's environment
    from hypercorn.asyncio import serve as serve_asgi  # noqa: PLC0415
    from hypercorn.config import Config  # noqa: PLC0415
    from ministack.app import app  # noqa: PLC0415 - reads the environment when imported

    config = Config()
    config.bind = [f"127.0.0.1:{settings.port}"]
    config.keep_alive_timeout = 75
    config.graceful_timeout = GRACEFUL_STOP_S
    config.startup_timeout = config.shutdown_timeout = LONGEST_SAVE_S
    config.loglevel = settings.log_level

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await serve_asgi(app, config, shutdown_trigger=stop.wait)

    uvloop.run(run())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the server; never returns when it has served."""
    options = parse(arguments)
    check_version()
    if options.list_corrections:
        print(list_corrections(as_json=options.json))  # noqa: T201
        return
    settings = settings_from(options)
    check_port(settings.port)
    shutil.rmtree(settings.tmp_dir, ignore_errors=True)  # left behind by a server that was killed
    for directory in (settings.tmp_dir, settings.data_dir):
        directory.mkdir(parents=True, exist_ok=True)
    if settings.persist:
        saving.prepare(settings.data_dir, settings.port)
    settings.apply()
    raise_file_limit()
    status = 0
    try:
        if not options.bare:
            from localcloud.corrections import install  # noqa: PLC0415 - imports MiniStack

            install(settings)
            saving.install(settings)
        serve(settings)
    except MissingInternalError as error:
        print(error, file=sys.stderr)  # noqa: T201
        status = 1
    finally:
        stop_functions(bare=options.bare)
        saving.keep(settings.data_dir)
        shutil.rmtree(settings.tmp_dir, ignore_errors=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # threads that wait for retries or callbacks must not hold the process


def stop_functions(*, bare: bool) -> None:
    """End every function process."""
    if not bare:
        from localcloud.corrections.lambda_environments import ExecutionEnvironment  # noqa: PLC0415

        ExecutionEnvironment.stop_all()
    from ministack.core import lambda_runtime  # noqa: PLC0415

    lambda_runtime.reset()


if __name__ == "__main__":
    main()
