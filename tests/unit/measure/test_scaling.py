"""How far the pipeline scales: quotas, one product in shards, bursts, and a payment provider that hangs."""

from __future__ import annotations

import pytest

from measure import cost, template
from measure.benchmarks import best_seller, bulkheads, scaling

ORDER = cost.of_profile(cost.load_usage(), "clean")


def test_no_quota_of_aws_is_met_below_2500_orders_a_second() -> None:
    for quota in scaling.quotas(ORDER):
        if quota.kind is scaling.Kind.AWS:
            assert quota.orders_a_second >= scaling.LEAST_QUOTA, quota.name


def test_what_is_met_earlier_is_a_parameter_or_one_hot_key() -> None:
    ours = [quota for quota in scaling.quotas(ORDER) if quota.kind is scaling.Kind.OURS]

    assert {quota.name.rpartition(": ")[2] for quota in ours} <= template.template()["Parameters"].keys()


def test_one_product_on_32_shards_carries_300_orders_a_second() -> None:
    outcome = best_seller.sell(300, 32, 6_000)

    assert outcome.retries_an_order <= scaling.MOST_RETRIES
    assert (outcome.stuck, outcome.sold_out, outcome.sold_pieces) == (0, 0, 6_000)


@pytest.mark.parametrize(("rate", "shards"), [(5, 1), (50, 8), (300, 32)])
def test_the_retries_of_the_simulation_are_those_of_the_formula(rate: float, shards: int) -> None:
    outcome = best_seller.sell(rate, shards, 10_000)

    assert outcome.retries_an_order == pytest.approx(best_seller.retries_formula(rate, shards), rel=0.15)


@pytest.mark.parametrize("shards", [1, 7, 32])
def test_a_stock_sells_out_to_the_last_piece_and_never_one_more(shards: int) -> None:
    outcome = best_seller.sell(20, shards, 800, stock=1_000, most=3)

    assert outcome.sold_pieces == 1_000
    assert outcome.sold_out > 0
    assert outcome.stuck == 0


def test_a_burst_of_1000_orders_a_second_waits_for_no_execution() -> None:
    assert scaling.burst_delay(1_000, 60) == scaling.burst_formula(1_000, 60) == 0


def test_a_burst_beyond_the_quota_waits_and_loses_nothing() -> None:
    assert scaling.burst_delay(100, 1, bucket=50, refill=10) == pytest.approx(
        scaling.burst_formula(100, 1, bucket=50, refill=10), rel=0.05
    )


def test_payments_that_hang_close_the_api_unless_their_concurrency_is_limited() -> None:
    without, limited = bulkheads.hang(50, None, seconds=120), bulkheads.hang(50, 200, seconds=120)

    assert without.answered_5xx > 0
    assert without.peak == bulkheads.ACCOUNT
    assert limited.answered_5xx == 0
    assert limited.throttled > 0
    assert limited.orders == without.orders > 5_000
