"""Lambda execution environments.

Each environment is a process with the real `awslambdaric`, served by a Runtime API of its own. A function that
invokes itself synchronously more than `Settings.max_environments` deep waits until it times out.
"""

import contextlib
import json
import os
import queue
import selectors
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, ClassVar

from ministack.core import lambda_runtime
from ministack.services import lambda_svc

from localcloud.patching import Correction, internal, replace, resource_handlers
from localcloud.settings import Settings, StartError

INIT_TIMEOUT_S = 10.0  # Lambda developer guide, "Init phase"
CONCURRENT_COLD_STARTS = 2
WARM_PATIENCE_S = 0.5
LOG_LIMIT_BYTES = 1024 * 1024
RUNTIME_API = "/2018-06-01/runtime/"
WORKER_SCRIPT = Path(__file__).parents[1] / "worker.py"
RUNTIME_PACKAGES = ("awslambdaric", "simplejson", "snapshot_restore_py.py", "runtime_client*.so")
SDK_PACKAGES = ("boto3", "botocore", "s3transfer", "urllib3", "jmespath", "dateutil", "six.py")  # AWS has them too

request_id_override: ContextVar[str | None] = ContextVar("localcloud_request_id", default=None)
"""The request id of the next invocation: all attempts of an asynchronous invocation have the same."""

current_log_stream: ContextVar[str] = ContextVar("localcloud_log_stream", default="unknown")
"""The log stream of the environment that ran this thread's latest invocation."""

JsonObject = dict[str, Any]


class InitError(Exception):
    """The environment ended before its first event; `payload` is the answer to the caller."""

    def __init__(self, payload: JsonObject) -> None:
        super().__init__(payload["errorMessage"])
        self.payload = payload


@dataclass(frozen=True)
class Invocation:
    """One event for the runtime."""

    request_id: str
    payload: bytes
    deadline: float  # epoch seconds
    function_arn: str
    trace_id: str | None


@dataclass(frozen=True)
class InvocationOutcome:
    """The end of an invocation or of the init phase.

    `kind` is ready, response, error, init-error or exit.
    """

    kind: str
    request_id: str = ""
    payload: Any = None


class OutputPipe:
    """Collects the output of a process, so that the process never blocks on a full pipe."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._buffer = bytearray()
        self._lock = threading.Lock()
        os.set_blocking(stream.fileno(), False)
        threading.Thread(target=self._pump, daemon=True, name="lambda-output").start()

    def _pump(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._stream, selectors.EVENT_READ)
            while not self._stream.closed:
                selector.select()
                with self._lock:
                    self._read_available()

    def _read_available(self) -> None:
        """Read the available output; close the pipe after the last writer."""
        while not self._stream.closed:
            try:
                chunk = os.read(self._stream.fileno(), 65536)
            except BlockingIOError:
                return
            if not chunk:
                self._stream.close()
            self._buffer += chunk
            del self._buffer[:-LOG_LIMIT_BYTES]

    def drain(self) -> str:
        """Return the output since the last call, the pipe's content included."""
        with self._lock:
            self._read_available()
            text = self._buffer.decode("utf-8", errors="replace")
            self._buffer.clear()
        return text.rstrip("\n")


