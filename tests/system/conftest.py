"""The stories of the demonstration, all under way at once, so that the suite waits for the slowest only."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from orderctl.demo import demonstration, stories
from orderctl.demo.stories import Journey
from orderctl.stack.rest import OrdersApi
from orderctl.stack.signin import TokenSource
from orderctl.stack.target import Target


@pytest.fixture(scope="module")
def journeys(cloud: Target, new_customer: Callable[[], TokenSource]) -> dict[str, Journey]:
    """Return every story's order, by the sample's name, after it has ended and been checked."""
    started = [demonstration.prepare(cloud, story) for story in stories.STORIES]
    with OrdersApi(cloud.api_url, new_customer()) as api:
        for journey in started:
            demonstration.submit(api, journey)
        demonstration.watch(api, cloud, started)
    return {journey.story.sample: journey for journey in started}
