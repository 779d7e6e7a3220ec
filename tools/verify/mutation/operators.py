"""The mutants of a file: each changes one place of the file's text as a mistake might.

Code without an effect for users has no mutants: docstrings, annotations (except msgspec's limits in annotations), log
lines, the wording of sentences, and code that only type checkers read.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

COMPARISONS: dict[type[ast.cmpop], tuple[str, ...]] = {
    ast.Lt: ("<=", ">="),
    ast.LtE: ("<", ">"),
    ast.Gt: (">=", "<="),
    ast.GtE: (">", "<"),
    ast.Eq: ("!=",),
    ast.NotEq: ("==",),
    ast.Is: ("is not",),
    ast.IsNot: ("is",),
    ast.In: ("not in",),
    ast.NotIn: ("in",),
}
ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "+"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "+"),
    ast.Pow: ("**", "*"),
}
LOGGING = frozenset({"debug", "info", "warning", "error", "exception"})
# These keywords guard against mistakes in the code, not in the input.
UNSEEN_KEYWORDS = frozenset({"frozen", "kw_only", "usedforsecurity", "strict"})
# Five words or more, without the characters of a text that programs read.
PROSE = re.compile(r"[A-Za-z][^=#:<>{}/$]*( [^=#:<>{}/$]+){4,}\Z")
# The result is the same without a plain call, and with a symmetric call's arguments swapped.
PLAIN_CALLS = frozenset({"bool", "frozenset"})
SYMMETRIC_CALLS = frozenset({"max", "min"})
KEPT_DECORATORS = frozenset({"overload", "staticmethod", "contextmanager", "property"})


Change = tuple[str, int, int, str]  # operator, start, end, new text


@dataclass(frozen=True)
class GeneralMutant:
    """One change: the bytes from `start` to `end` of `file` become `new`.

    `before` and `after` are the changed lines, with every run of white space as one blank. File, operator, `before`
    and `after` identify a mutant even after its line has moved.
    """

    file: str
    operator: str
    line: int
    before: str
    after: str
    start: int
    end: int
    new: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """The mutant's key in the list of accepted mutants."""
        return self.file, self.operator, self.before, self.after

    def applied(self, source: bytes) -> bytes:
        """The file's text with the change."""
        return source[: self.start] + self.new.encode() + source[self.end :]


def mutants_of(file: str, source: bytes) -> list[GeneralMutant]:
    """Every mutant of a file's text that compiles to other code, in the order of the text."""
    found: dict[tuple[int, int, str], GeneralMutant] = {}
    for change in _Finder(source).changes(ast.parse(source)):
        _, start, end, new = change
        if (start, end, new) in found or source[start:end].decode() == new:
            continue
        mutant = _mutant(file, source, change)
        try:
            ast.parse(mutant.applied(source))
        except SyntaxError:
            continue
        found[start, end, new] = mutant
    return sorted(found.values(), key=lambda each: (each.start, each.end, each.operator, each.new))


def _mutant(file: str, source: bytes, change: Change) -> GeneralMutant:
    operator, start, end, new = change
    first = source.rfind(b"\n", 0, start) + 1
    last = source.find(b"\n", end)
    last = len(source) if last < 0 else last
    before = source[first:last].decode()
    after = source[first:start].decode() + new + source[end:last].decode()
    line = source.count(b"\n", 0, start) + 1
    return GeneralMutant(file, operator, line, _normal(before), _normal(after), start, end, new)


def _normal(text: str) -> str:
    return " ".join(text.split())


