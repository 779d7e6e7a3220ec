from __future__ import annotations

from pathlib import Path

from cfnlint.decode import cfn_yaml

from orders.domain.events import DETAIL_TYPES
from orders.mail.texts import TEXTS

TEMPLATE = Path(__file__).parents[2] / "template.yaml"


def test_rule_sends_exactly_the_events_that_have_a_mail() -> None:
    rule = cfn_yaml.load(str(TEMPLATE))["Resources"]["OrderEventsRule"]["Properties"]

    assert set(rule["EventPattern"]["detail-type"]) == {DETAIL_TYPES[status] for status in TEXTS}
