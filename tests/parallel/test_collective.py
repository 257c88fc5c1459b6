"""Simulated ranks, averaging and placement."""

import numpy as np
import pytest
import torch

from mamdr_core.engine.parameters import Change, Rows
from mamdr_core.lake.examples.packing import pack_domains
from mamdr_core.parallel.averaging import mean_change
from mamdr_core.parallel.collective import run_simulated
from mamdr_core.parallel.placement import place_domains


def test_simulated_ranks_implement_the_collective_operations():
    def task(collective):
        own = torch.tensor([float(collective.rank + 1)])
        sent = torch.arange(3.0) + 10 * collective.rank
        return (
            collective.all_reduce(own).item(),
            collective.all_gather(own.repeat(collective.rank)).tolist(),
            collective.all_to_all(sent, [1, 1, 1])[0].tolist(),
            collective.broadcast(own).item(),
        )

    assert run_simulated(task, 3) == [
        (6.0, [2.0, 3.0, 3.0], [0.0, 10.0, 20.0], 1.0),
        (6.0, [2.0, 3.0, 3.0], [1.0, 11.0, 21.0], 1.0),
        (6.0, [2.0, 3.0, 3.0], [2.0, 12.0, 22.0], 1.0),
    ]


def test_a_simulated_rank_that_fails_stops_the_others():
    def task(collective):
        if collective.rank == 1:
            raise ValueError("rank 1 is ill")
        return collective.all_reduce(torch.ones(1))

    with pytest.raises(ValueError, match="rank 1 is ill"):
        run_simulated(task, 3)


def test_embedding_rows_are_averaged_over_the_ranks_that_touched_them():
    changes = [
        Change(torch.tensor([1.0, 0.0]), {"user": Rows(torch.tensor([0, 2]), torch.tensor([[1.0], [3.0]]))}),
        Change(torch.tensor([4.0, 3.0]), {"user": Rows(torch.tensor([2, 5]), torch.tensor([[6.0], [7.0]]))}),
        Change(torch.tensor([9.0, 9.0]), {"user": Rows(torch.zeros(0).long(), torch.zeros(0, 1))}),
    ]
    weights = [10.0, 20.0, 0.0]  # the third rank had no rows
    means = run_simulated(lambda c: mean_change(c, changes[c.rank], weights[c.rank]), 3)
    for mean in means:
        torch.testing.assert_close(mean.dense, torch.tensor([3.0, 2.0]))
        assert mean.rows["user"].ids.tolist() == [0, 2, 5]
        torch.testing.assert_close(mean.rows["user"].values, torch.tensor([[1.0], [5.0], [7.0]]))


def test_the_gradient_of_the_mean_loss_is_over_the_rows_of_all_ranks():
    """A row that the second rank alone touched moves by its part of the whole batch."""
    gradients = [
        Change(torch.tensor([1.0]), {"user": Rows(torch.tensor([0, 2]), torch.tensor([[3.0], [6.0]]))}),
        Change(torch.tensor([4.0]), {"user": Rows(torch.tensor([2, 5]), torch.tensor([[6.0], [9.0]]))}),
        Change(torch.tensor([0.0]), {"user": Rows(torch.zeros(0).long(), torch.zeros(0, 1))}),
    ]
    rows = [10.0, 20.0, 0.0]
    means = run_simulated(lambda c: mean_change(c, gradients[c.rank], rows[c.rank], touched_only=False), 3)
    for mean in means:
        torch.testing.assert_close(mean.dense, torch.tensor([3.0]))
        assert mean.rows["user"].ids.tolist() == [0, 2, 5]
        torch.testing.assert_close(mean.rows["user"].values, torch.tensor([[1.0], [6.0], [6.0]]))


def test_a_round_without_rows_changes_nothing():
    means = run_simulated(lambda c: mean_change(c, Change(torch.zeros(2)), 0.0), 2)
    assert means[0].dense.tolist() == [0.0, 0.0]


def test_placement_balances_rows_and_is_the_same_every_time():
    rows = np.array([100, 1, 40, 60, 0, 99, 30])
    owner = place_domains(rows, 3)
    loads = np.bincount(owner, weights=rows, minlength=3)
    assert loads.max() <= 4 / 3 * max(rows.sum() / 3, rows.max())
    assert owner.tolist() == place_domains(rows, 3).tolist()
    assert sorted(set(place_domains(np.array([5, 6]), 4))) == [0, 1]


def test_adjacent_small_domains_share_a_rank_and_loads_are_even():
    rows = np.full(1000, 10)
    rows[:3] = (4000, 700, 900)  # large: placed by themselves
    positions = np.random.default_rng(0).permutation(1000)
    owner = place_domains(rows, 4, positions)
    loads = np.bincount(owner, weights=rows)
    assert loads.min() >= 3840  # 15,570 rows; beside the first domain's 4,000 the others share evenly
    assert loads.max() <= 4000
    in_files = owner[np.argsort(positions)]
    in_files = in_files[np.isin(np.argsort(positions), (0, 1, 2), invert=True)]
    assert np.count_nonzero(np.diff(in_files)) == 2  # three stretches; the rank of the first domain is full


@pytest.mark.parametrize("seed", range(3))
def test_ranks_read_few_row_groups_but_their_own(seed):
    """Of files as examples.shards makes them of 10 M rows: their train rows, in row groups of 30,000."""
    sizes = np.exp(np.random.default_rng(seed).normal(0, 1.5, 1000))
    rows = np.maximum(1, sizes / sizes.sum() * 6e6).astype(np.int64)
    packing = pack_domains(dict(enumerate(rows.tolist())), target=600_000)
    files = [[d for d in range(1000) if shard in packing.shards[d]] for shard in range(packing.count)]
    positions = np.array([packing.shards[d][0] * 1000 + d for d in range(1000)])
    owner = place_domains(rows, 8, positions)
    read = 0
    for file in files:
        begins = np.cumsum([0, *(rows[d] // len(packing.shards[d]) for d in file)])
        owners = owner[file]
        for first in range(0, begins[-1], 30_000):
            held = (begins[:-1] < first + 30_000) & (begins[1:] > first)
            read += 30_000 * len(np.unique(owners[held]))
    assert read < 1.15 * rows.sum()
    loads = np.bincount(owner, rows)
    assert loads.max() < 1.1 * max(loads.mean(), rows.max())
