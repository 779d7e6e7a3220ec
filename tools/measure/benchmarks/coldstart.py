"""Measures cold starts: the artifact of `sam build` under Lambda's own runtime interface emulator.

Each round starts every function once, in random order, in a fresh process: Lambda's runtime client loads the
handler (INIT) and answers one event. AWS is a stub on 127.0.0.1 that answers at once. References, built the
same way in the same run, give ratios that hold on other machines:

  bare       a handler that does nothing
  floor      bare plus one boto3 DynamoDB client, all with bytecode
  idiomatic  what templates ship: REST resolver, pydantic, auto-patching tracer, no bytecode
"""
# ruff: noqa: T201 - a table is what this is for

import argparse
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
from typing import Any

import build_artifact
from measure import report

ROOT = report.ROOT
SAM = ROOT / ".local" / "venv-sam" / "bin" / "sam"
BUDGETS = Path(__file__).with_name("coldstart_budgets.toml")
REFERENCES = Path(__file__).with_name("coldstart_references")
FUNCTIONS = sorted(path.stem for path in (ROOT / "src/orders/functions").glob("[a-z]*.py"))

# Lambda's runtime has its client and boto3 with bytecode; ours are pinned, so that runs can be compared.
RUNTIME_CLIENT = ("awslambdaric==4.2.2", "simplejson==4.3.0", "snapshot-restore-py==1.0.0")
MEASURES = ("init_ms", "first_answer_ms", "first_invoke_ms", "cpu_ms", "memory_mb")
RUNTIME_BOTO3 = ("boto3==1.44.5", "botocore==1.44.5")
IDIOMATIC = ("aws-lambda-powertools[tracer]==3.37.0", "pydantic==2.14.3", "wrapt==2.5.2")

HELP = """
INIT is what the emulator reports, the first answer counts from process start, the first invoke is the time in
the handler; CPU and memory (peak) are the runtime process's until its first answer. On a busy machine trust the
ratios of CPU; a budget is exceeded where the ratio of INIT and that of CPU both are beyond it. The results go to
.local/bench/coldstart.json, with each run's figures.

examples:
  python -m measure.benchmarks.coldstart
  python -m measure.benchmarks.coldstart --function accept_order --function query_orders --rounds 21
  python -m measure.benchmarks.coldstart --function accept_order --variants

exit codes: 0 all within budget, 1 a budget is exceeded, 2 wrong usage, 3 something that it needs is missing"""


class Unavailable(Exception):
    """Something that the benchmark needs is missing; the message is for the person at the terminal."""


@dataclass
class Subject:
    """What is started: a handler, the directories that it imports from, and the event that it answers."""

    name: str
    handler: str
    path: list[Path]
    event: dict[str, Any]
    runs: list["Run"] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """One cold start; times in milliseconds, memory in megabytes."""

    init_ms: float
    first_answer_ms: float
    first_invoke_ms: float
    cpu_ms: float
    memory_mb: float
    error: str | None


class Stub(http.server.BaseHTTPRequestHandler):
    """Stands for AWS: accepts whatever is written and finds nothing."""

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
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def emulator() -> Path:
    """The runtime interface emulator in the SAM CLI's package."""
    machine = {"x86_64": "x86_64", "aarch64": "arm64"}.get(platform.machine())
    found = list(ROOT.glob(f".local/venv-sam/lib/*/site-packages/samcli/local/rapid/aws-lambda-rie-{machine}"))
    if platform.system() != "Linux" or not found:
        raise Unavailable("Cold starts are measured on Linux with the SAM CLI installed: run `make install` there.")
    return found[0]


def choose_interpreter(runtimes: list[str]) -> tuple[str, str]:
    """The first of the runtimes that there is an interpreter for, and that interpreter."""
    for runtime in runtimes:
        if interpreter := build_artifact.find_interpreter(runtime):
            return runtime, interpreter
    raise Unavailable(f"There is no {' or '.join(runtimes)} here: choose another --runtime.")


