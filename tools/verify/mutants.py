"""Deliberate defects that the proof must find.

Each mutant changes one place in a copy of the checkout. The fault matrix or the stories must fail there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "mutants.md"
COPIED = ("src", "statemachine", "tools", "template.yaml", "docs")
SOURCES = ("src", "tools", "tools/localcloud/src")
MATRIX = ("matrix", "--short")
# Some defects take several coincidences, so there are many stories; the first story that fails ends the run.
STORIES = ("stories", "--examples", "2000", "--no-shrink")
TIMEOUT_S = 900
ASL = "statemachine/order.asl.yaml"
FUNCTIONS = "src/orders/functions"


@dataclass(frozen=True)
class Mutant:
    """In `file`, the first `old` after `after` becomes `new`. `first` is the check that should find it."""

    name: str
    file: str
    old: str
    new: str
    after: str = ""
    first: tuple[str, ...] = MATRIX

    def changed(self, tree: Path) -> str:
        """The file's text with the defect. Raises `LookupError` if `old` or `after` is not in the file."""
        text = (tree / self.file).read_text()
        start = text.find(self.after)
        at = text.find(self.old, start)
        if start < 0 or at < 0:
            raise LookupError(f"the mutant {self.name!r} finds nothing to change in {self.file}: update the mutant")
        return text[:at] + self.new + text[at + len(self.old) :]


