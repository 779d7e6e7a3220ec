"""The mail service: its interface, and the one place that chooses the implementation."""

import os
from typing import Protocol


class Mailer(Protocol):
    """A mail service. A mail can't be recalled, so a caller must send each mail once."""

    def send(self, to: str, subject: str, text: str) -> None:
        """Send one mail. Raises `MailRefused`."""


def mailer() -> Mailer:
    """The mail service that the setting `MAILER` names. Raises `ValueError` for a name without a mail service."""
    match os.environ["MAILER"]:
        case "simulated":
            from orders.mail.simulated import SimulatedMailer  # noqa: PLC0415 - only if chosen

            return SimulatedMailer()
        case name:
            raise ValueError(f"MAILER is {name!r}: there is only 'simulated'")