def installed(name: str, requirements: tuple[str, ...], interpreter: str, *, bytecode: bool) -> Path:
    """A directory with these packages for the interpreter, as pip lays them out; kept from run to run."""

    def fill(directory: Path) -> None:
        command = ["pip", "install", "--quiet", "--link-mode", "copy", "--only-binary", ":all:"]
        command += ["--python", interpreter, "--target", str(directory), *requirements]
        done = subprocess.run([*build_artifact.find_uv(), *command], capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable(f"The packages of {name} could not be installed:\n{done.stderr.strip()}")
        build_artifact.compile_bytecode(directory, interpreter if bytecode else None)

    key = [interpreter.encode(), *(text.encode() for text in requirements), str(bytecode).encode()]
    with build_artifact.cached(f"coldstart-{name}", key, fill) as directory:
        return directory


def sam_build(runtime: str) -> Path:
    """Run the real `sam build` for this machine's processor; all functions share the artifact that it makes."""
    directory = ROOT / ".local" / "bench" / f"sam-{runtime}"
    done = subprocess.run(
        [SAM, "build", "AcceptOrderFunction", "--build-dir", directory, "--template-file", ROOT / "template.yaml",
         "--parameter-overrides", f"LambdaRuntime={runtime}"],
        env={**os.environ, "LAMBDA_RUNTIME": runtime, "LAMBDA_ARCHITECTURE": "native", "SAM_CLI_TELEMETRY": "0"},
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise Unavailable(f"`sam build` failed:\n{done.stderr.strip()}")
    return directory / "AcceptOrderFunction"


def sample_event(function: str) -> dict[str, Any]:
    """The first good sample event of a function; a plain order where there is none."""
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
    """The references, the functions, and on request accept_order with one measure undone at a time."""
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


def free_ports() -> list[int]:
    """Two ports on 127.0.0.1 that nobody listens on now."""
    with socket.socket() as first, socket.socket() as second:
        for probe in (first, second):
            probe.bind(("127.0.0.1", 0))
        return [first.getsockname()[1], second.getsockname()[1]]


def start_once(subject: Subject, interpreter: str, aws: str, log: Path) -> Run:
    """Start the subject in a fresh process, have one event answered, and stop it again."""
    public, internal = free_ports()
    sources = "".join(path.read_text() for path in (ROOT / "src/orders").rglob("*.py"))
    environment = {
        **dict.fromkeys(re.findall(r'environ\["(\w+)', sources), "bench"),
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": os.pathsep.join(map(str, subject.path)),
        "PYTHONDONTWRITEBYTECODE": "1",  # what Lambda's read-only file system comes to
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
            raise Unavailable(f"{subject.name} did not answer: {error}\n{text[-2000:]}") from error
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()
    text = log.read_text(errors="replace")
    init = re.search(r"INIT REPORT\(durationMs: ([\d.]+)", text)
    invoke = re.search(r"INVOKE RTDONE\(status: success, .*?duration: ([\d.]+)ms", text)
    if init is None or invoke is None or "status: success" not in text:
        raise Unavailable(f"{subject.name} did not start:\n{text[-2000:]}")
    failure = answer.get("errorMessage") if isinstance(answer, dict) else None
    if isinstance(answer, dict) and int(answer.get("statusCode") or 0) >= 400:
        failure = answer["body"]
    return Run(float(init[1]), first_answer_ms, float(invoke[1]), cpu_ms, memory_mb, failure)


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return once somebody listens. Raises Unavailable if the process ends or 10 seconds pass before."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.002)
    raise Unavailable("The runtime interface emulator did not start.")


def consumption(emulator_pid: int) -> tuple[float, float]:
    """CPU milliseconds of all threads and peak megabytes of the runtime, which is the emulator's child."""
    children = " ".join(p.read_text() for p in Path(f"/proc/{emulator_pid}/task").glob("*/children")).split()
    runtime = Path("/proc") / children[0]
    nanoseconds = sum(int(p.read_text().split()[0]) for p in runtime.glob("task/*/schedstat"))
    peak = re.search(r"VmHWM:\s+(\d+) kB", (runtime / "status").read_text())
    return nanoseconds / 1e6, int(peak[1]) / 1024 if peak else 0.0


def summary(subject: Subject, references: list[Subject], budgets: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Medians, their ratios to the references', and the budgets that the subject exceeds."""

    def ratios(of: str) -> dict[str, float]:
        return {ref.name: round(median(subject, of) / median(ref, of), 3) for ref in references}

    init, cpu, budget = ratios("init_ms"), ratios("cpu_ms"), budgets.get(subject.name, {})
    return {
        "name": subject.name,
        **{of: round(median(subject, of), 1) for of in MEASURES},
        "initRatios": init,
        "cpuRatios": cpu,
        "budgets": budget,
        # Time alone may be another process's doing; more CPU than allowed is ours.
        "exceeded": [name for name, most in budget.items() if min(init[name], cpu[name]) > most],
        "error": subject.runs[-1].error,
    }


def median(subject: Subject, of: str) -> float:
    """The median of one measure over the rounds."""
    return float(statistics.median(getattr(run, of) for run in subject.runs))


def print_tables(results: list[dict[str, Any]]) -> None:
    """Print the medians and the ratios; then what is beyond its budget."""
    report.table(
        "Cold start: medians in ms; memory in MB",
        ["", "INIT", "first answer", "first invoke", "CPU", "memory"],
        [[row["name"], *(row[of] for of in MEASURES)] for row in results],
    )
    names = list(results[0]["initRatios"])
    report.table(
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
    for row in results:
        for name in row["exceeded"]:
            ratios = f"INIT is {row['initRatios'][name]} x {name} and CPU {row['cpuRatios'][name]} x"
            print(f"{row['name']}: {ratios}; the budget is {row['budgets'][name]}")


def main(arguments: list[str] | None = None) -> int:
    """Measure and report; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--function", action="append", choices=FUNCTIONS, metavar="NAME", help="repeatable; default: all"
    )
    parser.add_argument("--rounds", type=int, default=11, help="cold starts of each (default 11)")
    parser.add_argument(
        "--runtime", choices=build_artifact.RUNTIMES, help="default: python3.13, or this Python where that is missing"
    )
    parser.add_argument("--variants", action="store_true", help="also accept_order with one measure undone each")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    log = ROOT / ".local" / "bench" / "coldstart.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        emulator()
        wanted = [options.runtime] if options.runtime else ["python3.13", f"python3.{sys.version_info.minor}"]
        runtime, interpreter = choose_interpreter(wanted)
        with tempfile.TemporaryDirectory() as scratch, stub() as aws:
            measured = subjects(
                options.function or FUNCTIONS, runtime, interpreter, Path(scratch), variants=options.variants
            )
            for number in range(options.rounds + 1):  # the first round warms the page cache and is dropped
                print(f"\rround {number} of {options.rounds}", end="", file=sys.stderr, flush=True)
                for subject in random.sample(measured, len(measured)):
                    run = start_once(subject, interpreter, aws, log)
                    if number:
                        subject.runs.append(run)
            print(file=sys.stderr)
    except (Unavailable, build_artifact.BuildError) as error:
        print(error, file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        return 130
    budgets = tomllib.loads(BUDGETS.read_text())
    results = [summary(subject, measured[:3], budgets) for subject in measured]
    print_tables(results)
    runs = {subject.name: [asdict(run) for run in subject.runs] for subject in measured}
    path = report.save("coldstart", {"runtime": runtime, "results": results, "runs": runs})
    print(f"\n{path.relative_to(ROOT)} has the figures of each run.")
    return 1 if any(row["exceeded"] for row in results) else 0


if __name__ == "__main__":
    sys.exit(main())