class QuietServer(ThreadingHTTPServer):
    """Reports no connection that a killed runtime has lost."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report an error of a handler, except a lost connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class RuntimeApi:
    """The HTTP API that gives one runtime its events and takes its results."""

    def __init__(self) -> None:
        self.inbox: queue.SimpleQueue[Invocation | None] = queue.SimpleQueue()
        self.outcomes: queue.SimpleQueue[InvocationOutcome] = queue.SimpleQueue()
        self._server = QuietServer(("127.0.0.1", 0), self._handler_class())
        threading.Thread(target=self._server.serve_forever, daemon=True, name="lambda-runtime-api").start()

    @property
    def address(self) -> str:
        """host:port, the value of AWS_LAMBDA_RUNTIME_API."""
        return f"127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Stop serving; returns at once."""
        self.inbox.put(None)

        def stop() -> None:
            self._server.shutdown()
            self._server.server_close()

        threading.Thread(target=stop, daemon=True).start()

    def _handler_class(self) -> type[BaseHTTPRequestHandler]:
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1  # one packet for headers and body

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

            def do_GET(self) -> None:
                if self.path != f"{RUNTIME_API}invocation/next":
                    self._answer(404)
                    return
                api.outcomes.put(InvocationOutcome("ready"))
                invocation = api.inbox.get()
                if invocation is None:
                    self.close_connection = True
                    return
                headers = {
                    "Lambda-Runtime-Aws-Request-Id": invocation.request_id,
                    "Lambda-Runtime-Deadline-Ms": str(int(invocation.deadline * 1000)),
                    "Lambda-Runtime-Invoked-Function-Arn": invocation.function_arn,
                }
                if invocation.trace_id:
                    headers["Lambda-Runtime-Trace-Id"] = invocation.trace_id
                self._answer(200, invocation.payload, headers)

            def do_POST(self) -> None:
                body = self._body()
                try:
                    payload = json.loads(body)
                except ValueError:
                    payload = body.decode("utf-8", errors="replace")
                kind, request_id = self._result_of()
                api.outcomes.put(InvocationOutcome(kind, request_id, payload))
                self._answer(202, b'{"status":"OK"}')

            def _result_of(self) -> tuple[str, str]:
                if self.path == f"{RUNTIME_API}init/error":
                    return "init-error", ""
                _, request_id, kind = self.path.rsplit("/", 2)
                return kind, request_id

            def _body(self) -> bytes:
                if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                chunks = []
                while size := int(self.rfile.readline(), 16):
                    chunks.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(chunks)

            def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self.wfile.write(body)
                    self.wfile.flush()

        return Handler


def execution_variables(config: JsonObject, code_dir: str, api_address: str, settings: Settings) -> dict[str, str]:
    """Return the whole environment of a function's process: Lambda's variables and the function's own.

    `AWS_ENDPOINT_URL` is the only variable that AWS does not set; the SDK finds this server by it.
    """
    logging_config = config.get("LoggingConfig") or {}
    region = config["FunctionArn"].split(":")[3]
    variables = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(settings.tmp_dir),
        "TMPDIR": str(settings.tmp_dir),
        "LANG": "en_US.UTF-8",
        "TZ": ":UTC",
        "PYTHONPATH": os.pathsep.join([code_dir, *layer_paths(config), str(runtime_dir(settings))]),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",  # /var/task is read-only
        "LAMBDA_TASK_ROOT": code_dir,
        "_HANDLER": config["Handler"],
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        "AWS_EXECUTION_ENV": f"AWS_Lambda_{config['Runtime']}",
        "AWS_LAMBDA_FUNCTION_NAME": config["FunctionName"],
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(config.get("MemorySize", 128)),
        "AWS_LAMBDA_FUNCTION_VERSION": config.get("Version", "$LATEST"),
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": logging_config.get("LogGroup") or f"/aws/lambda/{config['FunctionName']}",
        "AWS_LAMBDA_LOG_STREAM_NAME": log_stream_name(config),
        "AWS_LAMBDA_RUNTIME_API": api_address,
        "AWS_ENDPOINT_URL": settings.endpoint,
    }
    if logging_config.get("LogFormat") == "JSON":
        variables["AWS_LAMBDA_LOG_FORMAT"] = "JSON"
        variables["AWS_LAMBDA_LOG_LEVEL"] = logging_config.get("ApplicationLogLevel", "INFO")
    variables.update({name: os.environ[name] for name in ("SSL_CERT_FILE",) if name in os.environ})
    variables.update(internal(lambda_runtime, "execution_credentials")(config))
    variables.update(internal(lambda_svc, "_runtime_env_vars")(config))
    return variables


def log_stream_name(config: JsonObject) -> str:
    """Return a name for the log stream of a new environment."""
    version = config.get("Version", "$LATEST")
    return f"{time.strftime('%Y/%m/%d', time.gmtime())}/[{version}]{os.urandom(16).hex()}"


def runtime_dir(settings: Settings) -> Path:
    """Return the directory of the runtime interface client, this server's /var/runtime."""
    return settings.tmp_dir / "runtime"


