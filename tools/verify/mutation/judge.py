"""Runs the tests that reach a mutant in a fork of a prepared process.

There are two prepared processes. One has imported all modules but this repository's: its forks import the changed
module. The other has also collected the tests: its forks exchange the code of the changed function, which is faster.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import importlib.machinery
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing.connection import Connection
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import msgspec
import pytest

from verify.mutation.operators import GeneralMutant
from verify.mutation.reach import (
    ROOT,
    SOURCE,
    Lines,
    Measuring,
    Place,
    Reach,
    Recorder,
    Test,
    dependents,
    places,
    state_of_checkout,
)

CACHE = ROOT / ".local" / "mutants"
SUITES = ("tests/unit", "tests/integration")
# These tests build artifacts or start processes, in which the mutant does not exist.
LEFT_OUT = ("tests/unit/test_build_artifact.py", "tests/unit/orderctl", "tests/unit/test_general_mutants.py")
CHECKS = {
    "fault matrix": ("matrix", "--short"),
    "stories": ("stories", "--examples", "100", "--no-shrink"),
}
# Any test may notice a mutant of code that runs at import. The quickest tests of the file run first, then those of
# its importers, and so on, for this long each. These seconds are several times longer than a test usually takes,
# because they were measured with every line recorded.
FAR_S = 15.0
PYTEST = ["-x", "-q", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:schemathesis"]
HANDLERS = "src/orders/functions/"
NOT_HERE = 98  # exit code of a fork that doesn't know the function
OURS = ("orders", "tests", "orderctl", "localcloud", "verify", "scripts", "measure", "ministack", "__main__")
SERVICES = ("dynamodb", "dynamodbstreams", "events", "s3", "sqs", "stepfunctions")


class Verdict(StrEnum):
    """The result of judging a mutant."""

    KILLED = "killed"
    TIMED_OUT = "timed out"
    SURVIVED = "survived"
    UNREACHED = "not reached"


@dataclass(frozen=True)
class Judgement:
    """A mutant's verdict; `by` is the test or check that noticed it."""

    mutant: GeneralMutant
    verdict: Verdict
    by: str = ""


