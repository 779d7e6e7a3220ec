"""The API's description as clients have it: made by a machine, changed by people who mean it."""

from __future__ import annotations

import json
from pathlib import Path

from orders.api import openapi

CONTRACT = Path(__file__).with_name("openapi.json")


def test_the_description_is_the_one_that_clients_were_made_from() -> None:
    described = openapi.document("v1")

    # If the change is meant: .venv/bin/python -m tests.unit.test_openapi_contract
    assert described == json.loads(CONTRACT.read_text())


def test_the_description_names_the_stage_that_it_is_asked_at() -> None:
    assert openapi.document("other")["servers"] == [{"url": "/other"}]


if __name__ == "__main__":
    CONTRACT.write_text(json.dumps(openapi.document("v1"), indent=1) + "\n")