def copy_runtime(settings: Settings) -> None:
    """Make the runtime interface client and the SDK available to functions, without the packages around them.

    Raises StartError if the functions' interpreter does not have them.
    """
    directory = runtime_dir(settings)
    directory.mkdir(parents=True, exist_ok=True)
    find = "import awslambdaric, boto3, pathlib; print(pathlib.Path(awslambdaric.__file__).parents[1])"
    try:
        found = subprocess.run([settings.python, "-c", find], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        message = f"Functions can't run on {settings.python}: it needs awslambdaric and boto3."
        raise StartError(message) from None
    site_packages = Path(found.stdout.strip())
    for pattern in RUNTIME_PACKAGES:
        for source in site_packages.glob(pattern):
            copy: Callable[..., Any] = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, directory / source.name)
    for name in SDK_PACKAGES:
        (directory / name).symlink_to(site_packages / name)
    # Functions write no bytecode, so each cold start would compile these files again.
    subprocess.run([settings.python, "-m", "compileall", "-q", str(directory)], check=True)


def layer_paths(config: JsonObject) -> list[str]:
    """Return the directories that the function's layers add to the module search path."""
    paths = []
    for attachment in config.get("Layers") or []:
        archive = internal(lambda_svc, "_resolve_layer_zip")(attachment)
        if archive:
            root = internal(lambda_svc, "_provided_runtime_code_dir")(archive)
            paths += [os.path.join(root, "python"), root]
    return paths


