"""A stream record of no form at all doesn't hold up its shard."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.integration.test_messages_arrive import Bus, bus
from tests.integration.world import World, invoke, sample

__all__ = ["bus"]  # a fixture


@pytest.mark.parametrize("change", [None, 7, "text", [], {"NewImage": None}, {"NewImage": 7}])
def test_a_record_without_a_form_is_parked_and_the_others_are_published(world: World, bus: Bus, change: Any) -> None:
    good = sample("publish_events/order-placed")["Records"]

    answer = invoke("publish_events", {"Records": [{"eventName": "INSERT", "dynamodb": change}, *good]})

    assert answer == {"batchItemFailures": []}
    assert len(bus.delivered) == 1
    (parked,) = map(json.loads, world.messages("FailuresQueue"))
    assert parked["record"] == {"eventName": "INSERT", "dynamodb": change}
