"""Reference (a): a function that does nothing, so what is left is Python and Lambda's runtime client."""
# ruff: noqa: D103 - written as such functions are

import json
from typing import Any


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    return {"statusCode": 202, "body": json.dumps({"status": "PLACED"})}
