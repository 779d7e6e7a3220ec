"""The workflows of GitHub Actions: what they run exists, no key is stored, and what is deployed where is right."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from orderctl.cloud.state import ROOT
from orderctl.doctor.upkeep import COMMIT_TAG
from orderctl.main import app
from tests.unit.test_pr_stacks import pr_stacks

FOLDER = ROOT / ".github/workflows"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))
CREDENTIALS = "aws-actions/configure-aws-credentials"


def read(path: Path) -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.safe_load(path.read_text())
    return found


def jobs() -> list[tuple[str, dict[Any, Any], dict[str, Any]]]:
    """Every job as (name, workflow, job)."""
    found = ((path, read(path)) for path in WORKFLOWS)
    return [
        (f"{path.name}: {name}", workflow, job) for path, workflow in found for name, job in workflow["jobs"].items()
    ]


def steps() -> list[tuple[str, dict[str, Any]]]:
    return [(name, step) for name, _, job in jobs() for step in job.get("steps", [])]


def job(workflow: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = read(FOLDER / workflow)["jobs"][name]
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read_unless_it_says_more(path: Path) -> None:
    workflow = read(path)
    # YAML 1.1 reads the key `on` as a truth value.
    assert set(workflow) >= {"name", True, "permissions", "jobs"}
    assert workflow["permissions"]["contents"] == "read"
    assert set(workflow["permissions"]) <= {"contents", "id-token"}


def test_every_action_has_a_version_and_every_workflow_that_is_called_exists() -> None:
    called = [job["uses"] for _, _, job in jobs() if "uses" in job]
    for used in [*called, *(step["uses"] for _, step in steps() if "uses" in step)]:
        if used.startswith("./"):
            assert (ROOT / used).is_file()
        else:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@v\d+", used), used


def test_no_expression_is_pasted_into_a_shell() -> None:
    # A branch may be called `"; rm -rf .`: expressions reach a shell as variables only.
    assert [name for name, step in steps() if "${{" in step.get("run", "")] == []


def test_credentials_come_from_a_role_and_none_is_stored() -> None:
    asking = 0
    for name, workflow, each in jobs():
        for step in each.get("steps", []):
            if step.get("uses", "").startswith(CREDENTIALS):
                asking += 1
                permissions = each.get("permissions", workflow["permissions"])
                assert permissions["id-token"] == "write", name
                assert "role-to-assume" in step["with"]
                assert not {"aws-access-key-id", "aws-secret-access-key"} & set(step["with"])
                assert "environment" in each, name
    assert asking == 4
    assert "secrets." not in "".join(path.read_text() for path in WORKFLOWS)


def test_what_the_steps_run_exists() -> None:
    goals = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    commands = {each.name or each.callback.__name__ for each in app.registered_commands if each.callback}
    commands |= {
        each.name or (each.callback.__name__ if each.callback else "")
        for group in app.registered_groups
        if group.typer_instance
        for each in group.typer_instance.registered_commands
    }
    ran = "\n".join(step["run"] for _, step in steps() if "run" in step)
    assert set(re.findall(r"^make ([a-z-]+)", ran, flags=re.MULTILINE)) <= goals
    assert set(re.findall(r"bin/orderctl ([a-z]+)", ran)) <= commands
    for script in re.findall(r"scripts/\w+\.py", ran):
        assert (ROOT / script).is_file()


# ---- what is deployed where --------------------------------------------------------------------------------------


def test_only_what_ci_has_passed_on_main_is_deployed() -> None:
    workflow = read(FOLDER / "deploy.yml")
    assert workflow[True]["workflow_run"] == {"workflows": ["ci"], "types": ["completed"], "branches": ["main"]}
    assert read(FOLDER / "ci.yml")["name"] == "ci"
    condition = workflow["jobs"]["dev"]["if"]
    assert "conclusion == 'success'" in condition
    assert "event == 'push'" in condition
    # The commit that ci has seen, and not what main is by now.
    assert {each["with"]["commit"] for each in workflow["jobs"].values()} == {
        "${{ github.event.workflow_run.head_sha }}"
    }


def test_prod_comes_after_dev_and_each_environment_has_its_stack() -> None:
    deploy = read(FOLDER / "deploy.yml")["jobs"]
    assert deploy["prod"]["needs"] == "dev"
    settings = tomllib.loads((ROOT / "samconfig.toml").read_text())
    for name, each in deploy.items():
        assert each["with"]["environment"] == name
        assert each["with"]["stack"] == settings[name]["deploy"]["parameters"]["stack_name"]
    called = job("deploy-stack.yml", "deploy")
    assert called["environment"] == "${{ inputs.environment }}"
    # Looked at and tried, in this order.
    names = [step.get("name") for step in called["steps"]]
    assert names[names.index("Deploy") :] == ["Deploy", "Look at the stack", "Send sample orders"]
    assert called["steps"][-1].get("continue-on-error") is None


def test_a_deployment_is_never_cancelled_half_way() -> None:
    deploying = [
        (name, each)
        for name, _, each in jobs()
        if any("sam deploy" in step.get("run", "") for step in each.get("steps", []))
    ]
    assert len(deploying) == 2
    for name, each in deploying:
        assert each["concurrency"]["cancel-in-progress"] is False, name
        assert "--no-confirm-changeset" in str(each["steps"]), name
        assert f"{COMMIT_TAG}=$COMMIT" in str(each["steps"]), name


def test_a_pull_requests_stack_is_deleted_by_its_tag_and_a_fork_gets_no_credentials() -> None:
    deploy, delete = job("pr-stack.yml", "deploy"), job("pr-stack.yml", "delete")
    for each in (deploy, delete):
        assert "head.repo.full_name == github.repository" in each["if"]
    assert "'closed'" in delete["if"]
    assert deploy["env"]["STACK"] == delete["env"]["STACK"]
    assert deploy["concurrency"]["group"] == delete["concurrency"]["group"]
    assert f"{pr_stacks.TAG}=$NUMBER" in str(deploy["steps"])
    assert "schedule" in job("pr-stack.yml", "clean")["if"]
