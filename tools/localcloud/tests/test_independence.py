"""This package works without the repository in which it lies."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
SOURCES = sorted((PACKAGE / "src").rglob("*.py"))
TEXTS = sorted(
    path for path in PACKAGE.rglob("*") if path.suffix in {".py", ".md", ".toml"} and path != Path(__file__)
)
IMPORTED = {"awslambdaric", "hypercorn", "jsonata", "localcloud", "ministack", "uvloop", "yaml"}
OTHERS = re.compile(r"\b(orders|orderctl|measure\.|verify\.)")


def imported(path: Path) -> Iterator[str]:
    """Yield the top-level names of the modules that a file imports, without those of the standard library."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        yield from {name.partition(".")[0] for name in names} - sys.stdlib_module_names


def test_only_the_packages_own_dependencies_are_imported() -> None:
    assert {name for path in SOURCES for name in imported(path)} <= IMPORTED


def test_no_text_speaks_of_another_project() -> None:
    found = {str(path): OTHERS.findall(path.read_text()) for path in TEXTS}
    assert not {path: words for path, words in found.items() if words}
