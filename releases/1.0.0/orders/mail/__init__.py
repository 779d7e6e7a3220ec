"""The mail service: what the order pipeline asks of one, and the one place that chooses it."""

import os
from typing import Protocol


class Mailer(Protocol):
    """What we ask of a mail service. Mail can't be called back, so a caller must send each one once."""

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
