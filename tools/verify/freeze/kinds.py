"""What the freeze of a version must hold: every kind of thing, by group.

A copy of this file lies in each release, beside the `orders` package that it was written for. Run there, it prints
the kinds as JSON. Python puts the folder of a script first on its path, so `orders` is then the frozen package.
"""

import json
from pathlib import Path
from typing import Any

import yaml

# What no word of the package names: the forms of AWS's messages, and the entries of the simulated ledgers.
FAILURE_FORMS = (
    "rule-dead-letter",
    "schedule-dead-letter",
    "moved-message",
    "poison-report",
    "invocation-record",
    "stream-batch",
    "parked-record",
    "stuck-order",
    "unclassified",
)
PAYMENTS = ("CHARGED", "REFUNDED", "VOIDED", "calls-only")
SHIPMENTS = ("SHIPPED", "REFUSED", "CANCELLED", "calls-only")
IDEMPOTENCY = ("COMPLETED", "INPROGRESS")
PAYLOADS = ("inline", "bucket", "base64")
# Reasons that functions give; the workflow's definition names the others.
REASONS = ("WarehouseError", "Expired")
# The base class of the provider's refusals, which no simulated provider raises itself.
NEVER_RAISED = ("PaymentError",)
# Who started an execution: a rule, with an event; or the sweep or a redrive, with the order's ids.
STARTED_BY = ("event", "ids")


def required(root: Path) -> dict[str, list[str]]:
    """The kinds of each group of the version at `root`, which has `template.yaml`, `statemachine/` and `orders/`."""
    from orders.domain.events import DETAIL_TYPES  # noqa: PLC0415 - which `orders` this is depends on who runs this file
    from orders.domain.order import GIVEN_UP_REASON, TERMINAL, Status  # noqa: PLC0415
    from orders.inbox.record import Action, FailureStatus, Kind  # noqa: PLC0415
    from orders.mail.texts import TEXTS  # noqa: PLC0415

    states: dict[str, Any] = yaml.safe_load((root / "statemachine" / "order.asl.yaml").read_text())["States"]
    reasons = sorted({*_refusals(states), *REASONS, GIVEN_UP_REASON.code} - {*NEVER_RAISED})
    still_open = [status.value for status in Status if status not in TERMINAL]
    ended = [status.value for status in TERMINAL if status != Status.FAILED]
    statuses = [status.value for status in FailureStatus if status != FailureStatus.REDRIVEN]
    return {
        "orders": sorted(
            [
                *still_open,
                *ended,
                *(f"FAILED-{reason}" for reason in reasons),
                "taken-from-shards",
                "restarted",
            ]
        ),
        "failures": sorted(
            [
                *(f"kind-{kind}" for kind in Kind),
                *(f"status-{status}" for status in [*statuses, "REDRIVEN-claimed", "REDRIVEN-sent"]),
                *(f"action-{action}" for action in Action),
                *(f"payload-{place}" for place in PAYLOADS),
            ]
        ),
        "healing": ["cause", "holds"],
        "payload_objects": ["payloads", "settled"],
        "payments": sorted(PAYMENTS),
        "shipments": sorted(SHIPMENTS),
        "catalogue": ["closed-shard", "product", "sharded-product", "shard"],
        "idempotency": sorted(IDEMPOTENCY),
        "receipts": ["receipt"],
        "stream": sorted(["REMOVE", "same-version", *(f"to-{status}" for status in Status)]),
        "events": sorted(DETAIL_TYPES.values()),
        "messages_fulfilment": ["order"],
        "messages_notifications": sorted(DETAIL_TYPES[status] for status in TEXTS),
        "messages_failures": sorted(FAILURE_FORMS),
        "workflow_inputs": sorted(STARTED_BY),
        "workflow_states": sorted(name for name, state in states.items() if state["Type"] == "Task"),
    }


def _refusals(states: dict[str, Any]) -> set[str]:
    """The errors that the workflow's definition makes an order's reason."""
    return {
        error
        for state in states.values()
        for catch in state.get("Catch", [])
        if catch["Next"] in ("OrderFailed", "ReleaseInventory")
        for error in catch["ErrorEquals"]
    }


if __name__ == "__main__":
    import orders

    here = Path(__file__).resolve().parent
    if here not in Path(str(orders.__file__)).parents:
        raise SystemExit(f"the package `orders` of {here} is hidden by {orders.__file__}")
    print(json.dumps(required(here), indent=2))  # noqa: T201 - its only output
