"""The stories of the demonstration, all under way at once, so that the suite waits for the slowest only."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orderctl import demo
from orderctl.demo import Journey
from orderctl.rest import OrdersApi
from orderctl.signin import TokenSource
from orderctl.target import Target


@pytest.fixture(scope="module")
def journeys(cloud: Target, new_customer: Callable[[], TokenSource]) -> dict[str, Journey]:
    """Return every story's order, by the sample's name, after it has ended and been checked."""
    started = [demo.prepare(cloud, story) for story in demo.STORIES]
    with OrdersApi(cloud.api_url, new_customer()) as api:
        for journey in started:
            demo.submit(api, journey)
        demo.watch(api, cloud, started)
    return {journey.story.sample: journey for journey in started}
