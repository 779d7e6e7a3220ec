"""Run each sample event through `sam local invoke`, in a container, against the running local cloud.

`events/expected.json` has the expected outcome of each sample. The functions have the environment of the deployed
functions and reach the local cloud, so the sample order runs through the whole pipeline. Without a Docker engine the
script says so and ends with exit code 0.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import shlex
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import yaml
from rich.markup import escape
from rich.table import Table

from orderctl.cloud import deployment
from orderctl.cloud.state import ROOT, STACK_NAME, Cloud, CloudState, cloud_environment
from orderctl.defaults import DEFAULT_NAME
from orderctl.exits import Exit, Stop
from orderctl.stack.target import Target, local_target
from orderctl.ui import console
from orders.domain.order import TERMINAL, order_id_for

EVENTS = ROOT / "events"
# This sample places the sample order. The other samples are events of how the order ended.
FIRST = "accept_order/accepted"
# For one call, and for the sample order to end.
TIMEOUT_S = 120


def sample_names() -> list[str]:
    """Return the name of every sample event, as `<function>/<case>`."""
    return sorted(f"{path.parent.name}/{path.stem}" for path in EVENTS.glob("*/*.json"))


def expectations() -> dict[str, Any]:
    """Return the outcome of each sample: `{"returns": a part of the answer}` or `{"raises": the error's name}`.

    `"bad": true` marks a sample that the function must refuse, or put aside.
    """
    expected: dict[str, Any] = json.loads((EVENTS / "expected.json").read_text())
    return expected


def difference(expected: dict[str, Any], outcome: dict[str, Any]) -> str | None:
    """Return how an outcome differs from the expected one, or None."""
    if not outcome.keys() <= expected.keys() or outcome.get("raises") != expected.get("raises"):
        return f"expected {json.dumps(expected)}, got {json.dumps(outcome)}"
    for name, value in expected.get("returns", {}).items():
        found = (outcome["returns"] or {}).get(name)
        if found != value:
            return f"expected {name} {json.dumps(value)}, got {json.dumps(found)}"
    return None


def logical_id(name: str) -> str:
    """Return the template's name of the function that a sample is for."""
    return name.partition("/")[0].title().replace("_", "") + "Function"


def _variables(target: Target, endpoint: str) -> dict[str, dict[str, str]]:
    """Return every function's deployed environment, with an endpoint that a container can reach."""
    stack, functions = target.client("cloudformation"), target.client("lambda")
    variables = {}
    for function in sorted({logical_id(name) for name in sample_names()}):
        detail = stack.describe_stack_resource(StackName=STACK_NAME, LogicalResourceId=function)
        physical = detail["StackResourceDetail"]["PhysicalResourceId"]
        deployed = functions.get_function_configuration(FunctionName=physical)["Environment"]["Variables"]
        variables[function] = {**deployed, "AWS_ENDPOINT_URL": endpoint}
    return variables


