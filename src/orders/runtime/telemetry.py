"""Logger, Tracer and Metrics, set up once for every function."""

import warnings
from typing import Any

import msgspec
from aws_lambda_powertools import Logger, Metrics, Tracer


def _to_json(record: dict[str, Any]) -> str:
    # These two fields are a quarter of a log line, and CloudWatch bills by the byte. The function's name stays.
    for name in ("function_arn", "function_memory_size"):
        record.pop(name, None)
    return msgspec.json.encode(record, enc_hook=str).decode()


# Powertools gives its deserializer the type of a serializer.
logger = Logger(json_serializer=_to_json, json_deserializer=msgspec.json.decode)  # type: ignore[arg-type]
metrics = Metrics()
# Many invocations count nothing.
warnings.filterwarnings("ignore", "No application metrics to publish")
# Patching every library that the X-Ray SDK knows would import them; only botocore makes calls here.
tracer = Tracer(patch_modules=("botocore",))