MUTANTS = (
    # ---- The relay of the outbox
    Mutant(
        "PutEvents: entries that were not taken are forgotten",
        f"{FUNCTIONS}/publish_events.py",
        "left.append(sent)",
        "str(sent)",
        first=STORIES,
    ),
    Mutant(
        "PutEvents: an error is swallowed",
        f"{FUNCTIONS}/publish_events.py",
        "return batch",
        "return []",
        after='logger.exception("PutEvents failed"',
        first=STORIES,
    ),
    Mutant(
        "the relay goes on after the last failed record instead of the first",
        f"{FUNCTIONS}/publish_events.py",
        "min(unpublished",
        "max(unpublished",
        first=STORIES,
    ),
    # ---- Conditions
    Mutant(
        "acceptance overwrites an order with the same id",
        "src/orders/storage/orders.py",
        'ConditionExpression="attribute_not_exists(orderId)",',
        "",
        first=STORIES,
    ),
    Mutant(
        "an Idempotency-Key is ignored",
        "src/orders/domain/order.py",
        "if idempotency_key is None:",
        "if idempotency_key is not None:",
        first=STORIES,
    ),
    Mutant(
        "an order is marked PAID whatever its status",
        "src/orders/storage/orders.py",
        'ConditionExpression="#status = :reserved",',
        'ConditionExpression="attribute_exists(orderId) OR #status = :reserved",',
    ),
    Mutant(
        "an order that is being undone becomes PAID",
        "src/orders/storage/orders.py",
        'ConditionExpression="#status = :reserved",',
        'ConditionExpression="#status = :reserved OR (#status <> :paid AND attribute_exists(openShard))",',
    ),
    Mutant(
        "an order is cancelled whatever has become of it",
        "src/orders/storage/orders.py",
        '"#status = :current AND version = :version"',
        '"attribute_exists(orderId) OR #status = :current AND version = :version"',
        first=STORIES,
    ),
    Mutant(
        "a cancelled order keeps its reservation",
        "src/orders/storage/orders.py",
        "if self._refused_by([ends, *back]):",
        "if self._refused_by([ends, *back[:0]]):",
    ),
    Mutant(
        "a paid order may be cancelled",
        "src/orders/domain/order.py",
        "Status.PAID: frozenset({Status.FULFILLED, Status.FAILING}),",
        "Status.PAID: frozenset({Status.FULFILLED, Status.FAILING, Status.CANCELLED}),",
    ),
    Mutant(
        "each attempt charges",
        "src/orders/payments/simulated.py",
        'ConditionExpression="attribute_not_exists(#status)",',
        'ConditionExpression="attribute_not_exists(#status) OR attribute_exists(#status)",',
    ),
    Mutant(
        "each attempt refunds",
        "src/orders/payments/simulated.py",
        '"#status = :charged" if charged else',
        '"attribute_exists(#status)" if charged else',
        first=STORIES,
    ),
    Mutant(
        "a refund before the charge leaves the charge possible",
        "src/orders/payments/simulated.py",
        '        charged = entry.get("status", {}).get("S") == "CHARGED"\n',
        '        charged = entry.get("status", {}).get("S") == "CHARGED"\n'
        '        if not charged:\n            return "VOIDED"\n',
        first=STORIES,
    ),
    Mutant(
        "each message ships",
        "src/orders/warehouse/simulated.py",
        'ConditionExpression="attribute_not_exists(#status)",',
        'ConditionExpression="attribute_not_exists(#status) OR attribute_exists(#status)",',
    ),
    Mutant(
        "stock is reserved that isn't there",
        ASL,
        "available >= :quantity",
        "available >= :quantity OR attribute_exists(sku)",
    ),
    Mutant(
        "an order is reserved whatever its status",
        ASL,
        "'ConditionExpression': '#status = :from',",
        "'ConditionExpression': 'attribute_exists(orderId) OR #status = :from',",
        after="  ReserveInventory:\n",
    ),
    Mutant(
        "stock is reserved in a shard that is being merged away",
        ASL,
        " AND attribute_not_exists(closed)",
        "",
        first=STORIES,
    ),
    Mutant(
        "an order is fulfilled whatever its status",
        "src/orders/storage/orders.py",
        'condition="#status IN (:paid, :failing)"',
        'condition="#status IN (:paid, :failing) OR attribute_exists(orderId)"',
    ),
    Mutant(
        "an order that was given up and has left is not fulfilled",
        "src/orders/storage/orders.py",
        'condition="#status IN (:paid, :failing)"',
        'condition="#status = :paid AND #status <> :failing"',
    ),
    Mutant(
        "an order is released whatever its status",
        ASL,
        "'ConditionExpression': '#status = :from',",
        "'ConditionExpression': '#status = :from OR attribute_exists(orderId)',",
        after="  ReleaseInventory:\n",
    ),
    Mutant(
        "a line gives all of its stock back to the product's own item",
        "src/orders/domain/stock.py",
        "return line.taken or [Taken(0, line.quantity)]",
        "return [Taken(0, line.quantity)]",
    ),
    Mutant(
        "an order that was given up before it was reserved gives stock back",
        "src/orders/domain/stock.py",
        "if line.unit_price is None:",
        "if line.sku is None:",
    ),
    Mutant(
        "the order does not note which shards it took from",
        ASL,
        "'SET #status = :to, version = version + :one, #total = :total, #lines = :lines,",
        "'SET #status = :to, version = version + :one, #total = :total,",
    ),
    Mutant(
        "an order fails whatever its status",
        ASL,
        'ConditionExpression: "#status = :from"',
        'ConditionExpression: "#status = :from OR attribute_exists(orderId)"',
    ),
    # ---- Swallowed errors, lost answers
    Mutant(
        "a charge for an order that has ended is kept",
        "src/orders/storage/orders.py",
        "raise OrderCancelled(",
        "return None  # (",
    ),
    Mutant(
        "a failed message counts as done",
        "src/orders/runtime/queues.py",
        "        return super().failure_handler(record, exception)",
        "        return super().success_handler(record, None)",
        first=STORIES,
    ),
    Mutant(
        "an order that the warehouse refuses stays PAID",
        f"{FUNCTIONS}/ship_order.py",
        "        _orders.start_failing(order.customer_id, order.order_id, reason, only=(Status.PAID,))\n",
        "        str(reason)\n",
    ),
    Mutant(
        "a message that the warehouse refuses counts as a failure",
        f"{FUNCTIONS}/ship_order.py",
        '        metrics.add_metric("ShipmentRefused", "Count", 1)\n        return\n',
        "        raise\n",
    ),
    Mutant(
        "a conflict over a product counts as fulfilled",
        f"{FUNCTIONS}/ship_order.py",
        "                raise\n",
        "                return\n",
        after="if pause_s is None:",
    ),
    Mutant(
        "a parcel that has left counts as called off",
        "src/orders/warehouse/simulated.py",
        'raise AlreadyShipped(f"the parcel of order {order_id} has left")',
        "return",
    ),
    # ---- Consumers that aren't idempotent
    Mutant(
        "each duplicate of an event mails",
        f"{FUNCTIONS}/notify_customer.py",
        'event_key_jmespath="eventId"',
        'event_key_jmespath="missing"',
        first=STORIES,
    ),
    Mutant(
        "each duplicate of an event writes another receipt",
        f"{FUNCTIONS}/issue_receipt.py",
        "{order.order_id}.json",
        "{order.order_id}-{os.urandom(4).hex()}.json",
        first=STORIES,
    ),
    # ---- The workflow's ways
    Mutant("no request token for the reservation", ASL, "      ClientRequestToken:", "      # ClientRequestToken:"),
    Mutant(
        "a declined card is not caught",
        ASL,
        "      - ErrorEquals: [PaymentDeclined, PaymentError]\n        Assign:",
        "      - ErrorEquals: [NoSuchError]\n        Assign:",
    ),
    Mutant(
        "time-outs of the payment are not caught",
        ASL,
        "      - ErrorEquals: [States.ALL]\n        Assign:\n          stuck: \"{% {'state': 'ProcessPayment'",
        "      - ErrorEquals: [States.TaskFailed]\n        Assign:\n          stuck: \"{% {'state': 'ProcessPayment'",
    ),
    Mutant(
        "nothing is caught when a refund fails",
        ASL,
        "    Catch:\n      - ErrorEquals: [States.ALL]\n        Assign:\n"
        "          stuck: \"{% {'state': 'RefundPayment', 'error': $states.errorOutput} %}\"\n"
        "        Next: LookOnceMore\n",
        "",
    ),
    Mutant(
        "an order is undone without calling its parcel off",
        ASL,
        "        Next: CancelShipment",
        "        Next: RefundPayment",
    ),
    Mutant(
        "an order that was given up is not refunded",
        ASL,
        "    Next: RefundPayment\n",
        "    Next: ReleaseInventory\n",
        after="  CancelShipment:\n",
    ),
    Mutant(
        "a parcel that has left is undone all the same",
        ASL,
        "        Next: FulfillOrder\n",
        "        Next: RefundPayment\n",
        after="      - ErrorEquals: [AlreadyShipped]\n        Next",
    ),
    Mutant(
        "a declined order keeps its reservation",
        ASL,
        "        Next: ReleaseInventory\n",
        "        Next: NothingToDo\n",
        after="      - ErrorEquals: [PaymentDeclined, PaymentError]\n        Assign",
    ),
    Mutant(
        "a paid order is not taken up again",
        ASL,
        "$status = 'PAID' %}",
        "$status = 'NEVER' %}",
    ),
    Mutant(
        "an order that was given up is not taken up",
        ASL,
        "$status = 'FAILING' %}",
        "$status = 'NEVER' %}",
    ),
    Mutant(
        "a restarted workflow begins at the beginning, whatever the order's status",
        ASL,
        "      - Condition: \"{% $status = 'PLACED' %}\"",
        "      - Condition: \"{% $status in ['PLACED', 'RESERVED'] %}\"",
    ),
    Mutant(
        "an execution that gets nowhere ends well",
        ASL,
        "    Default: ReportStuck\n",
        "    Default: NothingToDo\n",
        after="  DoesSomebodyElseWorkOnIt:",
    ),
    Mutant(
        "an execution that gets nowhere reports nothing",
        ASL,
        "    Default: ReportStuck\n",
        "    Default: OrderStuck\n",
        after="  DoesSomebodyElseWorkOnIt:",
    ),
    Mutant(
        "the report of a stuck order is no form that the inbox knows",
        ASL,
        "        kind: StuckOrder\n",
        "        kind: OrderIsStuck\n",
    ),
    Mutant(
        "the report of a stuck order names no order",
        ASL,
        "        orderId: \"{% $exists($order.orderId) ? $order.orderId : '' %}\"\n",
        "        orderId: ''\n",
        after="        kind: StuckOrder\n",
    ),
    Mutant(
        "the report of a stuck order is sent once only",
        ASL,
        "        MaxAttempts: 3\n",
        "        MaxAttempts: 0\n",
        after="        execution: ",
    ),
    Mutant(
        "a conflict over a product ends the execution",
        ASL,
        "    Default: ReserveLater\n",
        "    Default: NothingToDo\n",
    ),
    Mutant(
        "a refused reservation fails the execution without another look",
        ASL,
        "        Next: ValidateOrder\n    Default: ReserveLater",
        "        Next: LookOnceMore\n    Default: ReserveLater",
    ),
    Mutant(
        "figures that may be old decide that a product is sold out",
        f"{FUNCTIONS}/validate_order.py",
        "    if sold_out := [line.sku for line in missing if not may_suffice(line.quantity, stock[line.sku])]:",
        "    if sold_out := [line.sku for line in missing]:",
        first=STORIES,
    ),
    Mutant(
        "a conflict over a product is tried for ever",
        ASL,
        "$toMillis($states.context.Execution.StartTime) >= 60000",
        "$toMillis($states.context.Execution.StartTime) >= 60000000",
    ),
    Mutant(
        "a refused release is tried for ever",
        ASL,
        "$toMillis($states.context.Execution.StartTime) >= 200000",
        "$toMillis($states.context.Execution.StartTime) >= 200000000",
    ),
    Mutant(
        "a throttled reservation goes to the inbox at once",
        ASL,
        "/ConditionalCheckFailed|TransactionConflict|ThrottlingError|ProvisionedThroughputExceeded/",
        "/ConditionalCheckFailed|TransactionConflict/",
    ),
    Mutant(
        "an order that its customer has cancelled meanwhile goes to the inbox",
        ASL,
        "$found in ['FULFILLED', 'FAILED', 'CANCELLED']",
        "$found in ['FULFILLED', 'FAILED']",
    ),
    Mutant(
        "an order that was given up meanwhile goes to the inbox",
        ASL,
        "$found = 'FAILING' and $status in ['PLACED', 'RESERVED', 'PAID']",
        "$found = 'NEVER' and $status in ['PLACED', 'RESERVED', 'PAID']",
    ),
    # ---- Giving up
    Mutant(
        "a workflow carries on an order that 1.0.0 gave up",
        f"{FUNCTIONS}/validate_order.py",
        "if order.given_up and order.status in CAN_FAIL:",
        "if order.given_up and order.status is None:",
    ),
    Mutant(
        "an order that was given up loses its reason",
        ASL,
        "reason = if_not_exists(reason, :reason)",
        "reason = :reason",
        after="  ReleaseInventory:\n",
    ),
    Mutant(
        "an order is given up whatever its status",
        "src/orders/storage/orders.py",
        "ConditionExpression=f\"#status IN ({', '.join(names)})\",",
        "ConditionExpression=f\"#status IN ({', '.join(names)}) OR attribute_exists(orderId)\",",
    ),
    Mutant(
        "the warehouse's refusal gives up an order that has ended",
        f"{FUNCTIONS}/ship_order.py",
        "reason, only=(Status.PAID,))",
        "reason, only=tuple(Status))",
    ),
    Mutant(
        "only a stuck workflow's order is undone when its failure is discarded",
        "src/orders/workflow.py",
        'or ":states:" in failure.redrive.to',
        "or False",
        first=STORIES,
    ),
    Mutant(
        "a discarded message to the warehouse leaves its order as it is",
        "src/orders/workflow.py",
        "or failure.resource_arn == fulfilment_queue_arn",
        "or False",
        first=STORIES,
    ),
    Mutant(
        "a discarded event leaves its order waiting",
        "src/orders/workflow.py",
        "failure.redrive.action in (Action.PUBLISH, Action.RESUME)",
        "failure.redrive.action in (Action.RESUME,)",
        first=STORIES,
    ),
    Mutant(
        "a message to the warehouse is refused while its order is being undone",
        "src/orders/redrive/sending.py",
        "            return self._start(record, payload)\n",
        '            raise CannotSend("the order was given up")\n',
        after="The workflow ships only what has left.",
    ),
    Mutant(
        "an order is given up and nobody starts its undoing",
        "template.yaml",
        "detail-type: [OrderPlaced, OrderFailing]",
        "detail-type: [OrderPlaced]",
    ),
    # ---- What runs by itself
    Mutant(
        "the sweep starts an order without a claim",
        "src/orders/functions/sweep_orders.py",
        "if not _orders.claim_restart(order, min(in_vain + 1, RESTARTS_IN_VAIN)):",
        "if not order.order_id:",
    ),
    Mutant(
        "the sweep finds no order whose execution died",
        "src/orders/storage/orders.py",
        "AND updatedAt < :since",
        "AND updatedAt > :since",
    ),
    Mutant(
        "the sweep starts an order that nothing helps for ever",
        "src/orders/functions/sweep_orders.py",
        "if in_vain >= RESTARTS_IN_VAIN",
        "if in_vain > RESTARTS_IN_VAIN",
    ),
    Mutant(
        "a reservation never expires",
        "src/orders/functions/sweep_orders.py",
        "if order.status in UNPAID and order.placed_at < self._expired_since:",
        "if order.status in UNPAID and order.placed_at < order.order_id[:0]:",
    ),
    Mutant(
        "an order in the inbox never expires",
        "src/orders/functions/sweep_orders.py",
        "if order.status in UNPAID and order.placed_at < self._expired_since:",
        "if order.status in UNPAID and order.placed_at < self._expired_since "
        "and order.order_id not in (self._attended or {}):",
    ),
    Mutant(
        "nothing heals by itself",
        "src/orders/inbox/healing.py",
        "return failure.redrive.action in HEALABLE and",
        "return failure.redrive.action is None and",
    ),
    Mutant(
        "a claim that its redrive never confirmed is never released",
        "src/orders/functions/sweep_orders.py",
        "                and not record.sent_at\n",
        "                and record.sent_at\n",
        first=STORIES,
    ),
    Mutant(
        "the sweep expires an order that is paid",
        "src/orders/functions/sweep_orders.py",
        "UNPAID = (Status.PLACED, Status.RESERVED)",
        "UNPAID = (Status.PLACED, Status.RESERVED, Status.PAID)",
        first=STORIES,
    ),
    # ---- The template's nets
    Mutant(
        "a receipt that fails for good goes nowhere",
        "template.yaml",
        "OnFailure: {Type: SQS, Destination: !GetAtt FailuresQueue.Arn}",
        "OnSuccess: {Type: SQS, Destination: !GetAtt FailuresQueue.Arn}",
        after="  IssueReceiptFunction:",
        first=STORIES,
    ),
    Mutant(
        "nobody refunds what is cancelled",
        "template.yaml",
        "detail-type: [OrderCancelled]}",
        "detail-type: [OrderCalledOff]}",
        first=STORIES,
    ),
)


