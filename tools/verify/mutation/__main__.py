"""`python -m verify.mutation`: judge general mutants of src/orders; see docs/proof.md."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from verify.mutation import accepted
from verify.mutation.judge import CACHE, Judge, Judgement, Verdict
from verify.mutation.operators import GeneralMutant, mutants_of
from verify.mutation.reach import ROOT, SOURCE

SURVIVORS = 5  # exit code
LAST = CACHE / "survivors.json"
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(highlight=False, soft_wrap=True, stderr=True)


@app.command()
def main(
    *,
    since: Annotated[str, typer.Option(help="Mutate the files that have changed since this commit.")] = "",
    files: Annotated[str, typer.Option(help="Mutate these files, separated by blanks.")] = "",
    sample: Annotated[int, typer.Option(help="Number of mutants, drawn by the seed; 0 for all.")] = 0,
    seed: Annotated[int, typer.Option(help="The same seed draws the same sample.")] = 1,
    again: Annotated[bool, typer.Option("--again", help="Judge the survivors of the last run.")] = False,
    proof: Annotated[bool, typer.Option(help="Run the matrix and the stories on the survivors of the tests.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Change src/orders in one place at a time; a test must fail each time. Exit code 5 if a mutant survives."""
    every = [mutant for file in sorted(SOURCE.rglob("*.py")) for mutant in _of_file(str(file.relative_to(ROOT)))]
    known = accepted.load()
    chosen = _chosen(every, since=since, files=files.split(), sample=sample, seed=seed)
    if again:
        last = {tuple(key) for key in json.loads(LAST.read_text())}
        chosen = [mutant for mutant in chosen if mutant.key in last]
    started = time.monotonic()
    judge = Judge(console.print, proof=proof)
    judged = [_judge(judge, mutant, number, len(chosen), known) for number, mutant in enumerate(chosen, start=1)]
    seconds = time.monotonic() - started
    survivors = [each for each in judged if _survived(each) and each.mutant.key not in known.reasons]
    CACHE.mkdir(parents=True, exist_ok=True)
    LAST.write_text(json.dumps([each.mutant.key for each in survivors]))
    wrong = _say(every, judged, survivors, known, seconds)
    if as_json:
        print(json.dumps([{**asdict(each), "accepted": known.reasons.get(each.mutant.key)} for each in judged]))  # noqa: T201
    sys.exit(SURVIVORS if survivors or wrong else 0)


def _of_file(name: str) -> list[GeneralMutant]:
    return mutants_of(name, (ROOT / name).read_bytes())


def _chosen(
    every: list[GeneralMutant], *, since: str, files: list[str], sample: int, seed: int
) -> list[GeneralMutant]:
    chosen = every
    if since:
        command = ["git", "diff", "--name-only", since, "--", "src/orders"]
        files = [
            *files,
            *subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(),
        ]
    if since or files:
        chosen = [mutant for mutant in every if mutant.file in files]
    if sample and sample < len(chosen):
        chosen = random.Random(seed).sample(chosen, sample)
    return sorted(chosen, key=lambda mutant: (mutant.file, mutant.start))


def _judge(
    judge: Judge, mutant: GeneralMutant, number: int, total: int, known: accepted.AcceptedMutants
) -> Judgement:
    judged = judge.judge(mutant, proof=mutant.key not in known.reasons)
    if _survived(judged) and mutant.key not in known.reasons:
        console.print(f"{number} of {total}: {judged.verdict}  {_row(mutant)}", markup=False)
    elif number % 50 == 0:
        console.print(f"{number} of {total}")
    return judged


def _survived(judged: Judgement) -> bool:
    return judged.verdict in {Verdict.SURVIVED, Verdict.UNREACHED}


def _row(mutant: GeneralMutant) -> str:
    return f"{mutant.file}:{mutant.line}  {mutant.operator}: {mutant.before[:200]} → {mutant.after[:200]}"


def _say(
    every: list[GeneralMutant],
    judged: list[Judgement],
    survivors: list[Judgement],
    known: accepted.AcceptedMutants,
    seconds: float,
) -> bool:
    """Print the result; return whether too many mutants are accepted."""
    for each in survivors:
        console.print(f"\n{each.mutant.file}:{each.mutant.line}  {each.mutant.operator}", markup=False)
        console.print(f"  - {each.mutant.before}\n  + {each.mutant.after}", markup=False)
    for key in known.stale(every):
        console.print("accepted, but no such mutant exists:", *key, markup=False)
    for each in judged:
        if each.mutant.key in known.reasons and not _survived(each):
            console.print(f"accepted, but {each.verdict} by {each.by}: {_row(each.mutant)}", markup=False)
    counts = Counter(each.verdict for each in judged)
    allowed = sum(_survived(each) and each.mutant.key in known.reasons for each in judged)
    found = counts[Verdict.KILLED] + counts[Verdict.TIMED_OUT]
    share = found / max(len(judged) - allowed, 1)
    console.print(
        f"{len(judged)} mutants of {len(every)}: {counts[Verdict.KILLED]} killed, "
        f"{counts[Verdict.TIMED_OUT]} timed out, {len(survivors)} survived "
        f"({counts[Verdict.UNREACHED]} reached by no test), {allowed} accepted as equivalent: "
        f"{share:.1%} of the others found, {seconds / 60:.1f} minutes"
    )
    if known.share(every) > accepted.MOST:
        console.print(f"{known.share(every):.1%} of all mutants are accepted; at most {accepted.MOST:.0%} may be")
        return True
    return False


if __name__ == "__main__":
    app()
