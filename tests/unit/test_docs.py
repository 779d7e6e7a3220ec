"""The pages are current, and what they name exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from orderctl.cloud.state import ROOT

PAGES = sorted(
    page.relative_to(ROOT) for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob(".github/**/*.md")]
)
# A changelog and a decision name what was there when they were written.
PRESENT = [page for page in PAGES if page.name != "CHANGELOG.md" and page.parent.name != "decisions"]
FOLDERS = "src|tools|tests|docs|events|scripts|statemachine|.github|.ci"
FILE = r"\w[\w./-]*\.(?:py|toml|ya?ml|json|md)"
PATH = re.compile(rf"(?<![\w./<$:-])((?:{FOLDERS})/[\w./<>*-]*[\w/>*]|{FILE})(?![\w/])")
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([\w-]+))?\)")
MADE_HERE = {"my-order.json"}


def named_paths(text: str) -> set[str]:
    """Return the repository's paths that a page names in backticks or in a block of code."""
    code = re.findall(r"```.*?```|`[^`\n]+`", text, flags=re.DOTALL)
    return {path for each in code for path in PATH.findall(each)} - MADE_HERE


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def exists(path: str) -> bool:
    """Tell whether the repository has a path; a name without a folder may lie in any folder."""
    if "/" in path or (ROOT / path).exists():
        return any(ROOT.glob(path))
    return any(found for folder in FOLDERS.split("|") for found in (ROOT / folder).rglob(path))


@pytest.mark.parametrize("page", PRESENT, ids=str)
def test_each_path_that_a_page_names_exists(page: Path) -> None:
    named = named_paths((ROOT / page).read_text())
    assert not [path for path in sorted(named) if "<" not in path and not exists(path)]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_each_link_leads_somewhere(page: Path) -> None:
    for path, anchor in LINK.findall((ROOT / page).read_text()):
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


@pytest.mark.parametrize("page", PRESENT, ids=str)
def test_each_goal_of_make_that_a_page_names_exists(page: Path) -> None:
    goals = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    code = re.findall(r"```.*?```|`[^`\n]+`", (ROOT / page).read_text(), flags=re.DOTALL)
    named = {goal for each in code for goal in re.findall(r"(?:`|\$ |^)make ([a-z-]+)", each, flags=re.MULTILINE)}
    assert named <= goals


def test_the_pictures_are_current() -> None:
    command = [sys.executable, str(ROOT / "scripts/pictures.py"), "--check"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_the_index_lists_each_decision_with_its_title_and_date() -> None:
    folder = ROOT / "docs/decisions"
    index = (folder / "README.md").read_text()
    decisions = sorted(page for page in folder.glob("*.md") if page.name != "README.md")
    numbers = [page.name[:4] for page in decisions]
    assert numbers == [f"{number:04d}" for number in range(1, len(decisions) + 1)]
    for page in decisions:
        title, _, date, *_ = page.read_text().splitlines()
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", date), page.name
        assert f"| [{page.name[:4]}]({page.name}) | {title.removeprefix('# ')} | {date} |" in index
