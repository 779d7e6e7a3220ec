"""`python -m verify`: run the fault matrix, the stories and the mutants; see docs/proof.md."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
console = Console(highlight=False, soft_wrap=True)

Short = Annotated[bool, typer.Option("--short", help="Each row once: what `make test` runs.")]
SHOWN = 5


@app.command()
def matrix(
    *,
    short: Short = False,
    write: Annotated[bool, typer.Option("--write", help="Write docs/fault-matrix.md.")] = False,
) -> None:
    """Every state of the workflow with every error that it can meet."""
    from verify import matrix as the_matrix  # noqa: PLC0415 - takes the process over

    started = time.monotonic()
    results: the_matrix.Results = {}
    wrong: list[str] = []
    try:
        chosen = list(the_matrix.cases(short=short))
    except the_matrix.Wrong as missing:
        _fail([str(missing)])
    for case in track(chosen, "Fault matrix", console=console, disable=not console.is_terminal):
        try:
            the_matrix.collect(results, case, the_matrix.play(case))
        except the_matrix.Wrong as found:
            wrong.append(str(found))
            if short:
                break
    if wrong:
        _fail(wrong)
    if write and not short:
        the_matrix.DOCUMENT.write_text(the_matrix.document(results, len(chosen)))
    elif differences := the_matrix.differences(results):
        _fail([*differences, "docs/fault-matrix.md is out of date: write it again with `make prove`"])
    console.print(f"Fault matrix: {len(chosen)} cases, all well, {time.monotonic() - started:.0f} s.")


@app.command()
def case(name: str) -> None:
    """Run one case of the matrix again, by its name."""
    from verify import matrix as the_matrix  # noqa: PLC0415

    found = [each for each in the_matrix.cases() if str(each) == name]
    if not found:
        _fail([f"there is no case called {name!r}"])
    try:
        console.print(the_matrix.play(found[0]))
    except the_matrix.Wrong as wrong:
        _fail([str(wrong)])


@app.command()
def stories(
    *,
    examples: Annotated[int, typer.Option(help="How many stories.")] = 3_000,
    steps: Annotated[int, typer.Option(help="Steps of a story, at most.")] = 50,
    seed: Annotated[int, typer.Option(help="The same seed tells the same stories.")] = 1,
    shrink: Annotated[bool, typer.Option(help="Look for the shortest story that fails.")] = True,
) -> None:
    """Whatever happens in whatever order, the promise holds."""
    import hypothesis  # noqa: PLC0415
    from hypothesis.stateful import run_state_machine_as_test  # noqa: PLC0415

    from verify.properties import Story  # noqa: PLC0415

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
        run_state_machine_as_test(hypothesis.seed(seed)(Story), settings=settings)
    except AssertionError as wrong:
        told = [line for note in getattr(wrong, "__notes__", []) for line in note.splitlines()]
        story = [line for line in told if "nothing_is_wrong" not in line and line.startswith("state")]
        again = f"again: make prove-stories ARGS='--seed {seed} --examples {examples} --steps {steps}'"
        _fail([str(wrong), "the story:", *story, again])
    console.print(f"Stories: {examples} with up to {steps} steps, all well, {time.monotonic() - started:.0f} s.")


@app.command()
def mutants(
    *,
    write: Annotated[bool, typer.Option("--write", help="Write docs/mutants.md.")] = False,
    only: Annotated[
        str, typer.Option(help="Only mutants whose name contains one of these, separated by commas.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only look whether they can still be applied.")] = False,
) -> None:
    """Deliberate defects, one at a time: each must turn the proof red."""
    from verify import mutants as the_mutants  # noqa: PLC0415

    if dry_run:
        if outdated := the_mutants.outdated():
            _fail(outdated)
        return
    survivors = the_mutants.run(console, only=only, write=write)
    if survivors:
        _fail([f"survived: {name}" for name in survivors])


def _fail(lines: list[str]) -> Any:
    for line in lines[: SHOWN * 10]:
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
