"""A simulated mail service that logs what it would send, and refuses every address at `bounce.example`."""

from orders.domain.errors import MailRefused
from orders.runtime.telemetry import logger


class SimulatedMailer:
    """Logs each mail's subject, never its address or text."""

    def send(self, to: str, subject: str, text: str) -> None:
        """See `Mailer.send`."""
        if to.endswith("@bounce.example"):
            raise MailRefused("the recipient's mail server refuses the address")
        logger.info("mail sent", extra={"subject": subject, "characters": len(text)})
