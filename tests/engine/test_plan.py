"""The round plan assigns every row to one round and depends on nothing but sizes, seed and epoch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mamdr_core.engine import plan as plans
from mamdr_core.engine.hashing import splitmix64
from mamdr_core.engine.plan import RoundPlan, domain_parts, shuffled_parts, shuffled_within


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 300), min_size=1, max_size=12),
    st.integers(1, 40),
    st.integers(1, 50),
    st.integers(0, 5),
)
def test_every_row_is_visited_exactly_once_per_epoch(counts, rounds, smallest, seed):
    plan = RoundPlan(np.array(counts), rounds, smallest, seed)
    seen = [[] for _ in counts]
    for number in range(rounds):
        start, stop = plan.slices(1, number)
        for domain, (first, last) in enumerate(zip(start, stop, strict=True)):
            if last > first:
                assert last - first >= min(smallest, counts[domain])
                seen[domain].extend(range(first, last))
    assert [sorted(rows) for rows in seen] == [list(range(count)) for count in counts]


def test_large_domains_are_visited_in_every_round_in_proportion():
    plan = RoundPlan(np.array([1600, 800, 16]), 16, 8, 0)
    visits = np.array([np.subtract(*plan.slices(0, number)[::-1]) for number in range(16)])
    assert (visits[:, 0] == 100).all()
    assert (visits[:, 1] == 50).all()
    assert sorted(visits[visits[:, 2] > 0, 2]) == [8, 8]


def test_one_round_is_a_full_pass_over_every_domain():
    start, stop = RoundPlan(np.array([5, 0, 70]), 1, 32, 0).slices(3, 0)
    assert (stop - start).tolist() == [5, 0, 70]


def test_the_order_of_domains_changes_with_the_round_and_repeats_with_the_seed():
    plan = RoundPlan(np.full(50, 10), 4, 1, seed=7)
    assert sorted(plan.order(0, 0)) == list(range(50))
    assert plan.order(0, 0).tolist() != plan.order(0, 1).tolist()
    assert plan.order(2, 1).tolist() == RoundPlan(np.full(50, 10), 4, 1, seed=7).order(2, 1).tolist()


def test_a_domains_order_does_not_depend_on_the_other_domains_of_the_rank():
    both = shuffled_within(np.array([0, 3, 9]), np.repeat([0, 1], [3, 6]), seed=5)
    alone = shuffled_within(np.array([0, 0, 6]), np.repeat([1], 6), seed=5)
    assert sorted(both[:3]) == [0, 1, 2]
    assert (both[3:] - 3).tolist() == alone.tolist()


def test_shuffling_in_parts_equals_shuffling_at_once(monkeypatch):
    monkeypatch.setattr(plans, "PART_ROWS", 10)
    counts = np.array([4, 0, 5, 3, 30, 0, 0, 1, 9])
    offsets = np.concatenate([[0], counts.cumsum()])
    whole = shuffled_within(offsets, np.repeat(np.arange(9), counts), seed=3)
    parts = list(shuffled_parts(offsets, seed=3))
    assert [first for first, _ in parts] == [0, 9, 12, 42]
    assert np.concatenate([rows for _, rows in parts]).tolist() == whole.tolist()


@pytest.mark.parametrize(("domains", "rows"), [(1, 1), (1, 70_000), (40_000, 70_000), (3, 0), (70_000, 70_000)])
def test_rows_are_sorted_by_domain_and_key_even_with_few_bits_of_the_key(domains, rows):
    random = np.random.default_rng(0)
    domain_N = np.sort(random.integers(0, domains, rows))
    key_N = splitmix64(np.arange(rows, dtype=np.uint64))
    key_N[::3] >>= np.uint64(40)  # ties in the leading bits
    assert plans.order_within(domain_N, key_N).tolist() == np.lexsort((key_N, domain_N)).tolist()


def test_parts_are_whole_domains_of_bounded_rows_or_one_larger_domain():
    assert list(domain_parts(np.array([0, 4, 4, 9, 12, 42, 42, 43]), 10)) == [(0, 3), (3, 4), (4, 5), (5, 7)]
    assert list(domain_parts(np.array([0, 0, 0]), 10)) == [(0, 2)]
