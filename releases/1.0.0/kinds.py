"""What the freeze of a version must hold: every kind of thing, by group.

A copy of this file lies in each release, beside the `orders` package that it was written for. Run there, it prints
the kinds as JSON. Python puts the folder of a script first on its path, so `orders` is then the frozen package.
"""

import ast
import json
import re
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
    "execution-FAILED",
    "execution-TIMED_OUT",
    "execution-ABORTED",
    "unclassified",
)
PAYMENTS = ("CHARGED", "REFUNDED", "VOIDED", "calls-only")
SHIPMENTS = ("SHIPPED", "REFUSED", "CANCELLED", "calls-only")
IDEMPOTENCY = ("COMPLETED", "INPROGRESS")
PAYLOADS = ("inline", "bucket", "base64")


def required(root: Path) -> dict[str, list[str]]:
    """The kinds of each group of the version at `root`, which has `template.yaml`, `statemachine/` and `orders/`."""
    import orders  # noqa: PLC0415 - which `orders` this is depends on who runs this file
    from orders.domain.events import DETAIL_TYPES  # noqa: PLC0415
    from orders.domain.order import GIVEN_UP_REASON, TERMINAL, Status  # noqa: PLC0415
    from orders.inbox.record import Action, FailureStatus, Kind  # noqa: PLC0415
    from orders.mail.texts import TEXTS  # noqa: PLC0415

    workflow = (root / "statemachine" / "order.asl.yaml").read_text()
    reasons = sorted({*re.findall(r"\bcode'?: '?([A-Z]\w+)", workflow), "PaymentDeclined", GIVEN_UP_REASON.code})
    still_open = [status.value for status in Status if status not in TERMINAL]
    ended = [status.value for status in TERMINAL if status != Status.FAILED]
    statuses = [status.value for status in FailureStatus if status != FailureStatus.REDRIVEN]
    package = Path(str(orders.__file__)).parent
    return {
        "orders": sorted(
            [
                *still_open,
                *(f"{status}-given-up" for status in still_open),
                *ended,
                *(f"FAILED-{reason}" for reason in reasons),
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
        "payload_objects": ["payloads", "settled"],
        "payments": sorted(PAYMENTS),
        "shipments": sorted(SHIPMENTS),
        "catalogue": ["product"],
        "idempotency": sorted(IDEMPOTENCY),
        "receipts": ["receipt"],
        "stream": sorted(["REMOVE", "same-version", *(f"to-{status}" for status in Status)]),
        "events": sorted(DETAIL_TYPES.values()),
        "messages_fulfilment": ["task-token"],
        "messages_notifications": sorted(DETAIL_TYPES[status] for status in TEXTS),
        "messages_failures": sorted(FAILURE_FORMS),
        "workflow_inputs": sorted([*_paths(package), "running"]),
        "workflow_states": sorted(_tasks(workflow)),
    }


def _paths(package: Path) -> list[str]:
    """The values of `path` in the workflow's input, wherever in the package its class is."""
    for file in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef) and node.name == "WorkflowInput":
                for field in node.body:
                    if isinstance(field, ast.AnnAssign) and ast.unparse(field.target) == "path":
                        return [
                            str(each.value) for each in ast.walk(field.annotation) if isinstance(each, ast.Constant)
                        ]
    raise LookupError("no class WorkflowInput with a field `path` in the package")


def _tasks(workflow: str) -> list[str]:
    """The names of the Task states: what they are given and what they hand on is what an execution holds."""
    states: dict[str, Any] = yaml.safe_load(workflow)["States"]
    return [name for name, state in states.items() if state["Type"] == "Task"]


if __name__ == "__main__":
    import orders

    here = Path(__file__).resolve().parent
    if here not in Path(str(orders.__file__)).parents:
        raise SystemExit(f"the package `orders` of {here} is hidden by {orders.__file__}")
    print(json.dumps(required(here), indent=2))  # noqa: T201 - its only output
