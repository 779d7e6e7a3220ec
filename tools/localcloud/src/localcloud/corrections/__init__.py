"""The corrections: each declares what AWS documents, what MiniStack does, and what this server does."""

from localcloud.corrections import (
    apigateway,
    cloudwatch,
    cloudwatch_alarms,
    dynamodb,
    event_sources,
    eventbridge,
    faults,
    lambda_async,
    lambda_environments,
    lambda_streams,
    sqs,
    state,
    states_express,
    states_monitoring,
    stepfunctions,
)
from localcloud.patching import Correction
from localcloud.settings import Settings

CORRECTIONS: tuple[Correction, ...] = (
    *lambda_environments.CORRECTIONS,
    *cloudwatch.CORRECTIONS,
    *cloudwatch_alarms.CORRECTIONS,
    *lambda_async.CORRECTIONS,
    *lambda_streams.CORRECTIONS,
    *event_sources.CORRECTIONS,
    *sqs.CORRECTIONS,
    *dynamodb.CORRECTIONS,
    *eventbridge.CORRECTIONS,
    *apigateway.CORRECTIONS,
    *stepfunctions.CORRECTIONS,
    *states_monitoring.CORRECTIONS,
    *states_express.CORRECTIONS,
    *faults.CORRECTIONS,
    *state.CORRECTIONS,
)


def install(settings: Settings) -> None:
    """Install all corrections. Raises MissingInternalError when MiniStack lacks a part that one of them replaces."""
    for correction in CORRECTIONS:
        correction.install(settings)
