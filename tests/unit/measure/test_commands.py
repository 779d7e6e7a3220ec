"""The command line `measure`: help, JSON and exit codes, without a local cloud."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from measure import cost, report
from measure.benchmarks import best_seller, coldstart, goals
from measure.main import app
from orderctl.cloud import state as clouds
from orderctl.exits import Exit, Stop

BENCHMARKS = [
    "flash-sale",
    "coldstart",
    "warm",
    "scaling",
    "sweep",
    "throughput",
    "redrive",
    "laptop",
    "cost-peers",
    "all",
]


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clouds, "CLOUDS", tmp_path)
    monkeypatch.setattr(report, "RESULTS", tmp_path / "bench")
    monkeypatch.delenv("ORDERCTL_NAME", raising=False)


def invoke(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("command", ["cost", "load", *BENCHMARKS])
def test_each_command_explains_itself_with_examples(command: str) -> None:
    code, stdout, _ = invoke(command, "--help")
    assert code == 0
    assert f"measure {command}" in stdout.split("Examples:")[1]
    assert "--json" in stdout


@pytest.mark.parametrize(
    "command", [["load"], ["flash-sale"], ["throughput"], ["redrive"], ["cost", "--count"]], ids=" ".join
)
def test_without_a_local_cloud_the_next_step_is_shown(command: list[str]) -> None:
    code, stdout, stderr = invoke(*command)
    assert (code, stdout) == (Exit.NO_TARGET, "")
    assert "orderctl run" in stderr


@pytest.mark.parametrize(
    ("command", "known"),
    [
        (["load", "--faults", "x"], "warehouse"),
        (["coldstart", "--function", "x"], "accept_order"),
        (["coldstart", "--runtime", "x"], "python3.13"),
        (["warm", "--profile", "--stub", "x"], "client"),
        (["cost", "--profile", "x"], "clean"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_an_unknown_choice_is_refused_with_the_known_ones(command: list[str], known: str) -> None:
    code, _, stderr = invoke(*command)
    assert code == Exit.USAGE
    assert known in stderr


def test_the_bill_is_the_same_as_json() -> None:
    code, stdout, _ = invoke("cost", "--json", "--orders-per-month", "1000")
    assert code == 0
    assert json.loads(stdout) == cost.report(cost.load_usage(), cost.load_prices(), "clean", 1000)


def test_a_benchmark_writes_its_figures_to_stdout_and_to_its_file() -> None:
    code, stdout, _ = invoke("cost-peers", "--json")
    kept = json.loads((report.RESULTS / "cost-peers.json").read_text())
    assert code == 0
    assert json.loads(stdout).items() <= kept.items()
    assert "measuredAt" in kept


def a_cold_start(init: float, cpu: float, budget: float) -> dict[str, Any]:
    """Figures of one function whose budget against the floor is `budget`."""
    references = [coldstart.Subject("floor", "", [], {}, [a_run(100, 100)])]
    subject = coldstart.Subject("accept_order", "", [], {}, [a_run(init, cpu)])
    result = coldstart.summary(subject, references, {"accept_order": {"floor": budget}})
    return {"results": [result], "runs": {}, "runtime": "python3.13"}


def a_run(init: float, cpu: float) -> coldstart.ColdStartRun:
    return coldstart.ColdStartRun(init, 0.1, 0.1, cpu, 1.0, None)


@pytest.mark.parametrize(
    ("init", "cpu", "code"),
    [(100, 100, Exit.OK), (130, 100, Exit.OK), (100, 130, Exit.OK), (130, 130, Exit.NOT_AS_EXPECTED)],
)
def test_a_budget_is_exceeded_where_both_time_and_cpu_are(
    init: float, cpu: float, code: Exit, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = a_cold_start(init, cpu, 1.2)
    monkeypatch.setattr(coldstart, "run", lambda *_, **__: figures)

    ended, stdout, _ = invoke("coldstart")
    (reached,) = [goal for goal in goals.goals({"coldstart": figures}) if "accept_order" in goal.what]

    assert ended == code
    assert reached.met is (code == Exit.OK)
    assert ("the budget is 1.2" in stdout) is (code != Exit.OK)


def test_all_names_a_benchmark_that_cannot_run_and_shows_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> dict[str, Any]:
        raise Stop(Exit.STEP_FAILED, "no emulator")

    only = {"coldstart": goals.Benchmark(refuse, coldstart.shown), "cost-peers": goals.BENCHMARKS["cost-peers"]}
    monkeypatch.setattr(goals, "BENCHMARKS", only)

    code, stdout, stderr = invoke("all")

    assert code == Exit.STEP_FAILED
    assert "coldstart can't run here: no emulator" in stderr
    assert "Against the goals" in stdout
    assert "not measured" in stdout


def test_a_formula_that_a_simulation_contradicts_ends_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(best_seller, "retries_formula", lambda *_, **__: 1.0)

    code, _, stderr = invoke("scaling")

    assert code == Exit.NOT_AS_EXPECTED
    assert "the formula 1.000" in stderr
