"""`measure coldstart`: the artifact of `sam build` under Lambda's own runtime interface emulator.

Each round starts every function once, in random order, in a fresh process. Lambda's runtime client loads the
handler (INIT) and answers one event. AWS is a stub on 127.0.0.1 that answers at once. References are built the
same way and run in the same rounds, so the ratios to them hold on other machines:

  bare       a handler that does nothing
  floor      bare plus one boto3 DynamoDB client, all with bytecode
  idiomatic  what templates ship: REST resolver, pydantic, auto-patching tracer, no bytecode
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import platform
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

import build_artifact
from measure import report
from measure.options import require_known
from orderctl.cloud import server_process
from orderctl.cloud.state import LOCAL, ROOT
from orderctl.exits import Exit, Stop
from orderctl.options import Json
from orderctl.ui import console

SAM = LOCAL / "venv-sam" / "bin" / "sam"
BUDGETS = Path(__file__).with_name("coldstart_budgets.toml")
REFERENCES = Path(__file__).with_name("coldstart_references")
FUNCTIONS = sorted(path.stem for path in (ROOT / "src/orders/functions").glob("[a-z]*.py"))

# Lambda's runtime has its client and boto3 with bytecode. They are pinned here, so that runs can be compared.
RUNTIME_CLIENT = ("awslambdaric==4.2.2", "simplejson==4.3.0", "snapshot-restore-py==1.0.0")
MEASURES = {
    "init_ms": "INIT",
    "first_answer_ms": "first answer",
    "first_invoke_ms": "first invoke",
    "cpu_ms": "CPU",
    "memory_mb": "memory",
}
RUNTIME_BOTO3 = ("boto3==1.44.5", "botocore==1.44.5")
IDIOMATIC = ("aws-lambda-powertools[tracer]==3.37.0", "pydantic==2.14.3", "wrapt==2.5.2")
# The settings that choose a provider: a function refuses a name that it does not know.
PROVIDERS = {"PAYMENT_PROVIDER": "simulated", "WAREHOUSE": "simulated", "MAILER": "simulated"}


def _unavailable(what: str) -> Stop:
    """Return the error for something that the benchmark needs and that is missing."""
    return Stop(Exit.STEP_FAILED, what)


@dataclass
class Subject:
    """What is started: a handler, the directories that it imports from, and the event that it answers."""

    name: str
    handler: str
    path: list[Path]
    event: dict[str, Any]
    runs: list[ColdStartRun] = field(default_factory=list)


@dataclass(frozen=True)
class ColdStartRun:
    """One cold start; times in milliseconds, memory in megabytes."""

    init_ms: float
    first_answer_ms: float
    first_invoke_ms: float
    cpu_ms: float
    memory_mb: float
    error: str | None


class Stub(http.server.BaseHTTPRequestHandler):
    """The stub for AWS: accepts every write and finds nothing."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def answer(self) -> None:
        """Answer any request."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Type", "application/x-amz-json-1.0")
        self.send_header("ETag", '"stub"')
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_PUT = do_GET = answer  # noqa: N815 - names that http.server looks for

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing for a request."""


@contextlib.contextmanager
def stub() -> Iterator[str]:
    """Run the stub for AWS; yields its URL."""
    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    thread = threading.Thread(target=listener.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.server_port}"
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()


def emulator() -> Path:
    """Return the runtime interface emulator in the SAM CLI's package. Stop(STEP_FAILED) if there is none."""
    machine = {"x86_64": "x86_64", "aarch64": "arm64"}.get(platform.machine())
    found = list(ROOT.glob(f".local/venv-sam/lib/*/site-packages/samcli/local/rapid/aws-lambda-rie-{machine}"))
    if platform.system() != "Linux" or not found:
        raise _unavailable("Cold starts are measured on Linux with the SAM CLI installed: run `make install` there.")
    return found[0]


def choose_interpreter(runtimes: list[str]) -> tuple[str, str]:
    """Return the first of the runtimes that has an interpreter here, and that interpreter."""
    for runtime in runtimes:
        if interpreter := build_artifact.find_interpreter(runtime):
            return runtime, interpreter
    raise _unavailable(f"There is no {' or '.join(runtimes)} here: choose another --runtime.")


