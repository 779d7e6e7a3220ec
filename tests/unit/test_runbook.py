"""The commands of the pages are taken as they are printed: by our command lines, and by the AWS CLI, version 2."""

from __future__ import annotations

import re
import shlex
from typing import Any

import botocore.session
import click
import pytest
import typer
from botocore import xform_name

from measure.main import app as measure
from orderctl.cloud.state import ROOT
from orderctl.main import app as orderctl

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)
BLOCKS = re.findall(r"```console\n(.*?)```", TEXT, flags=re.DOTALL)
# A command in a block is typed as it is; one in a line of text may leave out what the reader fills in.
PRINTED = [line for block in BLOCKS for line in re.findall(r"^\$ (.*)$", block, flags=re.MULTILINE)]
MENTIONED = re.findall(r"`(\.venv/bin/[^`]*)`", TEXT)
PROGRAMS: dict[str, Any] = {
    ".venv/bin/orderctl": typer.main.get_command(orderctl),
    ".venv/bin/measure": typer.main.get_command(measure),
}
FOR_EVERY_AWS_COMMAND = {"--cli-binary-format", "--no-cli-pager", "--output", "--profile", "--query", "--region"}


def ours(lines: list[str]) -> list[list[str]]:
    """The words of each command for a program of ours."""
    words = [shlex.split(line, comments=True) for line in lines if line.startswith(tuple(PROGRAMS))]
    return [each for each in words if each[0] in PROGRAMS]


def last_command(words: list[str]) -> tuple[Any, list[str], list[str]]:
    """The command that words lead to, the options known on the way, and the words behind the command."""
    command, known, rest = PROGRAMS[words[0]], ["--help"], words[1:]
    while True:
        known += [option for parameter in command.params for option in parameter.opts + parameter.secondary_opts]
        below = command.get_command(click.Context(command), rest[0]) if rest and is_group(command) else None
        if below is None:
            return command, known, rest
        command, rest = below, rest[1:]


def is_group(command: Any) -> bool:
    return hasattr(command, "get_command")


@pytest.mark.parametrize("words", ours([*PRINTED, *MENTIONED]), ids=" ".join)
def test_each_command_of_ours_exists_with_its_options(words: list[str]) -> None:
    command, known, rest = last_command(words)
    assert not is_group(command) or all(word.startswith("-") for word in rest), f"there is no {' '.join(words)}"
    options = [word.strip("[]").partition("=")[0] for word in rest if re.match(r"\[?--?\w", word)]
    assert set(options) <= set(known)


@pytest.mark.parametrize("words", ours(PRINTED), ids=" ".join)
def test_each_printed_command_of_ours_is_taken(words: list[str]) -> None:
    command, _, rest = last_command(words)
    if not is_group(command):
        command.make_context(command.name, rest)  # raises a UsageError that names what is wrong


def aws_mistakes(words: list[str]) -> list[str]:
    """What the AWS CLI would refuse in a command, by botocore's models, which are the CLI's own."""
    service, operation, *rest = words[1:]
    model = botocore.session.get_session().get_service_model(service)
    operations = {xform_name(name, "-"): name for name in model.operation_names}
    if operation not in operations:
        return [f"{service} has no {operation}"]
    found = model.operation_model(operations[operation])
    assert found.input_shape
    members = {f"--{xform_name(name, '-')}": (name, shape) for name, shape in found.input_shape.members.items()}
    options = [word for word in rest if word.startswith("--")]
    mistakes = [f"no option {option}" for option in options if option not in members.keys() | FOR_EVERY_AWS_COMMAND]
    mistakes += [
        f"{option} is missing"
        for option, (name, _) in members.items()
        if name in found.input_shape.required_members and option not in options
    ]
    blobs = [option for option in options if option in members and members[option][1].type_name == "blob"]
    as_text = ["--cli-binary-format", "raw-in-base64-out"]
    if blobs and as_text not in [rest[at : at + 2] for at in range(len(rest))]:
        mistakes.append(f"{blobs[0]} needs --cli-binary-format raw-in-base64-out: the CLI expects base64")
    if found.has_streaming_output and (len(rest) % 2 == 0 or rest[-1].startswith("--")):
        mistakes.append("the file for the answer is missing")
    return mistakes


def test_each_printed_aws_command_is_taken() -> None:
    commands = [shlex.split(line) for line in PRINTED if line.startswith("aws ")]
    assert commands
    assert [(words, mistakes) for words in commands if (mistakes := aws_mistakes(words))] == []


@pytest.mark.parametrize(
    ("command", "mistake"),
    [
        ("aws lambda invoke --function-name f --payload {} /dev/stdout", "--payload needs --cli-binary-format"),
        (
            "aws lambda invoke --function-name f --cli-binary-format base64 --payload {} out",
            "--payload needs --cli-binary-format",
        ),
        ("aws lambda invoke --function-name f", "the file for the answer is missing"),
        ("aws sqs start-message-move-task --to arn", "no option --to"),
        ("aws sqs start-message-move-task", "--source-arn is missing"),
        ("aws sqs redrive", "sqs has no redrive"),
    ],
)
def test_a_mistake_in_an_aws_command_is_found(command: str, mistake: str) -> None:
    assert any(each.startswith(mistake) for each in aws_mistakes(shlex.split(command)))