@dataclass(frozen=True)
class MutantResult:
    """The check that found a mutant, "" for none, and the sentence that the check printed."""

    mutant: Mutant
    by: str
    said: str


def outdated() -> list[str]:
    """One sentence for each mutant that can't be applied, and for each difference from docs/mutants.md."""
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")][1:]
    written = {row.split(" | ")[0].removeprefix("| ") for row in rows}
    named = {mutant.name for mutant in MUTANTS}
    found = [f"docs/mutants.md is out of date: {name}" for name in sorted(written ^ named)]
    for mutant in MUTANTS:
        try:
            mutant.changed(ROOT)
        except LookupError as error:
            found.append(str(error))
    return found


def run(console: Console, *, only: str = "", write: bool = False, jobs: int = 2) -> list[str]:
    """Run the mutants whose names contain one of the texts in `only` (separated by commas); return the survivors."""
    chosen = [mutant for mutant in MUTANTS if any(part in mutant.name for part in only.split(","))]
    results = []
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(jobs) as pool:
        failed, said = _check(_copy(Path(directory), "clean"), MATRIX)
        if failed:
            raise SystemExit(f"the proof fails without any mutant: {said}")
        for result in pool.map(lambda pair: _try(Path(directory), *pair), enumerate(chosen)):
            results.append(result)
            colour, word = ("green", f"found by the {result.by}") if result.by else ("red", "SURVIVED")
            console.print(f"[{colour}]{word}[/] {result.mutant.name}")
    if write:
        DOCUMENT.write_text(_document(results))
    return [result.mutant.name for result in results if not result.by]


