"""A smoke's verdict, for a human."""

from __future__ import annotations

from rich.markup import escape

from orderctl.smoke.running import Smoke
from orderctl.ui import console, tables


def show(smoke: Smoke, name: str) -> None:
    """Show each step with its time and its problems, what was removed, what it cost, and the verdict."""
    table = tables.table("Step", "Seconds", "")
    for step in smoke.steps:
        verdict = "[red]failed[/]" if step.problems else "[green]well[/]"
        table.add_row(escape(step.title), f"{step.seconds:.1f}", verdict)
        for problem in step.problems:
            table.add_row(f"  [red]{escape(problem)}[/]")
        for note in step.notes:
            table.add_row(f"  [dim]{escape(note)}[/]")
    console.out.print(table)
    counted = ", ".join(f"{number} {kind}" for kind, number in smoke.removed.counts.items()) or "nothing"
    console.out.print(f"\nRemoved: {counted}.")
    for left in smoke.removed.left:
        console.out.print(f"[red]Left behind:[/] {escape(left)}.")
    console.out.print(
        f"Cost: at most ${smoke.usd:.4f} by list prices ({console.count(smoke.orders, 'order')}, "
        f"{console.count(smoke.requests, 'request')}, {console.count(smoke.calls, 'call')} to AWS)."
    )
    seconds = sum(step.seconds for step in smoke.steps)
    verdict = "[green]works[/]" if smoke.ok else "[red]does not work as it should[/]"
    console.out.print(f"The {escape(name)} {verdict} ({seconds:.0f} s).")
