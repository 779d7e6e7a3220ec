"""Logger, Tracer and Metrics, set up once for every function."""

import warnings
from typing import Any

import msgspec
from aws_lambda_powertools import Logger, Metrics, Tracer


def _to_json(record: dict[str, Any]) -> str:
    # A quarter of a line, and lines are billed by the byte; the function's name stays.
    for name in ("function_arn", "function_memory_size"):
        record.pop(name, None)
    return msgspec.json.encode(record, enc_hook=str).decode()


# Powertools annotates its deserializer as it does a serializer.
logger = Logger(json_serializer=_to_json, json_deserializer=msgspec.json.decode)  # type: ignore[arg-type]
metrics = Metrics()
# An invocation that counts nothing is nothing to warn of.
warnings.filterwarnings("ignore", "No application metrics to publish")
# Patching all that the X-Ray SDK knows would import it; botocore is the only one that makes calls here.
tracer = Tracer(patch_modules=("botocore",))