def _copy(directory: Path, name: str) -> Path:
    tree = directory / name
    if not tree.exists():
        tree.mkdir()
        for each in COPIED:
            source = ROOT / each
            if source.is_dir():
                shutil.copytree(source, tree / each, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.exists():
                shutil.copy2(source, tree / each)
        (tree / ".local").symlink_to(ROOT / ".local")
    return tree


def _try(directory: Path, number: int, mutant: Mutant) -> MutantResult:
    tree = _copy(directory, str(number))
    try:
        try:
            (tree / mutant.file).write_text(mutant.changed(tree))
        except LookupError as outdated:
            return MutantResult(mutant, "", str(outdated))
        for check in (mutant.first, STORIES if mutant.first == MATRIX else MATRIX):
            failed, said = _check(tree, check)
            if failed:
                return MutantResult(mutant, {"matrix": "fault matrix", "stories": "stories"}[check[0]], said)
        return MutantResult(mutant, "", "")
    finally:
        shutil.rmtree(tree, ignore_errors=True)


def _check(tree: Path, check: tuple[str, ...]) -> tuple[bool, str]:
    """Run one check in a tree; return whether it failed, and the sentence that says why."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(tree / each) for each in SOURCES),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "verify", *check],
            cwd=tree,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return True, f"the check took longer than {TIMEOUT_S} s"
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    said = next((line for line in lines if any(word in line for word in SENTENCES)), lines[-1] if lines else "")
    return done.returncode != 0, said


SENTENCES = ("LOST", "DOUBLED", " is FAILED", " is FULFILLED", " is CANCELLED", "reserved", "stock", "became", "sold")


def _document(results: list[MutantResult]) -> str:
    lines = [
        "# Mutants",
        "",
        "Written by `make prove-mutants`; don't edit. Each row is a deliberate defect, applied alone to a copy of",
        "the checkout, and the sentence that the proof prints. How the proof works: [proof.md](proof.md).",
        "",
        "| defect | in | found by | which says |",
        "|---|---|---|---|",
    ]
    found = {each.mutant.name: _row(each) for each in results}
    for mutant in MUTANTS:
        row = found.get(mutant.name) or _written(mutant)  # a mutant that did not run keeps its row
        lines += [row] if row else []
    survived = sum("**nothing**" in line for line in lines)
    lines += ["", f"{len(lines) - 7} defects, {survived} of them not found."]
    return "\n".join(lines) + "\n"


def _row(result: MutantResult) -> str:
    by = result.by or "**nothing**"
    return f"| {result.mutant.name} | {result.mutant.file} | {by} | {_cell(result.said)} |"


def _written(mutant: Mutant) -> str:
    lines = DOCUMENT.read_text().splitlines() if DOCUMENT.exists() else []
    return next((line for line in lines if line.startswith(f"| {mutant.name} |")), "")


def _cell(text: str) -> str:
    return text[:160].replace("|", "/")
