"""Samples of support rows: the same on any number of ranks, of which a rank receives what it has drawn."""

import numpy as np
import pytest
import torch

from mamdr_core.parallel.collective import SingleProcess, run_simulated
from mamdr_core.parallel.supports import SupportSample
from tests.engine.helpers import random_columns, with_base

COLUMNS = with_base(random_columns([40, 3, 0, 25, 10]))
OWNER = np.array([1, 0, 0, 1, 0])
BOUND = 8
DRAWS = [(3, 2, 4), (0, 0, 8), (1, 1, 2), (0, 5, 3), (0, 0, 8), (4, 0, 1)]


def sample_of(collective, columns=COLUMNS):
    domains = columns.ids["domain"].long() - 1
    own = torch.from_numpy(OWNER)[domains] == collective.rank
    train = columns if collective.size == 1 else columns.take(own.nonzero().squeeze(1))
    return SupportSample(collective, train, BOUND, seed=4), train


def read(columns, rows):
    base = [] if columns.base_logits is None else [columns.base_logits[rows]]
    ids = [columns.ids[name][rows] for name in sorted(columns.ids)]
    return torch.stack([*ids, *columns.numeric[rows].T, columns.labels[rows], *base])


@pytest.mark.parametrize("has_base", [False, True])
@pytest.mark.parametrize("ranks", [2, 3])
def test_the_rows_of_a_draw_are_the_same_whatever_rank_owns_the_domain(ranks, has_base):
    """The second rank draws nothing; the third owns nothing and draws what the others do not."""
    columns = COLUMNS if has_base else random_columns([40, 3, 0, 25, 10])
    draws = [DRAWS, [], [(3, 0, 8)]]
    alone, train = sample_of(SingleProcess(), columns)
    assert alone.counts_n.tolist() == [8, 3, 0, 8, 8]
    assert alone.occupied.tolist() == [0, 1, 3, 4]

    def task(collective):
        sample, _ = sample_of(collective, columns)
        assert sample.counts_n.tolist() == alone.counts_n.tolist()
        assert sample.occupied.tolist() == alone.occupied.tolist()
        return sample.fetch(draws[collective.rank])

    for rank, (found, rows) in enumerate(run_simulated(task, ranks)):
        _, expected = alone.fetch(draws[rank])
        assert len(rows) == len(draws[rank])
        for own, own_expected in zip(rows, expected, strict=True):
            assert torch.equal(read(found, own), read(train, own_expected))
        assert (found.ids["domain"].diff() >= 0).all()
        assert found.offsets.tolist()[-1] == len(found)


def test_a_rank_receives_each_distinct_draw_once_and_nothing_else():
    def task(collective):
        sample, _ = sample_of(collective)
        columns, _ = sample.fetch(DRAWS if collective.rank else [])
        return columns.counts.tolist()

    assert run_simulated(task, 2) == [[0, 0, 0, 0, 0], [8 + 3, 2, 0, 4, 1]]


def test_a_sample_is_bounded_without_replacement_and_drawn_anew_by_seed():
    whole, train = sample_of(SingleProcess())
    columns, rows = whole.fetch([(domain, 0, int(whole.counts_n[domain])) for domain in whole.occupied])
    assert columns is train  # one process copies no row
    for domain, own in zip(whole.occupied, rows, strict=True):
        assert len(own.unique()) == min(BOUND, int(train.counts[domain]))
        assert (train.ids["domain"][own] == domain + 1).all()
    other = SupportSample(SingleProcess(), train, BOUND, seed=5)
    assert not torch.equal(other.fetch([(0, 0, BOUND)])[1][0], rows[0])


def test_ranks_without_any_row_or_draw_take_part():
    empty = random_columns([0, 0])

    def task(collective):
        sample = SupportSample(collective, empty, BOUND, seed=4)
        columns, rows = sample.fetch([])
        return len(columns), rows, sample.occupied.tolist()

    assert run_simulated(task, 2) == [(0, [], [])] * 2
