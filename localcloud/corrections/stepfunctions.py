"""Step Functions."""

import json
import threading
from typing import Any

import yaml

from localcloud.patching import Correction, internal, replace
from localcloud.settings import Settings

JsonObject = dict[str, Any]


def as_json(definition: str) -> str:
    """Return a definition given in JSON or YAML as JSON, and anything else unchanged."""
    try:
        json.loads(definition)
    except ValueError:
        try:
            document = yaml.safe_load(definition)
        except yaml.YAMLError:
            return definition
        if isinstance(document, dict):
            return json.dumps(document, default=str)
    return definition


def install_yaml(_: Settings) -> None:
    """Accept definitions in YAML from CloudFormation."""
    from ministack.services.cloudformation import provisioners  # noqa: PLC0415

    definition_of = internal(provisioners, "_sfn_definition")
    replace(provisioners, "_sfn_definition", lambda props: as_json(definition_of(props)))


def install_token_resource(_: Settings) -> None:
    """Authorize SendTaskSuccess, SendTaskFailure and SendTaskHeartbeat on the state machine that waits.

    AWS accepts a policy that names the state machine; MiniStack asks for one on every resource.
    """
    from ministack.core import iam_actions  # noqa: PLC0415
    from ministack.services import stepfunctions  # noqa: PLC0415

    machine_of_token: dict[str, str] = {}
    running = threading.local()
    execute_task = internal(stepfunctions, "_execute_task")
    invoke_with_callback = internal(stepfunctions, "_invoke_with_callback")
    resource_arn = internal(iam_actions, "extract_resource_arn")

    def execute(state: JsonObject, raw_input: Any, execution: JsonObject, ctx: JsonObject) -> Any:
        running.machine = execution["stateMachineArn"]
        return execute_task(state, raw_input, execution, ctx)

    def invoke(resource: str, input_data: Any, token: str, state: JsonObject) -> Any:
        machine_of_token[token] = running.machine
        try:
            return invoke_with_callback(resource, input_data, token, state)
        finally:
            machine_of_token.pop(token, None)

    def resource_of(
        service: str, method: str, path: str, headers: JsonObject, body: bytes, *rest: Any, **options: Any
    ) -> str:
        if service == "states":
            try:
                token = json.loads(body).get("taskToken")
            except (ValueError, AttributeError):
                token = None
            if token in machine_of_token:
                return machine_of_token[token]
        arn: str = resource_arn(service, method, path, headers, body, *rest, **options)
        return arn

    replace(stepfunctions, "_execute_task", execute)
    replace(stepfunctions, "_invoke_with_callback", invoke)
    replace(iam_actions, "extract_resource_arn", resource_of)


CORRECTIONS = (
    Correction(
        "stepfunctions-token-resource",
        "A policy for task tokens may name the state machine",
        install_token_resource,
    ),
    Correction("stepfunctions-yaml", "State machine definitions in S3 may be YAML", install_yaml),
)
