"""The exit codes of orderctl, and the exceptions that end a command with one of them."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of every command; scripts may rely on them."""

    OK = 0
    UNEXPECTED = 1  # a bug in orderctl; of `doctor`: findings
    USAGE = 2  # wrong option or argument
    NO_TARGET = 3  # no local cloud runs, no such stack, no AWS credentials
    REFUSED = 4  # the service refused: bad request, unknown order, wrong password
    NOT_AS_EXPECTED = 5  # an order, a redrive, a merge, a smoke … did not end as expected, or not in time
    STEP_FAILED = 6  # installing, starting, building or deploying failed, or a port is taken
    INTERRUPTED = 130  # Ctrl-C, SIGTERM or SIGHUP


EXIT_CODES_HELP = (
    "Exit codes: 0 done; 1 bug in orderctl, or findings of the doctor; 2 wrong usage; 3 no target (no local cloud, "
    "no such stack, no credentials); 4 the service refused; 5 an order, a redrive, a discard, a replay, a merge "
    "or a smoke did not end as expected; 6 a step (install, start, build, deploy) failed; 130 interrupted."
)


class Stop(Exception):
    """Ends the command without a traceback: `what` says what happened, `next_step` what the user may do."""

    def __init__(self, code: Exit, what: str, next_step: str = "") -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.next_step = next_step


class Interrupted(BaseException):
    """The user or the system ends the command. A BaseException, so that no `except Exception` catches it."""