class Judge:
    """Judges mutants one after the other."""

    def __init__(self, say: Callable[[str], None], *, proof: bool = True) -> None:
        self._proof = proof
        self._kills: Counter[tuple[str, str]] = Counter()
        self._scratch = tempfile.TemporaryDirectory()
        os.chdir(ROOT)
        os.environ["HYPOTHESIS_PROFILE"] = "mutants"
        os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = self._scratch.name
        self._reach = _measured(say, proof=proof)
        _import_all(self._reach.modules)
        self._known = {test.name for test in self._reach.tests}
        gc.collect()
        gc.freeze()
        self._server = _start_server({name.partition("::")[0] for name in self._known})

    def judge(self, mutant: GeneralMutant, *, proof: bool = True) -> Judgement:
        """Run the tests, then the proof's checks, until one fails."""
        source = (ROOT / mutant.file).read_bytes()
        tests = self.tests_for(mutant, source)
        checks = list(self._checks_for(mutant, source)) if self._proof and proof else []
        if not tests and not checks:
            return Judgement(mutant, Verdict.UNREACHED)
        text = mutant.applied(source)
        if tests:
            names = [test.name for test in tests]
            limit_s = min(20 + 2 * sum(test.seconds for test in tests), 90)
            place = places(source)(mutant.line)
            code: int | None = NOT_HERE
            by = ""
            if _is_quick(mutant.file, place, names):
                self._server.send((mutant.file, text, place.function, names, limit_s))
                code, by = self._server.recv()
            if code == NOT_HERE:
                code, by = _forked(limit_s, lambda: _run_tests(mutant.file, text, names, self._known))
            if code is None:
                return Judgement(mutant, Verdict.TIMED_OUT)
            if code:
                if code == pytest.ExitCode.NO_TESTS_COLLECTED:
                    raise RuntimeError(f"the tests of {mutant} no longer exist")
                self._kills[mutant.file, by] += 1
                return Judgement(mutant, Verdict.KILLED, by)
        for check in checks:
            limit_s = 30 + 5 * self._reach.checks_seconds[check]
            red, _ = _forked(limit_s, functools.partial(_run_check, mutant.file, text, check))
            if red is None:
                return Judgement(mutant, Verdict.TIMED_OUT, check)
            if red:
                return Judgement(mutant, Verdict.KILLED, check)
        return Judgement(mutant, Verdict.SURVIVED)

    def tests_for(self, mutant: GeneralMutant, source: bytes) -> list[Test]:
        """The tests that reach a mutant, the most likely to fail first."""
        place = places(source)(mutant.line)
        chosen: list[Test] = []
        if place.in_function:
            chosen = [test for test in self._reach.tests if test.lines.get(mutant.file, set()) & place.lines]
            chosen.sort(key=lambda test: self._rank(mutant, test))
        if not place.in_function or self._reach.imported.get(mutant.file, set()) & place.lines:
            taken = {test.name for test in chosen}
            # Last the tests that call no code of src/orders: they look at stored data or constants only.
            for layer in [*dependents()[mutant.file], set[str]()]:
                far_s = 0.0
                near = [
                    test
                    for test in self._reach.tests
                    if test.name not in taken and (layer & test.lines.keys() or not (layer or test.lines))
                ]
                for test in sorted(near, key=lambda test: self._rank(mutant, test)):
                    if far_s + test.seconds > FAR_S:
                        break
                    far_s += test.seconds
                    chosen.append(test)
                    taken.add(test.name)
        return chosen

    def _rank(self, mutant: GeneralMutant, test: Test) -> tuple[int, float]:
        return -self._kills[mutant.file, test.name], test.seconds

    def _checks_for(self, mutant: GeneralMutant, source: bytes) -> Iterator[str]:
        place = places(source)(mutant.line)
        for check, lines in self._reach.checks.items():
            reached = lines.get(mutant.file, set())
            if reached & place.lines if place.in_function else reached:
                yield check


def _measured(say: Callable[[str], None], *, proof: bool) -> Reach:
    """The lines that the tests and the proof's checks reach; measured anew if the checkout has changed."""
    file = CACHE / f"{state_of_checkout()}.reach"
    known = file.exists()
    reach = msgspec.msgpack.decode(file.read_bytes(), type=Reach) if known else Reach()
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        result = Path(directory) / "measured"
        if not known:
            say("measuring which test reaches which line ...")
            said = _measure("tests", lambda: _measure_tests(result))
            if said:
                say(f"left out because they fail without any mutant: {said}")
            reach = msgspec.msgpack.decode(result.read_bytes(), type=Reach)
        for check in CHECKS.keys() - reach.checks.keys() if proof else ():
            say(f"measuring which lines the {check} reaches ...")
            started = time.monotonic()
            _measure(check, functools.partial(_measure_check, check, result))
            reach.checks[check] = msgspec.msgpack.decode(result.read_bytes(), type=Lines)
            reach.checks_seconds[check] = time.monotonic() - started
    for old in CACHE.glob("*.reach"):
        old.unlink()
    file.write_bytes(msgspec.msgpack.encode(reach))
    return reach


def _measure(what: str, work: Callable[[], tuple[int, str]]) -> str:
    code, said = _forked(900, work)
    if code != 0:
        raise SystemExit(f"fails without any mutant: {what} ({said})")
    return said


