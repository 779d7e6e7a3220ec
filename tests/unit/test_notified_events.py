from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from cfnlint.decode import cfn_yaml

from orders.events import DETAIL_TYPES

TEMPLATE = Path(__file__).parents[2] / "template.yaml"


def test_rule_sends_exactly_the_events_that_have_a_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    # GIVEN
    for name in ("NOTIFICATIONS_QUEUE_URL", "IDEMPOTENCY_TABLE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("POWERTOOLS_TRACE_DISABLED", "1")
    notify_customer = importlib.import_module("orders.functions.notify_customer")

    # WHEN
    rule = cfn_yaml.load(str(TEMPLATE))["Resources"]["OrderEventsRule"]["Properties"]

    # THEN
    assert set(rule["EventPattern"]["detail-type"]) == {DETAIL_TYPES[status] for status in notify_customer.TEXTS}