class _Finder:
    def __init__(self, source: bytes) -> None:
        self._source = source
        self._lines = [0]
        for line in source.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))

    def changes(self, tree: ast.Module) -> Iterator[Change]:
        yield from self._body(tree.body, docstring=True)

    # ---- Places

    def _span(self, node: ast.AST) -> tuple[int, int]:
        start = self._lines[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        end = self._lines[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
        return start, end

    def _text(self, node: ast.AST) -> str:
        start, end = self._span(node)
        return self._source[start:end].decode()

    def _replace(self, operator: str, node: ast.AST, new: str) -> Change:
        return (operator, *self._span(node), new)

    def _between(self, operator: str, left: ast.AST, right: ast.AST, old: str, new: str) -> Iterator[Change]:
        """Another operator between two operands."""
        start, end = self._span(left)[1], self._span(right)[0]
        text = self._source[start:end].decode()
        pattern = r"(?<!\w)" + r"\s+".join(map(re.escape, old.split())) + r"(?!\w)"
        match = re.search(pattern, re.sub(r"#.*", lambda comment: " " * len(comment[0]), text))
        if match:
            yield operator, start + match.start(), start + match.end(), new

    def _without(self, operator: str, elements: list[tuple[int, int]], at: int) -> Change:
        """A list's text without one of its elements and the comma after or before it."""
        start, end = elements[at]
        if at + 1 < len(elements):
            return operator, start, elements[at + 1][0], ""
        if at:
            return operator, elements[at - 1][1], end, ""
        comma = re.match(rb"\s*,", self._source[end:])
        return operator, start, end + (comma.end() if comma else 0), ""

    # ---- Statements

    def _body(self, body: list[ast.stmt], *, docstring: bool = False) -> Iterator[Change]:
        for at, statement in enumerate(body):
            if (
                docstring
                and at == 0
                and isinstance(statement, ast.Expr)
                and isinstance(statement.value, ast.Constant)
            ):
                continue
            yield from self._statement(statement)

    def _statement(self, node: ast.stmt) -> Iterator[Change]:  # noqa: PLR0911, PLR0912 - one case for each kind
        match node:
            case ast.Import() | ast.ImportFrom() | ast.Pass():
                return
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                return
            case ast.FunctionDef():
                yield from self._function(node)
                return
            case ast.ClassDef():
                yield from self._class(node)
                return
            case ast.Expr(value=ast.Constant()):
                return
            case ast.Expr():
                if _is_logging(node.value):
                    return
                yield self._replace("statement removed", node, "pass")
            case ast.AugAssign(op=op):
                yield self._replace("statement removed", node, "pass")
                if type(op) in ARITHMETIC:
                    old, new = ARITHMETIC[type(op)]
                    yield from self._between("arithmetic", node.target, node.value, old + "=", new + "=")
            case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
                yield self._replace("statement removed", node, "pass")
            case ast.Raise():
                yield self._replace("statement removed", node, "pass")
                yield from self._raise(node)
                return
            case ast.Continue():
                yield self._replace("loop", node, "break")
            case ast.Break():
                yield self._replace("loop", node, "continue")
            case ast.Return(value=None):
                yield self._replace("statement removed", node, "pass")
            case ast.Return(value=ast.Constant(value=None)):
                return
            case ast.Return(value=ast.expr() as value):
                yield self._replace("return value", value, "None")
            case ast.If(test=test):
                yield self._replace("condition", test, "True")
                yield self._replace("condition", test, "False")
            case ast.While(test=test):
                yield self._replace("condition", test, "False")
            case ast.Try(handlers=handlers):
                for handler in handlers:
                    yield from self._handler(handler)
            case ast.Match(cases=cases):
                for case in cases:
                    if case.guard is not None:
                        yield self._replace("condition", case.guard, "True")
                        yield self._replace("condition", case.guard, "False")
            case _:
                pass
        yield from self._parts(node)

    def _parts(self, node: ast.AST) -> Iterator[Change]:
        """The changes inside a node of any kind."""
        for name, value in ast.iter_fields(node):
            if name in {"annotation", "returns", "type_params"}:
                if isinstance(value, ast.AST):
                    yield from self._limits(value)
                continue
            for part in value if isinstance(value, list) else [value]:
                match part:
                    case ast.stmt():
                        yield from self._statement(part)
                    case ast.expr():
                        yield from self._expression(part)
                    case ast.pattern():
                        yield from self._pattern(part)
                    case ast.keyword(arg=str(keyword)) if keyword in UNSEEN_KEYWORDS:
                        continue
                    case ast.AST():
                        yield from self._parts(part)

    def _function(self, node: ast.FunctionDef) -> Iterator[Change]:
        names = {self._text(each).split("(")[0] for each in node.decorator_list}
        if "overload" in names:
            return
        yield from self._decorators(node)
        arguments = node.args
        for default in [*arguments.defaults, *(each for each in arguments.kw_defaults if each)]:
            yield from self._expression(default)
        yield from self._body(node.body, docstring=True)

    def _decorators(self, node: ast.FunctionDef) -> Iterator[Change]:
        for decorator in node.decorator_list:
            name = self._text(decorator).split("(")[0]
            start, end = self._span(decorator)
            if name not in KEPT_DECORATORS:
                newline = self._source.index(b"\n", end) + 1
                at_sign = self._source.rindex(b"@", 0, start)
                rest = self._source[newline : newline + 200]
                yield "decorator removed", at_sign, newline + len(rest) - len(rest.lstrip()), ""
            yield from self._expression(decorator)

    def _class(self, node: ast.ClassDef) -> Iterator[Change]:
        if any(self._text(base).endswith("Protocol") for base in node.bases):
            return
        spans = [self._span(each) for each in [*node.bases, *node.keywords]]
        for at, keyword in enumerate(node.keywords):
            if keyword.arg not in UNSEEN_KEYWORDS:
                yield self._without("keyword dropped", spans, len(node.bases) + at)
                yield from self._expression(keyword.value)
        yield from self._body(node.body, docstring=True)

    def _raise(self, node: ast.Raise) -> Iterator[Change]:
        """The changes of an error's arguments, without its sentence."""
        if isinstance(node.exc, ast.Call):
            for argument in node.exc.args:
                if not isinstance(argument, ast.Constant | ast.JoinedStr) or not isinstance(
                    getattr(argument, "value", ""), str
                ):
                    yield from self._expression(argument)
            if len(node.exc.args) > 2:
                yield self._without("argument dropped", [self._span(each) for each in node.exc.args], 2)

    def _handler(self, handler: ast.ExceptHandler) -> Iterator[Change]:
        if handler.type is None:
            return
        if isinstance(handler.type, ast.Tuple):
            spans = [self._span(each) for each in handler.type.elts]
            for at in range(len(spans)):
                yield self._without("exception type", spans, at)
        else:
            yield self._replace("exception type", handler.type, "()")
        if self._text(handler.type) not in {"Exception", "BaseException"}:
            yield self._replace("exception type", handler.type, "Exception")

    # ---- Expressions

    def _expression(self, node: ast.expr) -> Iterator[Change]:  # noqa: PLR0912 - one case for each kind
        match node:
            case ast.Constant():
                yield from self._constant(node)
            case ast.JoinedStr():
                yield self._replace("string", node, f'({self._text(node)} + "~")')
                return  # positions inside of f-strings can't be trusted before Python 3.12
            case ast.Compare(ops=[op], left=left, comparators=[right]):
                old = {ast.IsNot: "is not", ast.NotIn: "not in"}.get(type(op)) or _symbol(op)
                for new in COMPARISONS[type(op)]:
                    yield from self._between("comparison", left, right, old, new)
            case ast.BoolOp(op=logical, values=values):
                old, new = ("and", "or") if isinstance(logical, ast.And) else ("or", "and")
                for left, right in pairwise(values):
                    yield from self._between("boolean", left, right, old, new)
                if len(values) == 2:
                    yield self._replace("operand dropped", node, self._text(values[0]))
                    yield self._replace("operand dropped", node, self._text(values[1]))
                else:
                    for dropped in range(len(values)):
                        rest = [self._text(value) for at, value in enumerate(values) if at != dropped]
                        yield self._replace("operand dropped", node, f" {old} ".join(rest))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                yield self._replace("negation", node, self._text(operand))
            case ast.IfExp(test=test):
                yield self._replace("condition", test, "True")
                yield self._replace("condition", test, "False")
            case ast.BinOp(op=op, left=left, right=right) if type(op) in ARITHMETIC:
                yield from self._between("arithmetic", left, right, *ARITHMETIC[type(op)])
            case ast.Subscript(slice=ast.Slice()):
                yield self._replace("slice dropped", node, self._text(node.value))
            case ast.Subscript(value=ast.Name(id="Literal")):
                return
            case ast.Subscript(value=ast.Name(id="Annotated")):
                yield from self._limits(node)
                return
            case ast.Dict(keys=keys, values=values):
                spans = [
                    (self._span(key)[0] if key else self._stars_before(value), self._span(value)[1])
                    for key, value in zip(keys, values, strict=True)
                ]
                for at in range(len(spans)):
                    yield self._without("dict entry dropped", spans, at)
            case ast.Set(elts=elements) | ast.List(elts=elements, ctx=ast.Load()):
                yield from self._elements(elements)
            case ast.Tuple(elts=elements, ctx=ast.Load()) if len(elements) > 1:
                yield from self._elements(elements)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                for generator in node.generators:
                    for test in generator.ifs:
                        yield self._replace("condition", test, "True")
            case ast.Call():
                if _is_logging(node):
                    return
                yield from self._call(node)
            case _:
                pass
        yield from self._parts(node)

    def _constant(self, node: ast.Constant) -> Iterator[Change]:
        match node.value:
            case bool():
                yield self._replace("constant", node, str(not node.value))
            case int() | float():
                text = self._text(node)
                yield self._replace("constant", node, f"({text} + 1)")
                if node.value:
                    yield self._replace("constant", node, f"({text} - 1)")
            case str() if not PROSE.match(node.value):
                yield self._replace("string", node, f'({self._text(node)} + "~")')
            case bytes():
                yield self._replace("string", node, f'({self._text(node)} + b"~")')

    def _elements(self, elements: list[ast.expr]) -> Iterator[Change]:
        spans = [self._span(each) for each in elements]
        for at in range(len(spans)):
            yield self._without("element dropped", spans, at)

    def _call(self, node: ast.Call) -> Iterator[Change]:
        arguments, keywords = node.args, node.keywords
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if len(arguments) == 1 and not keywords and name not in {"", *PLAIN_CALLS}:
            yield self._replace("call removed", node, f"({self._text(arguments[0])})")
        if isinstance(node.func, ast.Attribute) and len(arguments) < 3 and not keywords:
            yield self._replace("call removed", node, self._text(node.func.value))
        for left, right in pairwise(arguments) if name not in SYMMETRIC_CALLS else ():
            text = self._source[self._span(left)[1] : self._span(right)[0]].decode()
            swapped = self._text(right) + text + self._text(left)
            yield "arguments swapped", self._span(left)[0], self._span(right)[1], swapped
        spans = [self._span(each) for each in sorted([*arguments, *keywords], key=self._span)]
        for keyword in keywords:
            if keyword.arg is not None and keyword.arg not in UNSEEN_KEYWORDS:
                yield self._without("keyword dropped", spans, spans.index(self._span(keyword)))

    def _pattern(self, node: ast.pattern) -> Iterator[Change]:
        match node:
            case ast.MatchValue(value=ast.Constant(value=str() as text)):
                yield self._replace("string", node, repr(text + "~"))
            case ast.MatchOr(patterns=patterns):
                for dropped in range(len(patterns)):
                    rest = [self._text(each) for at, each in enumerate(patterns) if at != dropped]
                    yield self._replace("operand dropped", node, " | ".join(rest))
                for each in patterns:
                    yield from self._pattern(each)
            case _:
                return

    def _limits(self, node: ast.AST) -> Iterator[Change]:
        """The changes in the part of an annotation that msgspec reads: `Meta(…)`."""
        for each in ast.walk(node):
            if isinstance(each, ast.Call):
                spans = [self._span(keyword) for keyword in each.keywords]
                for at, keyword in enumerate(each.keywords):
                    if keyword.arg != "description":
                        yield self._without("keyword dropped", spans, at)
                        yield from self._expression(keyword.value)

    def _stars_before(self, node: ast.expr) -> int:
        return self._source.rindex(b"**", 0, self._span(node)[0])


def _is_logging(node: ast.expr) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="logger"), attr=attr)):
            return attr in LOGGING
    return False


def _symbol(op: ast.cmpop) -> str:
    return {
        ast.Lt: "<",
        ast.LtE: "<=",
        ast.Gt: ">",
        ast.GtE: ">=",
        ast.Eq: "==",
        ast.NotEq: "!=",
        ast.Is: "is",
        ast.In: "in",
    }[type(op)]