def _import_all(modules: list[str]) -> None:
    """Import modules and read the services' descriptions, once for all forks."""
    for name in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    import boto3  # noqa: PLC0415
    import botocore.loaders  # noqa: PLC0415
    from moto import mock_aws  # noqa: PLC0415

    files: Any = botocore.loaders.JSONFileLoader
    read = functools.cache(functools.partial(files.load_file, files()))
    files.load_file = lambda _, path: read(path)
    loader: Any = botocore.loaders.Loader
    listed = functools.cache(functools.partial(loader.list_available_services, loader()))
    loader.list_available_services = lambda _, type_name: listed(type_name)
    key = {"AttributeName": "a"}
    with mock_aws():
        session: Any = boto3.session.Session("testing", "testing", region_name="us-east-1")
        clients = {service: session.client(service) for service in SERVICES}
        clients["dynamodb"].create_table(
            TableName="a",
            BillingMode="PAY_PER_REQUEST",
            KeySchema=[{**key, "KeyType": "HASH"}],
            AttributeDefinitions=[{**key, "AttributeType": "S"}],
        )
        item = {"a": {"S": "a"}}
        clients["dynamodb"].put_item(TableName="a", Item=item, ConditionExpression="attribute_not_exists(a)")
        clients["sqs"].create_queue(QueueName="a")
        clients["s3"].create_bucket(Bucket="a-bucket")


# ---- Forks of the process that has collected the tests


def _is_quick(file: str, place: Place, names: list[str]) -> bool:
    """Whether a fork can exchange a function's code; each integration test imports the handlers' modules anew."""
    if file.startswith(HANDLERS) and not any(name.startswith("tests/unit") for name in names):
        return True
    return place.in_function


def _start_server(files: set[str]) -> Connection:
    ours, theirs = multiprocessing.Pipe()
    if os.fork() == 0:
        try:
            ours.close()
            _be_silent()
            _use_profile()
            pytest.main([*PYTEST, "-s", *sorted(files)], plugins=[_Server(theirs)])
        finally:
            os._exit(0)
    theirs.close()
    return ours


class _Server:
    """A pytest plugin that runs the requested tests in forks instead of running every test."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._items: dict[str, pytest.Item] = {}
        self._functions: dict[tuple[str, str], list[FunctionType]] = {}
        self.failed = ""

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Answer requests until the other process ends."""
        self._items = {item.nodeid: item for item in session.items}
        gc.unfreeze()  # gc.get_objects() leaves frozen objects out
        for each in gc.get_objects():
            if isinstance(each, FunctionType) and each.__code__.co_filename.startswith(str(SOURCE)):
                self._functions.setdefault((each.__code__.co_filename, each.__code__.co_qualname), []).append(each)
        gc.freeze()
        with contextlib.suppress(EOFError):
            while True:
                file, text, function, names, limit_s = self._connection.recv()
                work = functools.partial(self._run, file, text, function, names)
                self._connection.send(_forked(limit_s, work))
        return True

    def _run(self, file: str, text: bytes, function: str, names: list[str]) -> tuple[int, str]:
        try:
            code = compile(text, str(ROOT / file), "exec", dont_inherit=True)
        except SyntaxError:
            return 1, "import"
        _install(file, text)
        # A test that imports the module anew, and an overload, make several functions of one name: the last is used.
        known = self._functions.get((str(ROOT / file), function), [])
        if not known and not file.startswith(HANDLERS):
            return NOT_HERE, ""
        last = max((each.__code__.co_firstlineno for each in known), default=0)
        for each in known:
            if each.__code__.co_firstlineno == last:
                each.__code__ = _codes(code)[function]
        items = [self._items[name] for name in sorted(names, key=lambda name: not name.startswith("tests/unit"))]
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.failed:
                return 1, self.failed
        return 0, ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember which test failed."""
        if report.failed:
            self.failed = report.nodeid


def _codes(code: CodeType) -> dict[str, CodeType]:
    """The code of every function in a module's code, by name; the last one of several with the same name."""
    found: dict[str, CodeType] = {}
    for each in code.co_consts:
        if isinstance(each, CodeType):
            found |= {each.co_qualname: each, **_codes(each)}
    return found


# ---- Forks of the process that has not collected the tests