class ExecutionEnvironment(lambda_runtime.Worker):  # type: ignore[misc]
    """One execution environment of MiniStack's pool; runs one invocation at a time."""

    settings: Settings
    cold_starts = threading.BoundedSemaphore(CONCURRENT_COLD_STARTS)
    _processes: ClassVar[set[subprocess.Popen[bytes]]] = set()
    _processes_lock = threading.Lock()
    _stopped = False

    @classmethod
    def stop_all(cls) -> None:
        """End every process, and start no more."""
        with cls._processes_lock:
            ExecutionEnvironment._stopped = True
            processes = list(cls._processes)
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()

    def __init__(self, func_name: str, config: JsonObject, code_zip: bytes) -> None:
        super().__init__(func_name, config, code_zip)
        self._proc: subprocess.Popen[bytes] | None = None
        self._api: RuntimeApi | None = None
        self._output: OutputPipe | None = None
        self._log_stream = ""

    def invoke(
        self,
        event: Any,
        request_id: str,
        *,
        trace_id: str | None = None,
        invoked_function_arn: str | None = None,
        **_: Any,
    ) -> JsonObject:
        """Run one event and return MiniStack's result record: status, result or error_payload, log."""
        with self._lock:
            timeout_s = float(self.config.get("Timeout", 3))
            try:
                if self._proc is None or self._proc.poll() is not None:
                    self._spawn()
                outcome = self._run(event, request_id, timeout_s, trace_id, invoked_function_arn)
            except InitError as error:
                outcome = InvocationOutcome("error", request_id, error.payload)
            current_log_stream.set(self._log_stream)
            log = self._output.drain() if self._output else ""
            if isinstance(outcome.payload, dict) and outcome.payload.get("errorType") == "Sandbox.Timedout":
                now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                log += f"\n{now} {request_id} Task timed out after {timeout_s:.2f} seconds"
            if self._proc is None or self._proc.poll() is not None or outcome.kind == "exit":
                self._dispose()
            if outcome.kind == "response":
                return {"status": "ok", "result": outcome.payload, "log": log}
            return {"status": "error", "error_payload": outcome.payload, "log": log}

    def _run(
        self, event: Any, request_id: str, timeout_s: float, trace_id: str | None, arn: str | None
    ) -> InvocationOutcome:
        api, process = self._api, self._proc
        assert api is not None
        assert process is not None
        deadline = time.time() + timeout_s
        payload = json.dumps(event, ensure_ascii=False).encode()
        api.inbox.put(Invocation(request_id, payload, deadline, arn or self.config["FunctionArn"], trace_id))
        while True:
            try:
                outcome = api.outcomes.get(timeout=max(0.0, deadline - time.time()))
            except queue.Empty:
                process.kill()
                message = f"RequestId: {request_id} Error: Task timed out after {timeout_s:.2f} seconds"
                return InvocationOutcome(
                    "exit", request_id, {"errorType": "Sandbox.Timedout", "errorMessage": message}
                )
            if outcome.kind == "exit":
                reason = f"Runtime exited with error: {exit_reason(process.returncode)}"
                message = f"RequestId: {request_id} Error: {reason}"
                return InvocationOutcome(
                    "exit", request_id, {"errorType": "Runtime.ExitError", "errorMessage": message}
                )
            if outcome.request_id == request_id:
                return outcome

    def _spawn(self, init_timeout: float | None = None) -> None:
        """Start the process and wait for its request of a first event. Raises InitError."""
        with self.cold_starts:
            self._start()
            try:
                self._await_ready(INIT_TIMEOUT_S + float(self.config.get("Timeout", 3)))
            except InitError:
                if self._proc is not None:
                    self._proc.kill()
                    self._proc.wait()
                raise

    def _start(self) -> None:
        self._dispose()
        api = RuntimeApi()
        code_dir = internal(lambda_svc, "_provided_runtime_code_dir")(self.code_zip)
        variables = execution_variables(self.config, code_dir, api.address, self.settings)
        with self._processes_lock:
            if self._stopped:
                raise InitError({"errorType": "Sandbox.Stopped", "errorMessage": "The server stops"})
            process = subprocess.Popen(
                [self.settings.python, "-S", "-P", str(WORKER_SCRIPT), self.config["Handler"]],
                cwd=code_dir,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            self._processes.add(process)
        assert process.stdout is not None
        self._log_stream = variables["AWS_LAMBDA_LOG_STREAM_NAME"]
        self._api, self._proc, self._output = api, process, OutputPipe(process.stdout)

        def report_exit() -> None:
            process.wait()
            with self._processes_lock:
                self._processes.discard(process)
            api.outcomes.put(InvocationOutcome("exit"))

        threading.Thread(target=report_exit, daemon=True, name="lambda-exit").start()

    def _await_ready(self, timeout_s: float) -> None:
        assert self._api is not None
        assert self._proc is not None
        try:
            outcome = self._api.outcomes.get(timeout=timeout_s)
        except queue.Empty:
            message = f"Init phase did not end within {timeout_s:.0f} seconds"
            raise InitError({"errorType": "Sandbox.Timedout", "errorMessage": message}) from None
        if outcome.kind == "init-error":
            raise InitError(outcome.payload)
        if outcome.kind == "exit":
            message = f"Runtime exited with error: {exit_reason(self._proc.returncode)}"
            raise InitError({"errorType": "Runtime.ExitError", "errorMessage": message})

    def _dispose(self) -> None:
        """Drop an ended process and its API, if there are any."""
        api, self._api = self._api, None
        if api is not None:
            api.close()
        process, self._proc = self._proc, None
        if process is not None:
            process.wait()
        self._output = None

    def _discard_tmpdir(self) -> None:
        # MiniStack's pool has ended the process before this call.
        self._dispose()


def exit_reason(return_code: int) -> str:
    """Return the text that Lambda has for a process's return code."""
    return f"signal: {-return_code}" if return_code < 0 else f"exit status {return_code}"


class Slots:
    """The concurrent invocations of one function.

    An invocation waits for a busy environment before it starts another one: a cold start takes longer than most
    invocations, and takes processor time from other functions.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._changed = threading.Condition()
        self._running = 0
        self._environments = 0  # at most as many as this exist

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Wait for a slot and hold it for a block."""
        with self._changed:
            self._wait()
            self._running += 1
            self._environments = max(self._environments, self._running)
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify()

    def _wait(self) -> None:
        patience = time.monotonic() + (WARM_PATIENCE_S if self._environments else 0.0)
        while self._running >= self._environments:
            if self._running < self._limit and time.monotonic() >= patience:
                return
            full = self._environments >= self._limit
            self._changed.wait(None if full else max(0.0, patience - time.monotonic()))


class Limiter:
    """The slots of all functions."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._slots: dict[str, Slots] = {}

    def slots(self, function: str) -> Slots:
        """Return the slots of one function."""
        with self._lock:
            return self._slots.setdefault(function, Slots(self._limit))


def install_runtime(settings: Settings) -> None:
    """Run Python functions in `ExecutionEnvironment`."""
    copy_runtime(settings)
    ExecutionEnvironment.settings = settings
    other_class: Callable[[JsonObject], type] = internal(lambda_runtime, "_worker_class_for")
    run_other = internal(lambda_svc, "_execute_function_warm")
    run_python = internal(lambda_svc, "_execute_function_provided_warm")

    def is_python(config: JsonObject) -> bool:
        return str(config.get("Runtime", "")).startswith("python")

    def worker_class_for(config: JsonObject) -> type:
        return ExecutionEnvironment if is_python(config) else other_class(config)

    def execute_function_warm(func: JsonObject, event: Any, request_id: str) -> JsonObject:
        # Only the path of provided runtimes passes on the error payload of the runtime.
        run = run_python if is_python(func.get("config") or func) else run_other
        result: JsonObject = run(func, event, request_id)
        return result

    replace(lambda_runtime, "_worker_class_for", worker_class_for)
    replace(lambda_svc, "_execute_function_warm", execute_function_warm)


def install_limit(settings: Settings) -> None:
    """Limit the environments of each function, and use `request_id_override` as an invocation's request id."""
    limiter = Limiter(settings.max_environments)
    key_of = internal(lambda_svc, "_inflight_key")
    dispatch = internal(lambda_svc, "_execute_function_dispatch")

    def execute_function_dispatch(
        func: JsonObject, config: JsonObject, event: Any, request_id: str, started: float
    ) -> JsonObject:
        with limiter.slots(key_of(config)).taken():
            request_id = request_id_override.get() or request_id
            result: JsonObject = dispatch(func, config, event, request_id, time.time())
            return result

    replace(lambda_svc, "_execute_function_dispatch", execute_function_dispatch)


def install_reserved_concurrency(_: Settings) -> None:
    """Apply ReservedConcurrentExecutions of a template."""
    handlers = resource_handlers("AWS::Lambda::Function")
    create, update = handlers["create"], handlers["update"]
    put = internal(lambda_svc, "_put_function_concurrency")
    delete = internal(lambda_svc, "_delete_function_concurrency")

    def apply(name: str, properties: JsonObject) -> None:
        reserved = properties.get("ReservedConcurrentExecutions")
        if reserved is None:
            delete(name)
        else:
            put(name, {"ReservedConcurrentExecutions": int(reserved)})

    def create_function(logical_id: str, properties: JsonObject, stack_name: str) -> Any:
        created = create(logical_id, properties, stack_name)
        apply(created[0], properties)
        return created

    def update_function(physical_id: str, old: JsonObject, new: JsonObject, *arguments: Any, **options: Any) -> Any:
        updated = update(physical_id, old, new, *arguments, **options)
        apply(updated[0], new)
        return updated

    handlers["create"], handlers["update"] = create_function, update_function


CORRECTIONS = (
    Correction(
        name="lambda-runtime",
        service="Lambda",
        aws=(
            "A Python function runs under the runtime interface client awslambdaric and sees the documented "
            "variables only. An exception is answered with errorType, errorMessage, requestId and stackTrace; the "
            "environment stays. A failed import is Runtime.ImportModuleError, a time-out Sandbox.Timedout."
        ),
        ministack=(
            "A loop of its own inherits the server's variables, answers every exception with Runtime.HandlerError "
            "without a stack trace, ends the environment after it, and adds 50 ms to an invocation that logs "
            "nothing."
        ),
        here=(
            "Each environment is a process with awslambdaric and a clean environment; errors keep type and stack "
            "trace."
        ),
        install=install_runtime,
    ),
    Correction(
        name="lambda-environment-limit",
        service="Lambda",
        aws="A function has at most as many environments as its concurrency; further invocations are throttled.",
        ministack="Each concurrent invocation starts a process, without a limit.",
        here=(
            "A function has at most --max-environments processes (4); further invocations wait. Another process "
            "starts when none was free for half a second, two at a time."
        ),
        install=install_limit,
    ),
    Correction(
        name="lambda-reserved-concurrency",
        service="Lambda",
        aws="ReservedConcurrentExecutions is a property of a function in a template.",
        ministack="The property is dropped.",
        here="The property is applied.",
        install=install_reserved_concurrency,
    ),
)
