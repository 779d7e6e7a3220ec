"""The general mutants: what each operator makes of a piece of code."""

from __future__ import annotations

from pathlib import Path

import pytest

from verify.mutation import accepted
from verify.mutation.operators import Mutant, mutants_of
from verify.mutation.reach import places


def changes(code: str, operator: str) -> list[str]:
    return [mutant.after for mutant in mutants_of("a.py", code.encode()) if mutant.operator == operator]


@pytest.mark.parametrize(
    ("operator", "code", "expected"),
    [
        ("comparison", "x = a < b", ["x = a <= b", "x = a >= b"]),
        ("comparison", "x = a is not None", ["x = a is None"]),
        ("comparison", "x = a in b", ["x = a not in b"]),
        ("boolean", "x = a and b", ["x = a or b"]),
        ("operand dropped", "x = a and b", ["x = a", "x = b"]),
        ("operand dropped", "x = a or b or c", ["x = b or c", "x = a or c", "x = a or b"]),
        ("negation", "x = not a", ["x = a"]),
        ("condition", "if a: f()", ["if True: f()", "if False: f()"]),
        ("condition", "x = [a for a in b if a.c]", ["x = [a for a in b if True]"]),
        ("return value", "def f(): return 1", ["def f(): return None"]),
        ("statement removed", "f(1)", ["pass"]),
        ("statement removed", "a.b = c", ["pass"]),
        ("statement removed", "raise ValueError", ["pass"]),
        ("call removed", "x = str(y)", ["x = (y)"]),
        ("call removed", "x = y.lower()", ["x = y"]),
        ("constant", "x = 3", ["x = (3 + 1)", "x = (3 - 1)"]),
        ("constant", "x = True", ["x = False"]),
        ("string", 'x = "a"', ['x = ("a" + "~")']),
        ("string", 'x = "SET a = :a, b = :b"', ['x = ("SET a = :a, b = :b" + "~")']),
        ("string", "match x:\n case 'a': pass", ["case 'a~': pass"]),
        ("exception type", "try: f()\nexcept (A, B): g()", ["A", "B", "Exception"]),
        ("exception type", "try: f()\nexcept Exception: g()", ["()"]),
        ("keyword dropped", "x = f(a, b=1, c=2)", ["x = f(a, c=2)", "x = f(a, b=1)"]),
        ("dict entry dropped", 'x = {"a": 1, **b}', ["x = {**b}", 'x = {"a": 1}']),
        ("element dropped", "x = {a, b}", ["x = {b}", "x = {a}"]),
        ("arguments swapped", "x = f(a, b)", ["x = f(b, a)"]),
        ("arithmetic", "x = a + b", ["x = a - b"]),
        ("arithmetic", "x += a", ["x -= a"]),
        ("slice dropped", "x = a[:3]", ["x = a"]),
        ("loop", "for a in b:\n break", ["continue"]),
        ("decorator removed", "@a.b\ndef f(): pass", ["def f(): pass"]),
    ],
)
def test_each_operator_makes_the_mistakes_that_it_is_named_after(
    operator: str, code: str, expected: list[str]
) -> None:
    made = changes(code, operator)
    assert len(made) == len(expected)
    for after, part in zip(sorted(made), sorted(expected), strict=True):
        assert part in after


@pytest.mark.parametrize(
    "code",
    [
        '"""What it is for."""',
        'def f() -> "str":\n    """What it does."""',
        'logger.info("order accepted", extra={"lines": 3})',
        'def f(a: "int") -> "str": ...',
        "if TYPE_CHECKING:\n    a = 1",
        "import a\nfrom b import c",
        "@overload\ndef f(a: int = 1) -> int: ...",
        'Currency = Literal["EUR", "USD"]',
        'NOTE = "The stream keeps its records for a day."',
    ],
)
def test_what_nobody_can_notice_is_left_alone(code: str) -> None:
    assert mutants_of("a.py", code.encode()) == []


def test_the_sentence_of_an_error_is_left_alone_but_not_its_status() -> None:
    made = changes('raise Problem(404, "you have no such order")', "constant")
    assert len(made) == 2
    assert changes('raise Problem(404, "you have no such order")', "string") == []


def test_limits_of_a_stored_field_are_mutated_though_they_stand_in_its_annotation() -> None:
    code = "class Line(Struct):\n    quantity: Annotated[int, Meta(ge=1, le=999)]"
    assert len(changes(code, "keyword dropped")) == 2
    assert len(changes(code, "constant")) == 4


def test_a_mutant_is_the_same_wherever_its_line_has_moved_to() -> None:
    code = "def f(a):\n    return a < 1\n"
    moved = f'"""Something new."""\n\n\n{code}'
    keys = [mutant.key for mutant in mutants_of("a.py", code.encode())]
    assert keys == [mutant.key for mutant in mutants_of("a.py", moved.encode())]


def test_every_mutant_compiles_and_changes_one_place() -> None:
    source = Path(accepted.__file__).read_bytes()
    for mutant in mutants_of("a.py", source):
        compile(mutant.applied(source), "a.py", "exec")
        assert mutant.applied(source) != source


def test_a_mutant_outside_of_functions_is_known_as_such() -> None:
    place = places(b"A = 1\n\ndef f(\n    a=2,\n):\n    return (\n        a\n    )\n")
    assert not place(1).in_function
    assert not place(4).in_function
    assert place(7).in_function
    assert place(7).lines == {6, 7, 8}


def the_list(tmp_path: Path, text: str) -> accepted.Accepted:
    file = tmp_path / "accepted.toml"
    file.write_text(text)
    return accepted.load(file)


ENTRY = '[[mutant]]\nfile = "a.py"\noperator = "constant"\nbefore = "x = 3"\nafter = "x = (3 + 1)"\n'


def test_an_accepted_mutant_needs_a_reason(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no reason"):
        the_list(tmp_path, ENTRY)


def test_a_mutant_is_accepted_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="twice"):
        the_list(tmp_path, 2 * f'{ENTRY}reason = "a limit of taste"\n')


def test_an_entry_that_no_mutant_is_meant_by_is_stale(tmp_path: Path) -> None:
    known = the_list(tmp_path, f'{ENTRY}reason = "a limit of taste"\n')
    mutants: list[Mutant] = mutants_of("a.py", b"\n\nx  =  3")
    assert known.stale(mutants) == []
    assert known.share(mutants) == 0.5
    assert known.stale(mutants_of("a.py", b"x = 4")) == list(known.reasons)
