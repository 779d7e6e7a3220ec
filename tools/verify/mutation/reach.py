"""Which test reaches which line of src/orders: measured once for each state of the checkout."""

from __future__ import annotations

import ast
import hashlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import pytest

ROOT = Path(__file__).resolve().parents[3]
SOURCE = ROOT / "src" / "orders"
MEASURED = ("src", "tests", "events", "scripts", "tools", "statemachine", "template.yaml", "uv.lock")

Lines = dict[str, set[int]]  # by file, relative to the checkout
Trace = Callable[[FrameType, str, Any], Any]


class Test(msgspec.Struct):
    """The lines that a test reaches, and the seconds that the test takes."""

    name: str
    seconds: float
    lines: Lines


class Reach(msgspec.Struct):
    """The lines that all tests reach. `imported`: the lines that run at import; `modules`: other imported modules."""

    tests: list[Test] = []
    imported: Lines = {}
    modules: list[str] = []
    checks: dict[str, Lines] = {}
    checks_seconds: dict[str, float] = {}


def state_of_checkout() -> str:
    """A digest of all files on which the measurement depends."""
    digest = hashlib.sha256()
    for name in MEASURED:
        top = ROOT / name
        files = sorted(top.rglob("*")) if top.is_dir() else [top]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts and "mutation" not in file.parts:
                digest.update(f"{file.relative_to(ROOT)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


class Recorder:
    """Records the lines of src/orders that run; lines that run during an import are recorded apart."""

    def __init__(self) -> None:
        self.lines: Lines = {}
        self.imported: Lines = {}
        self._importing = 0

    def start(self) -> None:
        """Begin in this thread and in all later threads."""
        threading.settrace(self._call)
        sys.settrace(self._call)

    def stop(self) -> None:
        """End in this thread."""
        threading.settrace(None)
        sys.settrace(None)

    def take(self) -> Lines:
        """Return the lines recorded since the last call."""
        lines, self.lines = self.lines, {}
        return lines

    def _call(self, frame: FrameType, event: str, argument: Any) -> Trace | None:
        file = _name_of(frame.f_code.co_filename)
        if file is None:
            return None
        if frame.f_code.co_name == "<module>":
            self._importing += 1
        noted = (self.imported if self._importing else self.lines).setdefault(file, set())
        noted.add(frame.f_lineno)

        def line(frame: FrameType, event: str, argument: Any) -> Trace:
            if event == "line":
                noted.add(frame.f_lineno)
            elif event == "return" and frame.f_code.co_name == "<module>":
                self._importing -= 1
            return line

        return line


@cache
def _name_of(file: str) -> str | None:
    return os.path.relpath(file, ROOT) if file.startswith(str(SOURCE)) else None


class Measuring:
    """A pytest plugin that measures each test; `wrong` names the tests that fail."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.tests: list[Test] = []
        self.wrong: list[str] = []

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Record around set-up, call and tear-down."""
        started = time.monotonic()
        self.recorder.start()
        yield
        self.recorder.stop()
        self.tests.append(Test(item.nodeid, time.monotonic() - started, self.recorder.take()))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember a test that fails without any mutant."""
        if report.failed:
            self.wrong.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Remember a file that can't be collected."""
        if report.failed:
            self.wrong.append(report.nodeid)


@dataclass(frozen=True)
class Place:
    """Where a mutant is: the lines of its statement, and the outermost function that they run in, "" for none."""

    lines: frozenset[int]
    function: str

    @property
    def in_function(self) -> bool:
        """Whether the lines run when a function is called, not when its module is imported."""
        return bool(self.function)


def places(source: bytes) -> Callable[[int], Place]:
    """Return a function that takes a line of the file and returns the place of its innermost statement."""
    found: list[tuple[int, int, str]] = []

    def visit(node: ast.AST, function: str, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt | ast.ExceptHandler):
                found.append((*_header(child), function))
            elif isinstance(child, ast.match_case):
                found.append((child.pattern.lineno, child.body[0].lineno - 1, function))
            if isinstance(child, ast.FunctionDef):
                visit(child, function or prefix + child.name, "")
            else:
                visit(child, function, f"{prefix}{child.name}." if isinstance(child, ast.ClassDef) else prefix)

    visit(ast.parse(source), "", "")

    def place(line: int) -> Place:
        around = [each for each in found if each[0] <= line <= each[1]]
        if not around:
            return Place(frozenset({line}), "")
        first, last, function = min(around, key=lambda each: each[1] - each[0])
        return Place(frozenset(range(first, last + 1)), function)

    return place


def _header(node: ast.stmt | ast.ExceptHandler) -> tuple[int, int]:
    body: list[ast.AST] = getattr(node, "body", None) or getattr(node, "cases", None) or []
    first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])
    if not body:
        return first, node.end_lineno or node.lineno
    begins = body[0].pattern.lineno if isinstance(body[0], ast.match_case) else body[0].lineno  # type: ignore[attr-defined]
    return first, max(begins - 1, node.lineno)


@cache
def dependents() -> dict[str, list[set[str]]]:
    """By file: the file itself, then those that import it, then those that import these, and so on."""
    imports = {str(file.relative_to(ROOT)): _imports(file) for file in SOURCE.rglob("*.py")}
    layers: dict[str, list[set[str]]] = {}
    for file in imports:
        layers[file] = [{file}]
        seen = {file}
        while following := {other for other, uses in imports.items() if uses & layers[file][-1]} - seen:
            layers[file].append(following)
            seen |= following
    return layers


def _imports(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("orders"):
            names.add(f"{node.module}")
            names |= {f"{node.module}.{each.name}" for each in node.names}
    return {f"src/{name.replace('.', '/')}.py" for name in names}
