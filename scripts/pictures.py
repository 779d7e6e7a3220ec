"""Draw the workflow and the import rules as Mermaid, in `docs/workflow.md` and `docs/modules.md` (`make pictures`).

python scripts/pictures.py            write both pages
python scripts/pictures.py --check    exit with 1 and name each page that is out of date
"""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
DEFINITION = "statemachine/order.asl.yaml"
SHAPES = {
    "Pass": '("{}")',
    "Task": '["{}"]',
    "Choice": '{{"{}"}}',
    "Wait": '[/"{}"/]',
    "Succeed": '(["{}"])',
    "Fail": '[["{}"]]',
}
SINCE_START = (
    r"\$toMillis\(\$states\.context\.State\.EnteredTime\) - \$toMillis\(\$states\.context\.Execution\.StartTime\)"
)
HOW_TO_READ = "Each box may import the boxes below, none above. Parts that a bar separates do not import each other."


def main() -> int:
    """Write or check the pages; return the exit code."""
    pages = {"docs/workflow.md": workflow_page(), "docs/modules.md": modules_page()}
    if "--check" not in sys.argv[1:]:
        for name, text in pages.items():
            (ROOT / name).write_text(text)
        return 0
    stale = [name for name, text in pages.items() if not is_current(ROOT / name, text)]
    for name in stale:
        print(f"{name} is out of date: run make pictures", file=sys.stderr)
    return 1 if stale else 0


def is_current(page: Path, text: str) -> bool:
    """Tell whether a page has this text."""
    return page.exists() and page.read_text() == text


def workflow_page() -> str:
    """Return the page with the picture of the workflow's definition."""
    definition = yaml.safe_load((ROOT / DEFINITION).read_text())
    states: dict[str, dict[str, Any]] = definition["States"]
    stuck = most_common_catch_all(states)
    lines = ["flowchart TD", f"    start((start)) --> {definition['StartAt']}"]
    lines += [f"    {name}{SHAPES[state['Type']].format(name)}" for name, state in states.items()]
    lines += [f"    {edge}" for name, state in states.items() for edge in edges(name, state, stuck)]
    caught = [name for name, state in states.items() if catches_all(state) == stuck]
    return "\n".join(
        [
            "# The workflow",
            "",
            f"`make pictures` draws this page from `{DEFINITION}`; a test keeps it current. Solid arrows go on,",
            "dotted arrows catch the errors that they name. A choice takes the first condition that is true.",
            "",
            "```mermaid",
            *lines,
            "```",
            "",
            f"Not drawn: any other error leads to `{stuck}`, from these states: {', '.join(caught)}.",
            "",
        ]
    )


def edges(name: str, state: dict[str, Any], stuck: str) -> list[str]:
    """Return a state's arrows as lines of Mermaid, without those that catch everything and lead to `stuck`."""
    found = [f'{name} -->|"{label(each["Condition"])}"| {each["Next"]}' for each in state.get("Choices", [])]
    if "Default" in state:
        found.append(f'{name} -->|"otherwise"| {state["Default"]}')
    if "Next" in state:
        found.append(f"{name} --> {state['Next']}")
    if state.get("End"):
        found.append(f'{name} --> ended(("end"))')
    for catch in state.get("Catch", []):
        errors = catch["ErrorEquals"]
        if errors == ["States.ALL"] and catch["Next"] == stuck:
            continue
        text = ", ".join("any error" if error == "States.ALL" else error.rsplit(".", 1)[-1] for error in errors)
        found.append(f'{name} -.->|"{text}"| {catch["Next"]}')
    return found


def label(condition: str) -> str:
    """Return a JSONata condition in the words of a picture: short, and quoted as Mermaid wants it."""
    text = " ".join(condition.removeprefix("{%").removesuffix("%}").split())
    text = re.sub(rf"{SINCE_START} >= (\d+)000", r"begun \1 s ago or earlier", text)
    text = re.sub(
        r"\$not\(\$contains\(\$refusal, /(.*?)/\)\)", lambda found: f"refused, not by {_words(found[1])}", text
    )
    text = re.sub(r"\$contains\(\$refusal, '(.*?)'\)", lambda found: f"refused by {_words(found[1])}", text)
    return text.replace("$", "")


def _words(refusals: str) -> str:
    """Return the alternatives of a pattern in words."""
    words = refusals.replace("[ConditionalCheckFailed", "the order's condition").replace(
        "ConditionalCheckFailed", "a condition"
    )
    return words.replace("|", ", ")


def catches_all(state: dict[str, Any]) -> str | None:
    """Return where a state's catch of every error leads; None if it has none."""
    return next((catch["Next"] for catch in state.get("Catch", []) if catch["ErrorEquals"] == ["States.ALL"]), None)


def most_common_catch_all(states: dict[str, dict[str, Any]]) -> str:
    """Return the state that most catches of every error lead to."""
    targets = [target for state in states.values() if (target := catches_all(state))]
    return max(targets, key=targets.count)


def modules_page() -> str:
    """Return the page with the pictures of the contracts that the import linter enforces."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    text = [
        "# What may import what",
        "",
        "`make lint` enforces these rules with import-linter. `make pictures` draws this page from them in",
        "`pyproject.toml`; a test keeps it current. Imports for type checkers alone do not count.",
    ]
    for contract in settings["contracts"]:
        if contract["type"] == "layers":
            text += ["", f"## {contract['name']}", "", HOW_TO_READ, "", "```mermaid", *layers(contract), "```"]
    text += ["", "## And", ""]
    text += [f"- {contract['name']}." for contract in settings["contracts"] if contract["type"] != "layers"]
    return "\n".join([*text, ""])


def layers(contract: dict[str, Any]) -> list[str]:
    """Return a contract's layers as lines of Mermaid, the top one first."""
    lines = ["flowchart TD"]
    for number, layer in enumerate(contract["layers"]):
        names = re.sub(r"[() ]", "", layer).replace("|", " | ").replace(":", ", ")
        lines.append(f'    layer{number}["{names}"]')
    lines += [f"    layer{number} --> layer{number + 1}" for number in range(len(contract["layers"]) - 1)]
    return lines


if __name__ == "__main__":
    sys.exit(main())