def installed(name: str, requirements: tuple[str, ...], interpreter: str, *, bytecode: bool) -> Path:
    """Return a directory with these packages for the interpreter, as pip lays them out. It is kept between runs."""

    def fill(directory: Path) -> None:
        command = ["pip", "install", "--quiet", "--link-mode", "copy", "--only-binary", ":all:"]
        command += ["--python", interpreter, "--target", str(directory), *requirements]
        done = subprocess.run([*build_artifact.find_uv(), *command], capture_output=True, text=True, check=False)
        if done.returncode:
            raise _unavailable(f"The packages of {name} could not be installed:\n{done.stderr.strip()}")
        build_artifact.compile_bytecode(directory, interpreter if bytecode else None)

    key = [interpreter.encode(), *(text.encode() for text in requirements), str(bytecode).encode()]
    with build_artifact.cached(f"coldstart-{name}", key, fill) as directory:
        return directory


def sam_build(runtime: str) -> Path:
    """Run `sam build` for this machine's processor; returns the artifact that all functions share."""
    directory = report.RESULTS / f"sam-{runtime}"
    done = subprocess.run(
        [SAM, "build", "AcceptOrderFunction", "--build-dir", directory, "--template-file", ROOT / "template.yaml",
         "--parameter-overrides", f"LambdaRuntime={runtime}"],
        env={**os.environ, "LAMBDA_RUNTIME": runtime, "LAMBDA_ARCHITECTURE": "native", "SAM_CLI_TELEMETRY": "0"},
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise _unavailable(f"`sam build` failed:\n{done.stderr.strip()}")
    return directory / "AcceptOrderFunction"


def sample_event(function: str) -> dict[str, Any]:
    """Return the first sample event of a function, or a request to place an order if the function has none."""
    order = {
        "currency": "EUR",
        "lines": [{"sku": "TEA-ASSAM-250", "quantity": 2}, {"sku": "CUP-STONEWARE", "quantity": 1}],
        "shippingAddress": {
            "name": "Ada Lovelace",
            "line1": "12 St James's Square",
            "city": "London",
            "postalCode": "SW1Y 4JH",
            "country": "GB",
        },
        "paymentMethod": "tok_visa",
    }
    if function != "accept_order":
        for path in sorted((ROOT / "events" / function).glob("*.json")):
            event: dict[str, Any] = json.loads(path.read_bytes())
            return event
    return {
        "resource": "/orders",
        "path": "/orders",
        "httpMethod": "POST",
        "headers": {"Content-Type": "application/json"},
        "queryStringParameters": None,
        "pathParameters": None,
        "body": json.dumps(order),
        "isBase64Encoded": False,
        "requestContext": {
            "requestId": "c6af9ac6-7b61-11e6-9a41-93e8deadbeef",
            "path": "/v1/orders",
            "stage": "v1",
            "authorizer": {"claims": {"sub": "customer-1", "email": "ada@example.com"}},
        },
    }


def subjects(functions: list[str], runtime: str, interpreter: str, scratch: Path, *, variants: bool) -> list[Subject]:
    """Return the references, the functions, and with `variants` accept_order with one measure undone at a time."""
    client = installed("runtime-client", RUNTIME_CLIENT, interpreter, bytecode=True)
    boto3 = installed("runtime-boto3", RUNTIME_BOTO3, interpreter, bytecode=True)
    idiomatic = installed("idiomatic", IDIOMATIC, interpreter, bytecode=False)
    artifact = sam_build(runtime)
    event = sample_event("accept_order")

    def reference(name: str, *path: Path) -> Subject:
        directory = scratch / name
        directory.mkdir()
        shutil.copy(REFERENCES / f"{name}.py", directory)
        return Subject(name, f"{name}.handler", [directory, *path, client, boto3], event)

    found = [reference("bare"), reference("floor"), reference("idiomatic", idiomatic)]
    for function in functions:
        handler = f"orders.functions.{function}.handler"
        found.append(Subject(function, handler, [artifact, client], sample_event(function)))
    if variants:
        own_boto3 = ("boto3", "botocore", "s3transfer", "urllib3", "jmespath", "dateutil")
        data = ("boto3/data", "botocore/data")
        for name, removed, restored in (
            ("without bytecode", [*artifact.rglob("__pycache__")], ()),
            ("with the runtime's boto3", [artifact / name for name in own_boto3], ()),
            ("with all of boto3's data", [artifact / name for name in data], data),
        ):
            directory = scratch / name.replace(" ", "-")
            shutil.copytree(artifact, directory)
            for path in removed:
                shutil.rmtree(directory / path.relative_to(artifact))
            for path_name in restored:
                shutil.copytree(boto3 / path_name, directory / path_name)
            handler = "orders.functions.accept_order.handler"
            found.append(Subject(f"accept_order {name}", handler, [directory, client, boto3], event))
    return found


def start_once(subject: Subject, interpreter: str, aws: str, log: Path) -> ColdStartRun:
    """Start the subject in a fresh process, send it one event, and stop it. Stop(STEP_FAILED) if it fails."""
    public, internal = server_process.free_port(), server_process.free_port()
    sources = "".join(path.read_text() for path in (ROOT / "src/orders").rglob("*.py"))
    environment = {
        **dict.fromkeys(re.findall(r'environ\["(\w+)', sources), "bench"),
        **PROVIDERS,
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": os.pathsep.join(map(str, subject.path)),
        "PYTHONDONTWRITEBYTECODE": "1",  # as on Lambda's read-only file system
        "LAMBDA_TASK_ROOT": str(subject.path[0]),
        "AWS_LAMBDA_FUNCTION_NAME": subject.name.split(" ")[0],
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
        "AWS_LAMBDA_FUNCTION_TIMEOUT": "30",
        "AWS_REGION": "eu-central-1",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_SESSION_TOKEN": "test",
        "AWS_ENDPOINT_URL": aws,
        "ORDERS_TABLE": "orders",
        "POWERTOOLS_SERVICE_NAME": "orders",
        "POWERTOOLS_METRICS_NAMESPACE": "OrderPipeline",
    }
    command = [
        str(emulator()), "--runtime-interface-emulator-address", f"127.0.0.1:{public}",
        "--runtime-api-address", f"127.0.0.1:{internal}", "--log-level", "info",
        interpreter, "-m", "awslambdaric", subject.handler,
    ]  # fmt: skip
    url = f"http://127.0.0.1:{public}/2015-03-31/functions/function/invocations"
    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, env=environment, cwd=subject.path[0], stdout=output, stderr=output, start_new_session=True
        )
        try:
            wait_for_port(public, process)
            request = urllib.request.Request(url, json.dumps(subject.event).encode())
            with urllib.request.urlopen(request, timeout=60) as response:
                answer = json.loads(response.read() or b"null")
            first_answer_ms = (time.perf_counter() - started) * 1000
            cpu_ms, memory_mb = consumption(process.pid)
        except OSError as error:
            text = log.read_text(errors="replace")
            raise _unavailable(f"{subject.name} did not answer: {error}\n{text[-2000:]}") from error
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()
    text = log.read_text(errors="replace")
    init = re.search(r"INIT REPORT\(durationMs: ([\d.]+)", text)
    invoke = re.search(r"INVOKE RTDONE\(status: success, .*?duration: ([\d.]+)ms", text)
    if init is None or invoke is None or "status: success" not in text:
        raise _unavailable(f"{subject.name} did not start:\n{text[-2000:]}")
    failure = answer.get("errorMessage") if isinstance(answer, dict) else None
    if isinstance(answer, dict) and int(answer.get("statusCode") or 0) >= 400:
        failure = answer["body"]
    return ColdStartRun(float(init[1]), first_answer_ms, float(invoke[1]), cpu_ms, memory_mb, failure)


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return once a process listens on the port. Stop(STEP_FAILED) if `process` ends or 10 seconds pass before."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.002)
    raise _unavailable("The runtime interface emulator did not start.")


