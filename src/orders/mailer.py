"""Mail to the customer: the seam, and a simulated mailer that logs what it would send."""

from typing import Protocol

from orders.telemetry import logger


class MailRefused(Exception):  # noqa: N818
    """The recipient's mail server refuses the address."""


class Mailer(Protocol):
    """What we ask of a mail service. Mail can't be called back, so a caller must send each one once."""

    def send(self, to: str, subject: str, text: str) -> None:
        """Send one mail. Raises `MailRefused`."""


class SimulatedMailer:
    """Logs each mail's subject; refuses every address at `bounce.example`."""

    def send(self, to: str, subject: str, text: str) -> None:
        """See `Mailer.send`; neither address nor text is logged."""
        if to.endswith("@bounce.example"):
            raise MailRefused("the recipient's mail server refuses the address")
        logger.info("mail sent", extra={"subject": subject, "characters": len(text)})
