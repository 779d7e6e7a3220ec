"""The command `localcloud`: runs MiniStack with the corrections until SIGINT or SIGTERM.

A stop saves the state (with --persist), ends every function process and removes the temporary files.
"""

import argparse
import asyncio
import contextlib
import importlib.metadata
import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from localcloud import MINISTACK_VERSION, saving
from localcloud.settings import Settings, StartError

GRACEFUL_STOP_S = 1.0
LONGEST_SAVE_S = 120.0
MOST_FILES_ON_MACOS = 10_240  # macOS refuses its own hard limit where that is "unlimited"
EXAMPLES = """\
examples:
  localcloud                                   start on port 4566 and keep nothing; Ctrl-C stops
  localcloud --port 4567 --persist             save everything at a stop, load it at the next start
  localcloud --python .venv/bin/python3.13     run functions on another interpreter
  localcloud --list-corrections                say what differs from MiniStack

  AWS_ENDPOINT_URL=http://127.0.0.1:4566 AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test \\
    AWS_DEFAULT_REGION=us-east-1 sam deploy --stack-name hello --resolve-s3 --capabilities CAPABILITY_IAM
"""


def port_number(text: str) -> int:
    """Return the port that `text` names. Raises ArgumentTypeError unless it is 1 to 65535."""
    if not text.isdecimal() or not 1 <= int(text) <= 65_535:
        raise argparse.ArgumentTypeError(f"{text} is not a port: use a number from 1 to 65535")
    return int(text)


def version() -> str:
    """Return the versions of this package and of MiniStack, as --version prints them."""
    return f"localcloud {importlib.metadata.version('localcloud')} (MiniStack {MINISTACK_VERSION})"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="localcloud",
        description="A local AWS on 127.0.0.1: MiniStack with AWS's failure semantics.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flag = argparse.BooleanOptionalAction
    add = parser.add_argument
    add("--port", type=port_number, default=4566, help="port on 127.0.0.1 (default: %(default)s)")
    add("--data-dir", type=Path, default=".localcloud", help="what --persist saves (default: %(default)s)")
    add("--tmp-dir", type=Path, default=tempfile.gettempdir(), help="temporary files (default: %(default)s)")
    add("--persist", action=flag, default=False, help="save everything at a stop, load it at a start")
    add("--auth", action=flag, default=True, help="enforce IAM and resource policies")
    add("--region", default="us-east-1", help="the only region (default: %(default)s)")
    add("--max-environments", type=int, default=4, help="processes of one function (default: %(default)s)")
    add("--python", default=sys.executable, help="interpreter of functions (default: this one)")
    add("--wait-scale", type=float, default=1.0, help="factor on waits and retry intervals of Step Functions")
    add("--express-timeout", type=float, default=300.0, help="longest run of an Express execution, in seconds")
    add("--retry-base", type=float, default=1.0, help="delay of a first retry, in seconds (AWS: a minute)")
    add("--metrics-interval", type=float, default=60.0, help="seconds between two reports of metrics")
    levels = ("DEBUG", "INFO", "WARNING", "ERROR")
    add("--log-level", default="INFO", choices=levels, type=str.upper, help="least severe log level (default: INFO)")
    add("--bare", action="store_true", help="run MiniStack without the corrections")
    add("--list-corrections", action="store_true", help="list the corrections and exit")
    add("--json", action="store_true", help="with --list-corrections: as JSON")
    add("--version", action="store_true", help="print the version and exit")
    return parser.parse_args(arguments)


def list_corrections(*, as_json: bool) -> str:
    """Return the corrections: name and effect of each in a line, or all that they declare as a JSON array."""
    from localcloud.corrections import CORRECTIONS  # noqa: PLC0415 - imports MiniStack

    if as_json:
        declared = [{name: text for name, text in asdict(c).items() if name != "install"} for c in CORRECTIONS]
        return json.dumps(declared, indent=2)
    width = max(len(c.name) for c in CORRECTIONS)
    return "\n".join(f"{c.name:<{width}}  {c.here}" for c in CORRECTIONS)


def check_version() -> None:
    """Raise StartError unless the MiniStack that the corrections fit is installed."""
    try:
        found = importlib.metadata.version("ministack")
    except importlib.metadata.PackageNotFoundError:
        raise StartError("MiniStack is not installed here. Install localcloud with its dependencies.") from None
    if found != MINISTACK_VERSION:
        raise StartError(f"localcloud needs MiniStack {MINISTACK_VERSION}, but {found} is installed.")


