"""How long a newcomer waits: clean clone to first fulfilled order, a second `make run`, and latencies of orders.

Clones the committed state of this checkout into a temporary directory, and stops and removes it afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from datetime import datetime
from pathlib import Path

from measure.report import ROOT, save, table
from orderctl.cloud import server
from orderctl.cloud.state import CloudState
from orderctl.demo import samples
from orderctl.stack import target
from orderctl.stack.rest import OrdersApi
from orderctl.stack.signin import token_source

GOALS = {
    "cloneToFirstOrderS": 90.0,
    "secondRunS": 25.0,
    "submitP50Ms": 30.0,
    "placedToFulfilledP50S": 3.0,
    "testsS": 360.0,
}


def make(checkout: Path, *arguments: str, until: str | None = None) -> tuple[float, float]:
    """Run make; returns seconds until a line of its output holds `until`, and until its end.

    Raises SystemExit, with its output, if it fails.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("AWS_") and name not in ("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS", "MAKELEVEL")
    }
    began = time.monotonic()
    seen = 0.0
    output: list[str] = []
    with subprocess.Popen(
        ["make", *arguments],
        cwd=checkout,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout
        for line in process.stdout:
            output.append(line)
            if until and until in line and not seen:
                seen = time.monotonic() - began
    if process.returncode:
        sys.exit(f"make {' '.join(arguments)} failed:\n{''.join(output[-40:])}")
    return seen, time.monotonic() - began


def api_of(checkout: Path) -> OrdersApi:
    """Return the REST API of the checkout's local cloud, signed in as the demo user."""
    state = CloudState(**json.loads((checkout / ".local/cloud/default/state.json").read_text()))
    there = target.of_state(state)
    return OrdersApi(there.api_url, token_source(there, None, None))


def submission_ms(api: OrdersApi, count: int) -> list[float]:
    """Return how long `count` submissions took, one after the other, in milliseconds."""
    body = json.dumps(samples.sample("fulfilled"))
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        answer = api.submit(body, str(uuid.uuid4()))
        taken.append((time.perf_counter() - began) * 1000)
        if answer.status_code != 202:
            sys.exit(f"an order was refused: {answer.text}")
    return taken


def follow_orders(api: OrdersApi, count: int) -> tuple[list[float], list[float]]:
    """Place and follow orders one at a time; return the submissions in ms, and PLACED to FULFILLED in seconds."""
    body = json.dumps(samples.sample("fulfilled"))
    submitted, fulfilled = [], []
    for _ in range(count):
        began = time.perf_counter()
        answer = api.submit(body, str(uuid.uuid4()))
        submitted.append((time.perf_counter() - began) * 1000)
        *_, ended = api.follow(answer.json()["orderId"], 60)
        at = {entry["what"]: datetime.fromisoformat(entry["at"]) for entry in ended["timeline"]}
        fulfilled.append((at["FULFILLED"] - at["PLACED"]).total_seconds())
    return submitted, fulfilled


def percentile(values: list[float], percent: int) -> float:
    """Return a percentile of the values."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def measure(checkout: Path, port: int, orders: int, *, tests: bool, cold_cache: bool) -> dict[str, float]:
    """Run everything in a fresh clone and return the figures."""
    figures: dict[str, float] = {}
    if cold_cache:
        os.environ["UV_CACHE_DIR"] = str(checkout.parent / "uv-cache")
        os.environ["PIP_NO_CACHE_DIR"] = "1"
    began = time.monotonic()
    subprocess.run(["git", "clone", "--quiet", ROOT, checkout], check=True)
    clone_s = time.monotonic() - began
    first, whole = make(checkout, "run", f"PORT={port}", until="FULFILLED")
    figures["cloneToFirstOrderS"] = clone_s + first
    figures["firstRunS"] = whole
    _, figures["secondRunS"] = make(checkout, "run", f"PORT={port}")
    api = api_of(checkout)
    submission_ms(api, 20)  # warm-up
    time.sleep(5)  # let their journeys end
    submissions, journeys = follow_orders(api, max(10, orders // 10))
    figures["submitP50Ms"] = percentile(submissions, 50)
    figures["submitP95Ms"] = percentile(submissions, 95)
    figures["placedToFulfilledP50S"] = percentile(journeys, 50)
    figures["placedToFulfilledP95S"] = percentile(journeys, 95)
    # Without a pause the journeys of the orders before take the processors that the next submission needs.
    submissions = submission_ms(api, orders)
    figures["submitBackToBackP50Ms"] = percentile(submissions, 50)
    figures["submitBackToBackP95Ms"] = percentile(submissions, 95)
    if tests:
        _, figures["testsS"] = make(checkout, "test")
    return {name: round(value, 3) for name, value in figures.items()}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--orders", type=int, default=200, help="submissions to measure (default: %(default)s)")
    parser.add_argument("--tests", action="store_true", help="also time `make test`")
    parser.add_argument("--cold-cache", action="store_true", help="download every package anew")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    options = parser.parse_args()
    target.forget_aws_environment()
    directory = Path(tempfile.mkdtemp(prefix="order-pipeline-"))
    try:
        figures = measure(
            directory / "clone",
            server.free_port(),
            options.orders,
            tests=options.tests,
            cold_cache=options.cold_cache,
        )
    finally:
        if (directory / "clone/.venv/bin/orderctl").exists():
            subprocess.run(
                [directory / "clone/.venv/bin/orderctl", "down", "--all"], capture_output=True, check=False
            )
        shutil.rmtree(directory, ignore_errors=True)
    load = os.getloadavg()[0]
    save("laptop", {**figures, "loadAverage": load})
    if options.json:
        sys.stdout.write(json.dumps(figures, indent=2) + "\n")
        return
    rows = [[name, value, f"<= {GOALS[name]:g}" if name in GOALS else ""] for name, value in figures.items()]
    table(f"From clone to order (load average {load:.1f})", ["", "measured", "goal"], rows)


if __name__ == "__main__":
    main()