@contextmanager
def reachable(port: int) -> Iterator[str]:
    """Yield the endpoint by which containers reach the local cloud, which listens on 127.0.0.1 only.

    Docker Desktop has a name for this machine. On Linux, a proxy on Docker's own network forwards connections.
    """
    if sys.platform != "linux":
        yield f"http://host.docker.internal:{port}"
        return
    inspected = subprocess.run(["docker", "network", "inspect", "bridge"], capture_output=True, check=True)
    network = json.loads(inspected.stdout)[0]["IPAM"]["Config"][0]
    # Docker's own address is the first one, unless it is configured otherwise.
    gateway = network.get("Gateway") or str(next(ipaddress.ip_network(network["Subnet"]).hosts()))

    class Forward(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", port)) as cloud:
                answers = threading.Thread(target=_copy, args=(cloud, self.request), daemon=True)
                answers.start()
                _copy(self.request, cloud)
                answers.join()

    with socketserver.ThreadingTCPServer((gateway, 0), Forward) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{gateway}:{server.server_address[1]}"
        server.shutdown()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


class Invoker:
    """Runs samples with `sam local invoke` in the environment that the local cloud gives the functions."""

    def __init__(self, cloud: Cloud, state: CloudState, target: Target, endpoint: str) -> None:
        self._directory = cloud.directory / "invoke"
        self._directory.mkdir(parents=True, exist_ok=True)
        self._environment = {
            **cloud_environment(cloud),
            **{name: value for name, value in os.environ.items() if name.startswith("DOCKER_")},
        }
        built = deployment.build(cloud, state.deployed, state.runtime, lambda _: None)
        template = yaml.safe_load(built.read_text())
        # `sam local` passes only variables that the template declares, and looks for code relative to the template.
        template["Globals"]["Function"]["Environment"]["Variables"]["AWS_ENDPOINT_URL"] = ""
        for name, resource in template["Resources"].items():
            if resource["Type"] == "AWS::Serverless::Function":
                resource["Properties"]["CodeUri"] = str(built.parent / name)
        (self._directory / "template.yaml").write_text(yaml.safe_dump(template, sort_keys=False))
        (self._directory / "env.json").write_text(json.dumps(_variables(target, endpoint), indent=2))
        self._overrides = deployment.parameter_overrides(state.runtime)

    def command(self, name: str) -> list[str]:
        """Return the command that runs one sample."""
        relative = self._directory.relative_to(ROOT)
        return [
            str(deployment.SAM.relative_to(ROOT)),
            *("local", "invoke", logical_id(name), "--event", f"events/{name}.json"),
            *("--template", str(relative / "template.yaml"), "--env-vars", str(relative / "env.json")),
            "--skip-pull-image",
            *self._overrides,
        ]

    def run(self, name: str, *, show: bool = False) -> dict[str, Any]:
        """Run one sample; returns its row of the result, whose `problem` is None if the outcome is as expected.

        With `show`, print the command and all its output.
        """
        began = time.monotonic()
        try:
            run = subprocess.run(
                self.command(name),
                cwd=ROOT,
                env=self._environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
            if show:
                console.out.print(f"$ {shlex.join(self.command(name))}\n{run.stderr}{run.stdout}", markup=False)
            outcome = outcome_of(run.stdout)
            problem = difference(expectations()[name], outcome) if outcome else run.stderr.strip()[-1000:]
        except subprocess.TimeoutExpired:
            outcome, problem = {}, f"no answer within {TIMEOUT_S} s"
        return {
            "sample": name,
            "outcome": outcome,
            "problem": problem,
            "seconds": round(time.monotonic() - began, 1),
        }


def outcome_of(output: str) -> dict[str, Any]:
    """Return a function's result or error from the last line of `sam local invoke`; empty if there is none."""
    try:
        answer = json.loads(output.strip().splitlines()[-1])
    except (IndexError, ValueError):
        return {}
    if isinstance(answer, dict) and "errorType" in answer:
        return {"raises": answer["errorType"]}
    return {"returns": answer}


def wait_for_sample_order(target: Target) -> None:
    """Return once the sample order has ended. Stop(NOT_AS_EXPECTED) if it has not ended after TIMEOUT_S."""
    event = json.loads((EVENTS / f"{FIRST}.json").read_text())
    customer = event["requestContext"]["authorizer"]["claims"]["sub"]
    order = order_id_for(customer, event["headers"]["Idempotency-Key"])
    deadline = time.monotonic() + TIMEOUT_S
    key = {"customerId": {"S": customer}, "orderId": {"S": order}}
    while time.monotonic() < deadline:
        found = target.client("dynamodb").get_item(
            TableName=target.output("OrdersTable"), Key=key, ConsistentRead=True
        )
        if found.get("Item", {}).get("status", {}).get("S") in TERMINAL:
            return
        time.sleep(0.2)
    raise Stop(Exit.NOT_AS_EXPECTED, f"The sample order {order} has not ended within {TIMEOUT_S} s.")


def docker_answers() -> bool:
    """Return whether a Docker engine answers."""
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def run_samples(name: str, wanted: list[str], *, as_json: bool, show: bool) -> Exit:
    """Run the samples whose names begin with one of `wanted` (all, if none is named) and show the outcomes."""
    samples = [sample for sample in sample_names() if not wanted or sample.startswith(tuple(wanted))]
    if not samples:
        raise Stop(Exit.USAGE, f"No sample event is called {' or '.join(wanted)}.", "They are in events/.")
    if not docker_answers():
        if as_json:
            console.emit_json({"skipped": "no Docker engine answers"})
        else:
            console.say("Skipped: `sam local invoke` needs Docker, and no Docker engine answers.")
        return Exit.OK
    cloud = Cloud(name)
    target = local_target(cloud)
    state = target.local
    assert state is not None
    with (
        reachable(state.port) as endpoint,
        console.step(f"Invoking {len(samples)} samples") as note,
        ThreadPoolExecutor(1 if show else 2) as pool,
    ):
        invoker = Invoker(cloud, state, target, endpoint)
        first = invoker.run(FIRST, show=show and FIRST in samples)
        if first["problem"]:
            raise Stop(Exit.NOT_AS_EXPECTED, f"{FIRST}, which the other samples need: {first['problem']}")
        wait_for_sample_order(target)
        rows = [first] if FIRST in samples else []
        others = [sample for sample in samples if sample != FIRST]
        for row in pool.map(lambda sample: invoker.run(sample, show=show), others):
            note(row["sample"])
            rows.append(row)
    if as_json:
        console.emit_json(rows)
    else:
        console.out.print(table_of(rows))
    return Exit.NOT_AS_EXPECTED if any(row["problem"] for row in rows) else Exit.OK


def table_of(rows: list[dict[str, Any]]) -> Table:
    """Return the result as a table."""
    table = Table("sample", "outcome", "seconds", "as expected")
    for row in rows:
        outcome = json.dumps(row["outcome"], ensure_ascii=False)
        table.add_row(
            row["sample"],
            escape(outcome if len(outcome) < 90 else outcome[:87] + "..."),
            f"{row['seconds']:.1f}",
            "yes" if row["problem"] is None else f"[red]{escape(row['problem'])}[/]",
        )
    return table


def main() -> Exit:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("samples", nargs="*", help="a function or <function>/<case>; default: all")
    parser.add_argument("--name", default=DEFAULT_NAME, help="the local cloud")
    parser.add_argument("--json", action="store_true", help="write the result as JSON to stdout")
    parser.add_argument("--show", action="store_true", help="print each command and all its output")
    arguments = parser.parse_args()
    try:
        return run_samples(arguments.name, arguments.samples, as_json=arguments.json, show=arguments.show)
    except Stop as stop:
        console.complain(stop.what, stop.next_step)
        return stop.code
    except KeyboardInterrupt:
        return Exit.INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