def check_port(port: int) -> None:
    """Raise StartError if the port can't be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError:
            raise StartError(f"Port {port} is reserved for root. Choose another one with --port.") from None
        except OSError:
            raise StartError(f"Port {port} on 127.0.0.1 is in use. Choose another one with --port.") from None


def make_directories(settings: Settings) -> None:
    """Make an empty temporary directory and, with `persist`, the data directory. Raises StartError."""
    shutil.rmtree(settings.tmp_dir, ignore_errors=True)  # of a server that was killed
    try:
        if settings.persist:
            saving.prepare(settings.data_dir, settings.port)
        settings.tmp_dir.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise StartError(f"{error.filename} can't be used: {error.strerror}.") from None


def settings_from(options: argparse.Namespace) -> Settings:
    """Turn the command line into settings with absolute directories."""
    return Settings(
        port=options.port,
        data_dir=options.data_dir.resolve(),
        # A directory of the server's own, because it is emptied without asking.
        tmp_dir=options.tmp_dir.resolve() / f"localcloud-{options.port}",
        persist=options.persist,
        auth=options.auth,
        region=options.region,
        max_environments=options.max_environments,
        python=options.python,
        wait_scale=options.wait_scale,
        express_timeout_s=options.express_timeout,
        retry_base_s=options.retry_base,
        metrics_interval_s=options.metrics_interval,
        log_level=options.log_level,
    )


def raise_file_limit() -> None:
    """Raise the limit of open files as far as the system allows; bursts of connections need more than the default."""
    import resource  # noqa: PLC0415 - not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, MOST_FILES_ON_MACOS) if soft < hard or hard < 0 else ():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; says on standard output when the server is ready."""
    import uvloop  # noqa: PLC0415 - --help must work without the dependencies
    from hypercorn.asyncio import serve as serve_asgi  # noqa: PLC0415
    from hypercorn.config import Config  # noqa: PLC0415
    from ministack.app import app  # noqa: PLC0415 - reads the environment when imported

    config = Config()
    config.bind = [f"127.0.0.1:{settings.port}"]
    config.keep_alive_timeout = 75
    config.graceful_timeout = GRACEFUL_STOP_S
    config.startup_timeout = config.shutdown_timeout = LONGEST_SAVE_S
    config.loglevel = settings.log_level
    config.errorlog = logging.getLogger("hypercorn.error")  # a name instead would log each line twice

    async def serve_until_stopped() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        announcement = asyncio.create_task(announce(settings))
        await serve_asgi(app, config, shutdown_trigger=stop.wait)
        announcement.cancel()

    uvloop.run(serve_until_stopped())


async def announce(settings: Settings) -> None:
    """Print one line as soon as the server listens."""
    while True:
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", settings.port)
            writer.close()
            break
        await asyncio.sleep(0.02)
    print(f"{version()} is ready on {settings.endpoint}. Ctrl-C stops it.", flush=True)  # noqa: T201


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; ends the process after serving."""
    options = parse(arguments)
    if options.version:
        print(version())  # noqa: T201
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until the server has handlers of its own
    try:
        check_version()
        if options.list_corrections:
            print(list_corrections(as_json=options.json))  # noqa: T201
            return
        settings = settings_from(options)
        check_port(settings.port)
        make_directories(settings)
    except StartError as error:
        sys.exit(str(error))
    status = 0
    try:
        run(settings, bare=options.bare)
    except StartError as error:
        print(error, file=sys.stderr)  # noqa: T201
        status = 1
    except KeyboardInterrupt:
        status = 130
    finally:
        clean_up(settings, bare=options.bare)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # threads that wait for retries or answers must not hold the process


def run(settings: Settings, *, bare: bool) -> None:
    """Install the corrections and serve. Raises StartError."""
    settings.apply()
    raise_file_limit()
    if not bare:
        from localcloud.corrections import install  # noqa: PLC0415 - imports MiniStack

        install(settings)
    serve(settings)


def clean_up(settings: Settings, *, bare: bool) -> None:
    """End every function process, complete the saved state, and remove the temporary files."""
    stop_functions(bare=bare)
    if settings.persist:
        saving.keep(settings.data_dir)
    shutil.rmtree(settings.tmp_dir, ignore_errors=True)


def stop_functions(*, bare: bool) -> None:
    """End every function process."""
    if not bare:
        from localcloud.corrections.lambda_environments import ExecutionEnvironment  # noqa: PLC0415

        ExecutionEnvironment.stop_all()
    from ministack.core import lambda_runtime  # noqa: PLC0415

    lambda_runtime.reset()