def consumption(emulator_pid: int) -> tuple[float, float]:
    """Return the runtime's CPU milliseconds (all threads) and its peak megabytes. It is the emulator's child."""
    children = " ".join(p.read_text() for p in Path(f"/proc/{emulator_pid}/task").glob("*/children")).split()
    runtime = Path("/proc") / children[0]
    nanoseconds = sum(int(p.read_text().split()[0]) for p in runtime.glob("task/*/schedstat"))
    peak = re.search(r"VmHWM:\s+(\d+) kB", (runtime / "status").read_text())
    return nanoseconds / 1e6, int(peak[1]) / 1024 if peak else 0.0


def summary(subject: Subject, references: list[Subject], budgets: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Return the subject's medians, their ratios to the references', and the budgets that it exceeds."""

    def ratios(of: str) -> dict[str, float]:
        return {ref.name: round(median(subject, of) / median(ref, of), 3) for ref in references}

    init, cpu, budget = ratios("init_ms"), ratios("cpu_ms"), budgets.get(subject.name, {})
    return {
        "name": subject.name,
        **{of: round(median(subject, of), 1) for of in MEASURES},
        "initRatios": init,
        "cpuRatios": cpu,
        "budgets": budget,
        # Another process may cost time alone. Only our code costs CPU.
        "exceeded": [name for name, most in budget.items() if min(init[name], cpu[name]) > most],
        "error": subject.runs[-1].error,
    }


def median(subject: Subject, of: str) -> float:
    """Return the median of one of `MEASURES` over the rounds."""
    return float(statistics.median(getattr(run, of) for run in subject.runs))


def run(functions: list[str], rounds: int, *, runtime: str | None = None, variants: bool = False) -> dict[str, Any]:
    """Start each of `functions` (all, if none is named) and each reference `rounds` times; returns the figures.

    Raises Stop(STEP_FAILED) where something that the benchmark needs is missing.
    """
    log = report.RESULTS / "coldstart.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    emulator()
    # As in the Makefile: the build looks for uv on PATH, and `make install` may have put uv into the checkout.
    os.environ["PATH"] = os.pathsep.join([str(LOCAL / "uv" / "bin"), os.environ["PATH"]])
    os.environ.setdefault("UV_SYSTEM_CERTS", "1")
    wanted = [runtime] if runtime else ["python3.13", f"python3.{sys.version_info.minor}"]
    try:
        chosen, interpreter = choose_interpreter(wanted)
        with tempfile.TemporaryDirectory() as scratch, stub() as aws:
            with console.step(f"Building for {chosen}"):
                measured = subjects(functions or FUNCTIONS, chosen, interpreter, Path(scratch), variants=variants)
            with console.step(f"Starting {len(measured)} functions {rounds} times each") as note:
                for number in range(rounds + 1):  # the first round warms the page cache and is dropped
                    note(f"round {number} of {rounds}")
                    for subject in random.sample(measured, len(measured)):
                        started = start_once(subject, interpreter, aws, log)
                        if number:
                            subject.runs.append(started)
    except build_artifact.BuildError as error:
        raise _unavailable(str(error)) from error
    budgets = tomllib.loads(BUDGETS.read_text())
    return {
        "runtime": chosen,
        "results": [summary(subject, measured[:3], budgets) for subject in measured],
        "runs": {subject.name: [asdict(started) for started in subject.runs] for subject in measured},
    }


def exceeded(figures: dict[str, Any]) -> list[str]:
    """Return a sentence for each budget that `run`'s figures exceed."""
    return [
        f"{row['name']}: INIT is {row['initRatios'][name]} x {name} and CPU {row['cpuRatios'][name]} x; "
        f"the budget is {row['budgets'][name]}."
        for row in figures["results"]
        for name in row["exceeded"]
    ]


def shown(figures: dict[str, Any]) -> Iterator[Table | str]:
    """Yield the tables of `run`'s figures: medians, ratios, and the budgets that are exceeded."""
    results = figures["results"]
    yield report.table(
        "Cold start: medians in ms; memory in MB",
        ["", *MEASURES.values()],
        [[row["name"], *(row[measure] for measure in MEASURES)] for row in results],
    )
    names = list(results[0]["initRatios"])
    yield report.table(
        "Ratios to the references",
        ["", *(f"INIT/{name}" for name in names), *(f"CPU/{name}" for name in names), "budget"],
        [
            [
                row["name"],
                *row["initRatios"].values(),
                *row["cpuRatios"].values(),
                "exceeded" if row["exceeded"] else "kept" if row["budgets"] else "",
            ]
            for row in results
        ],
    )
    yield from exceeded(figures)


def command(
    *,
    function: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Which function; repeatable. Default: all."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Cold starts of each function.")] = 11,
    runtime: Annotated[
        str | None,
        typer.Option(help="Default: python3.13, or this Python where python3.13 is missing."),
    ] = None,
    variants: Annotated[
        bool, typer.Option("--variants", help="Measure accept_order also with one measure undone at a time.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure cold starts of the built functions against references and budgets.

    INIT is what the emulator reports. The first answer counts from the start of the process. The first invoke is the
    time in the handler. CPU and memory (peak) are the runtime's until its first answer. On a busy machine trust the
    ratios of CPU. A budget is exceeded where the ratio of INIT and the ratio of CPU both are above it; then the exit
    code is 5.
    """
    for name in function or []:
        require_known("function", name, FUNCTIONS)
    if runtime:
        require_known("runtime", runtime, build_artifact.RUNTIMES)
    figures = run(function or [], rounds, runtime=runtime, variants=variants)
    report.deliver("coldstart", figures, shown(figures), as_json=as_json)
    if exceeded(figures):
        raise SystemExit(int(Exit.NOT_AS_EXPECTED))
