"""Samples of support rows: equal on any number of ranks, each of which receives the rows that it draws."""

import numpy as np
import pytest
import torch

from mamdr_core.parallel.collective import SingleProcess, run_simulated
from mamdr_core.parallel.supports import SupportSample, spread_places
from mamdr_core.shards.arrays import Arrays
from mamdr_core.training.rounds import shuffle_rows
from tests.engine.small_models import random_columns, with_base

COLUMNS = with_base(random_columns([40, 3, 0, 25, 10]))
OWNER = np.array([1, 0, 0, 1, 0])
BOUND = 8
DRAWS = [(3, 2, 4), (0, 0, 8), (1, 1, 2), (0, 5, 3), (0, 0, 8), (4, 0, 1)]


def sample_of(collective, columns=COLUMNS):
    domains = columns.ids["domain"].long() - 1
    own = torch.from_numpy(OWNER)[domains] == collective.rank
    train = columns if collective.size == 1 else columns.take(own.nonzero().squeeze(1))
    return SupportSample(collective, train, BOUND, shuffle_rows(train, 4, Arrays())), train


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
    other = SupportSample(SingleProcess(), train, BOUND, shuffle_rows(train, 5, Arrays()))
    assert not torch.equal(other.fetch([(0, 0, BOUND)])[1][0], rows[0])


def test_ranks_without_any_row_or_draw_take_part():
    empty = random_columns([0, 0])

    def task(collective):
        sample = SupportSample(collective, empty, BOUND, shuffle_rows(empty, 4, Arrays()))
        columns, rows = sample.fetch([])
        return len(columns), rows, sample.occupied.tolist()

    assert run_simulated(task, 2) == [(0, [], [])] * 2


def test_a_sample_is_spread_over_the_order_that_slices_are_cut_from():
    """Of 16 slices, blocks of 160 rows have about as many rows of each, more evenly than independent draws would."""
    rows_n = np.array([0, 1, 2, 6, 7, *range(1000, 100_000, 333)])
    sampled_n = np.minimum(rows_n, 1024)
    parts = np.split(spread_places(rows_n, sampled_n), sampled_n.cumsum()[:-1])
    for rows, sampled, places in zip(rows_n, sampled_n, parts, strict=True):
        assert len(np.unique(places)) == sampled
        assert ((places >= 0) & (places < rows)).all()
    blocks = [
        places[first : first + 160] * 16 // rows
        for rows, places in zip(rows_n[5:], parts[5:], strict=True)
        for first in (0, 300, 800)
    ]
    spread = np.array([np.bincount(block, minlength=16).std() for block in blocks])
    independent = (160 / 16 * 15 / 16) ** 0.5
    assert spread.mean() < independent / 2
    assert spread.max() < 1.2 * independent


def test_every_row_is_sampled_as_often_as_any_other():
    """1,200 seeds, 8 of 40 rows: each is in 240 samples but for three standard deviations and a half."""
    train = random_columns([40])
    found = torch.zeros(40)
    for seed in range(1200):
        sample = SupportSample(SingleProcess(), train, BOUND, shuffle_rows(train, seed, Arrays()))
        _, (rows,) = sample.fetch([(0, 0, BOUND)])
        found[rows] += 1
    assert (found - 240).abs().max() < 3.5 * (1200 * 0.2 * 0.8) ** 0.5
