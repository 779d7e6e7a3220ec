"""What may import what in orderctl: each module only modules of lower layers and, within its layer, no circle."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

from orderctl.cloud.state import ROOT

TOOLS = ROOT / "tools"
# From top to bottom; the names are modules or packages of orderctl.
LAYERS = (
    {"start"},
    {"main"},
    {"commands"},
    {"views"},
    {"lifecycle", "explanation"},
    {"demo", "redrive"},
    {"stack"},
    {"cloud"},
    {"ui"},
    {"options"},
    {"hints", "interrupts"},
    {"defaults", "exits"},
)
MODULES = {
    ".".join(path.relative_to(TOOLS).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((TOOLS / "orderctl").rglob("*.py"))
}


def imports_of(path: Path) -> set[str]:
    """The modules that a module imports anywhere in its text."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & MODULES.keys()) or {node.module}
    return found


def layer_of(module: str) -> int:
    (layer,) = (number for number, names in enumerate(LAYERS) if module.split(".")[1] in names)
    return layer


def test_no_module_imports_a_higher_layer() -> None:
    upward = [
        f"{module} imports {imported}"
        for module, path in MODULES.items()
        for imported in imports_of(path) & (MODULES.keys() - {"orderctl"})
        if module != "orderctl" and layer_of(imported) < layer_of(module)
    ]
    assert not upward


def test_no_modules_import_each_other_in_a_circle() -> None:
    TopologicalSorter({module: imports_of(path) & MODULES.keys() for module, path in MODULES.items()}).prepare()


def test_operating_needs_neither_measuring_nor_proving() -> None:
    others = {
        f"{module} imports {imported}"
        for module, path in MODULES.items()
        for imported in imports_of(path)
        if imported.split(".")[0] in {"measure", "verify", "localcloud"}
    }
    assert not others
