"""Batches of a round are moved so that all ranks have about as many steps and rows."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mamdr_core.engine.plan import RoundPlan
from mamdr_core.parallel.balance import SLACK, balance_ranks
from mamdr_core.parallel.placement import place_domains


def loads(batches, ranks):
    """Rows of each rank, and steps as `Visit.batches` cuts what a rank has of a domain into batches of at most 10."""
    domains = int(batches.domain_U.max(initial=0)) + 1
    rows = np.bincount(batches.holder_U * domains + batches.domain_U, batches.sizes, minlength=ranks * domains)
    by_rank = rows.reshape(ranks, domains)
    return by_rank.sum(1), np.ceil(by_rank / 10).sum(1)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 400), min_size=1, max_size=15), st.integers(1, 9), st.integers(1, 60), st.integers(0, 9))
def test_every_row_is_in_one_batch_and_no_rank_exceeds_its_room(sizes, ranks, batch, seed):
    random = np.random.default_rng(seed)
    start_n = random.integers(0, 50, len(sizes))
    stop_n, owner_n = start_n + sizes, random.integers(0, ranks, len(sizes))
    batches = balance_ranks(start_n, stop_n, owner_n, ranks, batch)
    assert (batches.owner_U == owner_n[batches.domain_U]).all()
    assert ((batches.holder_U >= 0) & (batches.holder_U < ranks)).all()
    assert ((batches.sizes > 0) & (batches.sizes <= batch)).all()
    for domain in range(len(sizes)):
        of_domain = batches.domain_U == domain
        parts = zip(batches.start_U[of_domain], batches.stop_U[of_domain], strict=True)
        covered = [row for start, stop in parts for row in range(start, stop)]
        assert covered == list(range(start_n[domain], stop_n[domain]))
    if len(batches.sizes):
        steps = np.bincount(batches.holder_U, minlength=ranks)
        assert steps.max() <= np.ceil(steps.mean() * (1 + SLACK))


def test_balanced_ranks_and_a_single_rank_move_nothing():
    start_n, stop_n = np.zeros(4, dtype=np.int64), np.array([40, 40, 5, 5])
    assert not balance_ranks(start_n, np.full(4, 10), np.array([0, 0, 1, 2]), 3, 10).lent.any()  # 2, 1 and 1 steps
    assert not balance_ranks(start_n, stop_n, np.array([0, 1, 0, 1]), 2, 10).lent.any()
    assert not balance_ranks(start_n, stop_n, np.zeros(4, dtype=np.int64), 1, 10).lent.any()
    assert len(balance_ranks(start_n, start_n, np.zeros(4, dtype=np.int64), 2, 10).domain_U) == 0


@pytest.mark.parametrize("ranks", [2, 8, 40])
def test_a_domain_with_half_of_all_rows_is_split(ranks):
    sizes = np.array([4000, *[40] * 100])
    owner_n = place_domains(sizes, ranks)
    assert sizes[owner_n == owner_n[0]].sum() == 4000
    batches = balance_ranks(np.zeros_like(sizes), sizes, owner_n, ranks, 10)
    rows, steps = loads(batches, ranks)
    assert rows.max() <= max(1.03 * rows.mean(), 10) + 10
    assert steps.max() <= 1.03 * steps.mean() + 1


def test_400_ranks_share_10_domains():
    sizes = np.array([10_000, 3000, 1000, 500, 100, 50, 20, 10, 5, 0])
    batches = balance_ranks(np.zeros_like(sizes), sizes, place_domains(sizes, 400), 400, 10)
    rows, steps = loads(batches, 400)
    assert rows.sum() == sizes.sum()
    assert steps.max() <= np.ceil(steps.mean()) + 1
    assert (rows > 0).all()


def test_small_batches_are_moved_for_steps_and_large_ones_for_rows():
    """The first rank has one large domain, the second 40 small ones: both end with about half of rows and steps."""
    sizes = np.array([200, *[2] * 40])
    owner_n = np.array([0, *[1] * 40])
    batches = balance_ranks(np.zeros_like(sizes), sizes, owner_n, 2, 10)
    rows, steps = loads(batches, 2)
    assert np.abs(rows - 140).max() <= 10
    assert np.abs(steps - 30).max() <= 2
    assert batches.sizes[batches.lent].sum() == 126  # the fewest: 18 small ones of 2 rows, and 9 of 10 in return


def test_400_ranks_have_nearly_equal_steps_in_production(monkeypatch):
    """Every eighth round of an epoch of all 69,102 domains: the plan alone, no data."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    shape = __import__("production_shape")
    counts_n, _ = shape.rows_by_domain(shape.production_config([]))
    owner_n, plan = place_domains(counts_n, 400), RoundPlan(counts_n, 64, 32, 0)
    found = []
    for number in range(0, 64, 8):
        batches = balance_ranks(*plan.slices(0, number), owner_n, 400, 1024)
        owned, held, rows = (
            np.bincount(*each, minlength=400)
            for each in ((batches.owner_U,), (batches.holder_U,), (batches.holder_U, batches.sizes))
        )
        lent = batches.sizes[batches.lent].sum() / batches.sizes.sum()
        found.append((owned.max() / owned.mean(), held.max() / held.mean(), rows.max() / rows.mean(), lent))
    before, steps, rows, lent = np.max(found, axis=0)
    assert before > 1.4
    assert steps <= 1.1
    assert rows <= 1.1
    assert lent <= 0.05