def _forked(limit_s: float, work: Callable[[], tuple[int, str]]) -> tuple[int | None, str]:
    """Do the work in a fork; return its exit code, None if it took too long, and its message."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _in_child(reading, writing, work)
    os.close(writing)
    deadline = time.monotonic() + limit_s
    ended, status = 0, 0
    pause_s = 0.002
    while not ended and time.monotonic() < deadline:
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.02)
        ended, status = os.waitpid(child, os.WNOHANG)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # and the processes that it has started
    if not ended:
        os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    return (os.waitstatus_to_exitcode(status) if ended else None), said


def _in_child(reading: int, writing: int, work: Callable[[], tuple[int, str]]) -> None:
    code, said = 99, ""
    try:
        os.setpgid(0, 0)
        os.close(reading)
        _be_silent()
        code, said = work()
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    finally:
        os.write(writing, said.encode()[:4000])
        os._exit(code)


def _be_silent() -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)


def _install(file: str, text: bytes) -> None:
    """Have later imports of the file's module read this text."""
    path = str(ROOT / file)
    loader: Any = importlib.machinery.SourceFileLoader
    usual = loader.get_code

    def get_code(self: Any, name: str) -> CodeType:
        code: CodeType = compile(text, path, "exec", dont_inherit=True) if self.path == path else usual(self, name)
        return code

    loader.get_code = get_code


class _Chosen:
    """A pytest plugin that runs chosen tests in their order, and new cases of the same test functions."""

    def __init__(self, names: list[str], known: set[str]) -> None:
        self._order = {name: at for at, name in enumerate(names)}
        self._functions = {name.partition("[")[0] for name in names}
        self._known = known
        self.failed = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep the chosen tests, suite by suite, because fixtures last for a whole suite."""
        items[:] = sorted(
            (item for item in items if self._is_chosen(item.nodeid)),
            key=lambda item: (item.nodeid.split("/")[1] != "unit", self._order.get(item.nodeid, len(self._order))),
        )

    def _is_chosen(self, name: str) -> bool:
        return name in self._order or (name not in self._known and name.partition("[")[0] in self._functions)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember which test failed."""
        if report.failed:
            self.failed = report.nodeid


def _run_tests(file: str, text: bytes, names: list[str], known: set[str]) -> tuple[int, str]:
    _install(file, text)
    _use_profile()
    chosen = _Chosen(names, known)
    files = sorted({name.partition("::")[0] for name in names})
    code = pytest.main([*PYTEST, *files], plugins=[chosen])
    return int(code), chosen.failed or ("" if code == pytest.ExitCode.OK else "import")


def _run_check(file: str, text: bytes, check: str) -> tuple[int, str]:
    _install(file, text)
    return _proof(check)


def _proof(check: str) -> tuple[int, str]:
    sys.argv = ["verify", *CHECKS[check]]
    try:
        runpy.run_module("verify", run_name="__main__")
    except SystemExit as done:
        return (done.code if isinstance(done.code, int) else 1 if done.code else 0), str(done.code)
    return 0, ""


def _measure_tests(result: Path) -> tuple[int, str]:
    _use_profile()
    measuring = Measuring()
    left_out = [f"--ignore={each}" for each in LEFT_OUT]
    code = pytest.main([*PYTEST, "--maxfail=0", *left_out, *SUITES], plugins=[measuring])
    modules = [name for name in sys.modules if name.partition(".")[0] not in OURS]
    green = [test for test in measuring.tests if test.name not in measuring.wrong]
    result.write_bytes(msgspec.msgpack.encode(Reach(green, measuring.recorder.imported, modules)))
    return 0 if code in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED} else int(code), ", ".join(measuring.wrong)


def _measure_check(check: str, result: Path) -> tuple[int, str]:
    recorder = Recorder()
    recorder.start()
    code, said = _proof(check)
    recorder.stop()
    result.write_bytes(msgspec.msgpack.encode(recorder.take()))
    return code, said


def _use_profile() -> None:
    """Use the same examples each time, and don't shrink them: nobody reads the failures."""
    from hypothesis import HealthCheck, Phase, settings  # noqa: PLC0415

    settings.register_profile(
        "mutants",
        max_examples=50,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    settings.load_profile("mutants")
