"""Step Functions."""

import json
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


CORRECTIONS = (Correction("stepfunctions-yaml", "State machine definitions in S3 may be YAML", install_yaml),)
