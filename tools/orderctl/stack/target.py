"""The stack that a command works on: on the running local cloud or on AWS. No other module knows the difference."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field
from typing import Any

from orderctl import hints
from orderctl.cloud import server_process
from orderctl.cloud.state import LOCAL_AWS_ENVIRONMENT, Cloud, CloudState, shown
from orderctl.exits import Exit, Stop

_INDENT = "\n       "  # as console.complain begins its second line


@dataclass
class Target:
    """A deployed stack: its outputs, its REST address and clients for its region.

    `name` is for messages. `local` is the state of a local cloud, None on AWS. `account` holds the options `profile`
    and `region` that the user gave.
    """

    name: str
    outputs: dict[str, str]
    api_url: str
    session: Any
    endpoint: str | None = None
    local: CloudState | None = None
    account: dict[str, str] = field(default_factory=dict)
    _clients: dict[str, Any] = field(default_factory=dict)

    def command(self, arguments: str) -> str:
        """Return a command line of orderctl for this target, ready to paste."""
        if self.local:
            return hints.command(arguments, name=self.local.name)
        account = "".join(f" --{option} {shlex.quote(value)}" for option, value in self.account.items())
        return hints.command(arguments, stack=self.name.removeprefix("stack ")) + account

    def client(self, service: str) -> Any:
        """Return the boto3 client for a service; each is made once."""
        if service not in self._clients:
            from botocore.config import Config

            self._clients[service] = self.session.client(
                service,
                endpoint_url=self.endpoint,
                config=Config(retries={"mode": "standard", "total_max_attempts": 4}, connect_timeout=5),
            )
        return self._clients[service]

    def output(self, output: str) -> str:
        """Return the stack's output of that name; Stop(NO_TARGET) if there is none."""
        try:
            return self.outputs[output]
        except KeyError:
            raise Stop(
                Exit.NO_TARGET,
                f"The {self.name} has no output {output}.",
                "Is it a stack of this project, deployed from this version?",
            ) from None


def choose(stack: str | None, cloud_name: str, profile: str | None = None, region: str | None = None) -> Target:
    """Return the AWS stack of that name; without a name, the local cloud.

    Raises Stop(NO_TARGET) if the target does not run, does not exist or can't be reached, and Stop(USAGE) for a
    profile or region without a stack.
    """
    if stack:
        return aws_target(stack, profile, region)
    if profile or region:
        raise Stop(Exit.USAGE, "--profile and --region choose an AWS account.", "Name the stack too: --stack NAME.")
    return local_target(Cloud(cloud_name))


def local_target(cloud: Cloud) -> Target:
    """Return the stack of a running local cloud; Stop(NO_TARGET) if the cloud does not run or is not ready."""
    state = cloud.load()
    start = f"Start it: {hints.command('run', name=cloud.name)}"
    if state and not server_process.alive(state):
        log = shown(cloud.log("server"))
        raise Stop(
            Exit.NO_TARGET, _INDENT.join(server_process.fate(cloud, state)), f"{start}{_INDENT}Its log is {log}."
        )
    if state is None:
        others = [f"{other.name} (port {other.port})" for other in server_process.running()]
        those = f" This checkout's running local clouds: {', '.join(others)}." if others else ""
        choice = "Choose one of them with --name, or a stack on AWS with --stack." if others else ""
        raise Stop(
            Exit.NO_TARGET,
            f"The local cloud {cloud.name!r} is not running.{those}",
            f"{start}{_INDENT}{choice or 'For a stack on AWS, add --stack.'}",
        )
    if not state.ready:
        raise Stop(
            Exit.NO_TARGET,
            f"The local cloud {cloud.name!r} is still starting, or its deployment has failed.",
            f"See how far it is: {hints.command('status', name=cloud.name)}",
        )
    return of_state(state)


def of_state(state: CloudState) -> Target:
    """Return the stack of a recorded local cloud, whether or not its deployment is complete."""
    import boto3

    forget_aws_environment()
    return Target(
        name=f"local cloud {state.name!r}",
        outputs=state.outputs,
        api_url=state.api_url,
        session=boto3.session.Session(
            aws_access_key_id=LOCAL_AWS_ENVIRONMENT["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=LOCAL_AWS_ENVIRONMENT["AWS_SECRET_ACCESS_KEY"],
            region_name=LOCAL_AWS_ENVIRONMENT["AWS_REGION"],
        ),
        endpoint=state.endpoint,
        local=state,
    )


def forget_aws_environment() -> None:
    """Replace the user's AWS settings in this process, and keep loop-back calls off any proxy."""
    for key in [key for key in os.environ if key.startswith("AWS_")]:
        del os.environ[key]
    os.environ.update(LOCAL_AWS_ENVIRONMENT)
    bypass = {*filter(None, os.environ.get("NO_PROXY", "").split(",")), "127.0.0.1", "localhost"}
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(sorted(bypass))


def aws_target(stack: str, profile: str | None, region: str | None) -> Target:
    """Return a stack on AWS by name, found with the usual AWS settings; Stop(NO_TARGET) if that fails."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        # boto3 reads AWS_DEFAULT_REGION only; the AWS CLI prefers AWS_REGION.
        session = boto3.session.Session(profile_name=profile, region_name=region or os.environ.get("AWS_REGION"))
        outputs = stack_outputs(session.client("cloudformation"), stack)
    except ClientError as error:
        raise Stop(
            Exit.NO_TARGET,
            f"AWS did not show the stack {stack}: {error.response['Error']['Message']}",
            "Check --stack, --profile and --region.",
        ) from error
    except BotoCoreError as error:
        raise Stop(
            Exit.NO_TARGET, f"AWS can't be reached: {error}", "Check --profile, --region and the credentials."
        ) from error
    return Target(
        name=f"stack {stack}",
        outputs=outputs,
        api_url=outputs.get("ApiUrl", "").rstrip("/"),
        session=session,
        account={option: given for option, given in (("profile", profile), ("region", region)) if given},
    )


def stack_outputs(cloudformation: Any, stack: str) -> dict[str, str]:
    """Return a stack's outputs by key; botocore's ClientError if there is no such stack."""
    described = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]
    return {item["OutputKey"]: item["OutputValue"] for item in described.get("Outputs", [])}
