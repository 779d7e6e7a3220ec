"""The group of all commands: it turns exceptions into a message and an exit code."""

from __future__ import annotations

import os
import traceback
from typing import Any

from typer.core import TyperGroup

from orderctl import hints, interrupts
from orderctl.cloud.state import LOCAL, shown
from orderctl.exits import Exit, Interrupted, Stop
from orderctl.ui import console


class Commands(TyperGroup):
    """A group of commands whose exceptions never reach the user as a traceback."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command; raises SystemExit with one of the documented exit codes."""
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
    """Return an AWS, HTTP or system error as a message for the user; None if the error is a bug of orderctl."""
    import httpx
    from botocore.exceptions import BotoCoreError, ClientError

    if isinstance(error, ClientError):
        code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
        return Stop(Exit.REFUSED, f"{error.operation_name} was refused: {code}: {message}")
    if isinstance(error, BotoCoreError):
        return Stop(Exit.NO_TARGET, f"AWS can't be reached: {error}", "Check the target, network and credentials.")
    if isinstance(error, httpx.TransportError):
        return Stop(
            Exit.NO_TARGET,
            f"The API can't be reached: {error}",
            f"Check the local cloud: {hints.command('status')}",
        )
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
        f"This is a bug in orderctl: {type(error).__name__}: {error}",
        f"The traceback is in {shown(log)}.",
    )
    return Exit.UNEXPECTED
