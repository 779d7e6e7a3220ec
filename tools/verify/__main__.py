"""`python -m verify`: run the fault matrix, the stories and the mutants; see docs/proof.md."""

from __future__ import annotations

import sys
import time
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.progress import track

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Prove that no order is lost and nothing happens twice. docs/proof.md explains how.",
)
console = Console(highlight=False, soft_wrap=True)

Short = Annotated[bool, typer.Option("--short", help="Run each row in one scenario only, as `make test` does.")]
MAX_SENTENCES = 50


def _examples(*commands: str) -> str:
    return "\n\n".join(["Examples:", *(f"  python -m verify {command}" for command in commands)])


@app.command(epilog=_examples("matrix --short", "matrix --write"))
def matrix(
    *,
    short: Short = False,
    write: Annotated[bool, typer.Option("--write", help="Write docs/fault-matrix.md.")] = False,
) -> None:
    """Run every state of the workflow with every error that the state can meet.

    Fails unless each order ends as docs/fault-matrix.md says.
    """
    from verify.matrix import (  # noqa: PLC0415 - takes the process over
        DOCUMENT,
        CaseFailed,
        Results,
        cases,
        collect,
        differences,
        document,
        play,
    )

    started = time.monotonic()
    results: Results = {}
    wrong: list[str] = []
    try:
        chosen = list(cases(short=short))
    except CaseFailed as missing:
        _fail([str(missing)])
    for case in track(chosen, "Fault matrix", console=console, disable=not console.is_terminal):
        try:
            collect(results, case, play(case))
        except CaseFailed as found:
            wrong.append(str(found))
            if short:
                break
    if wrong:
        _fail(wrong)
    if write and not short:
        DOCUMENT.write_text(document(results, len(chosen)))
    elif outdated := differences(results):
        _fail([*outdated, "docs/fault-matrix.md is out of date: write it with `python -m verify matrix --write`"])
    console.print(f"Fault matrix: {len(chosen)} cases, all well, {time.monotonic() - started:.0f} s.")


@app.command(epilog=_examples("case 'an order / ProcessPayment / States.Timeout / before / once'"))
def case(name: Annotated[str, typer.Argument(help="The case's name, as a failure prints it.")]) -> None:
    """Run one case of the fault matrix and print where its order ends."""
    from verify.matrix import CaseFailed, cases, play  # noqa: PLC0415 - takes the process over

    found = [each for each in cases() if str(each) == name]
    if not found:
        _fail([f"there is no case {name!r}"])
    try:
        console.print(play(found[0]))
    except CaseFailed as wrong:
        _fail([str(wrong)])


@app.command(epilog=_examples("stories --examples 300", "stories --seed 7 --steps 80"))
def stories(
    *,
    examples: Annotated[int, typer.Option(help="Number of stories.")] = 3_000,
    steps: Annotated[int, typer.Option(help="Maximum number of steps of a story.")] = 50,
    seed: Annotated[int, typer.Option(help="The same seed gives the same stories.")] = 1,
    shrink: Annotated[bool, typer.Option(help="Look for the shortest story that fails.")] = True,
) -> None:
    """Run random stories of faults, duplicates and redrives, and check the invariants after each step."""
    import hypothesis  # noqa: PLC0415
    from hypothesis.stateful import run_state_machine_as_test  # noqa: PLC0415

    from verify.properties import RandomStory  # noqa: PLC0415 - takes the process over

    started = time.monotonic()
    phases = [hypothesis.Phase.generate, *([hypothesis.Phase.shrink] if shrink else [])]
    settings = hypothesis.settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=phases,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    try:
        run_state_machine_as_test(hypothesis.seed(seed)(RandomStory), settings=settings)
    except AssertionError as wrong:
        told = [line for note in getattr(wrong, "__notes__", []) for line in note.splitlines()]
        story = [line for line in told if "nothing_is_wrong" not in line and line.startswith("state")]
        rerun = f"rerun: make prove-stories ARGS='--seed {seed} --examples {examples} --steps {steps}'"
        _fail([str(wrong), "the story:", *story, rerun])
    console.print(f"Stories: {examples} with up to {steps} steps, all well, {time.monotonic() - started:.0f} s.")


@app.command(epilog=_examples("mutants --only payment,refund", "mutants --dry-run"))
def mutants(
    *,
    write: Annotated[bool, typer.Option("--write", help="Write docs/mutants.md.")] = False,
    only: Annotated[
        str, typer.Option(help="Run the mutants whose names contain one of these texts, separated by commas.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check that each mutant can be applied.")] = False,
) -> None:
    """Apply deliberate defects, one at a time; the fault matrix or the stories must find each."""
    from verify.mutants import outdated, run  # noqa: PLC0415

    if dry_run:
        if found := outdated():
            _fail(found)
        return
    survivors = run(console, only=only, write=write)
    if survivors:
        _fail([f"survived: {name}" for name in survivors])


def _fail(lines: list[str]) -> NoReturn:
    for line in lines[:MAX_SENTENCES]:
        console.print(line, style="red", markup=False)
    sys.exit(1)


@app.command()
def freeze(
    *,
    version: Annotated[str, typer.Option(help="The version that is frozen, such as 1.0.0.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a release that is there.")] = False,
) -> None:
    """Freeze the package and everything in flight under releases/, from a run on a local cloud."""
    from verify.freeze import command  # noqa: PLC0415

    sys.exit(command.run(version, force=force))


if __name__ == "__main__":
    app()
