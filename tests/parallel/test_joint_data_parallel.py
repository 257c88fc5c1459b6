"""Data-parallel joint training: ranks together make the steps of one process."""

from functools import partial

import pytest
import torch

from mamdr_core.engine.columns import Visit
from mamdr_core.engine.optimizers import OuterOptimizer
from mamdr_core.engine.parameters import Theta
from mamdr_core.learning.inner_loop import TAKE_END, InnerLoop
from mamdr_core.learning.learner import Round
from mamdr_core.learning.methods import METHODS
from mamdr_core.parallel.collective import SingleProcess, run_simulated
from tests.engine.small_models import small_engine
from tests.parallel.sharded_cases import COLUMNS, ROUNDS, Case, assert_close

NAME = "joint_data_parallel"
OWNERS = {1: (0,) * 5, 2: (0, 1, 0, 1, 0), 3: (0, 1, 1, 0, 0)}
"""Ranks with unequal numbers of rows; the last of three has none."""


def global_batches(case: Case, number: int, batch_size: int) -> list[Visit]:
    """The rows of all ranks, one rank after another, dealt in turn to steps; each is one batch."""
    rows = []
    for rank in range(case.ranks):
        held = torch.isin(COLUMNS.ids["domain"] - 1, case.owned(rank)).nonzero().squeeze(1)
        rows.append(held[case.round(number, rank).shuffled])
    whole = torch.cat(rows)
    steps = -(-len(whole) // batch_size)
    return [Visit(COLUMNS, whole[step::steps], batch_size=batch_size) for step in range(steps)]


@pytest.mark.parametrize("state", ["carried", "fresh"])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_together_make_the_steps_of_one_process_on_the_same_batches(ranks, state):
    case = Case(NAME, owner=OWNERS[ranks], ranks=ranks, state=state)
    found = [shared for shared, _, _ in run_simulated(partial(case.run, sharded=False), ranks)]
    alone = Case("joint", state=state).learner(None, small_engine(5)[1])
    inner = InnerLoop(alone)
    for number in range(ROUNDS):
        visits = global_batches(case, number, alone.engine.batch_size)
        change = alone.engine.descend(Theta(alone.shared), visits, 0.05, state=inner.moments())
        OuterOptimizer(TAKE_END).step(alone.shared, change)
    for shared in found:
        assert_close(shared, alone.shared)
        assert torch.equal(shared.dense, found[0].dense)
        assert all(torch.equal(table, found[0].tables[name]) for name, table in shared.tables.items())


def test_one_rank_makes_the_steps_of_joint_training_on_the_same_batches():
    dealt = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    in_batches = torch.cat([dealt[step::3] for step in range(3)])
    found = []
    for method, rows in ((NAME, dealt), ("joint", in_batches)):
        learner = Case(method, state="carried").learner(None, small_engine(5)[1])
        update = METHODS[method].shared(learner)
        for number in range(2):
            update(Round(0, number, {}, rows))
        found.append(learner.shared)
    assert_close(*found)


@pytest.mark.parametrize("counts", [(9, 2), (0, 5), (1, 0), (0, 0)])
def test_every_rank_makes_as_many_steps_and_drops_other_units(counts):
    """A step has at most four rows, of all ranks together."""

    def task(collective):
        learner = Case(NAME).learner(collective.rank, small_engine(5)[1], collective)
        gradient, average = learner.engine.gradient, learner.average_gradient
        seeds, rows = [], []
        learner.engine.gradient = lambda theta, visit, seed: (seeds.append(seed), gradient(theta, visit, seed))[1]
        learner.average_gradient = lambda change, weight: (rows.append(weight), average(change, weight))[1]
        METHODS[NAME].shared(learner)(Round(0, 0, {}, torch.arange(counts[collective.rank])))
        return seeds, rows, learner.rows_descended

    (seeds, rows, count), (other_seeds, other_rows, other_count) = run_simulated(task, 2)
    steps = -(-sum(counts) // 4)
    assert len(rows) == len(other_rows) == steps
    assert all(
        sum(step) in (sum(counts) // steps, sum(counts) // steps + 1) for step in zip(rows, other_rows, strict=True)
    )
    assert (count, other_count) == counts
    assert len({*seeds, *other_seeds}) == len(seeds) + len(other_seeds)


def test_a_resumed_run_carries_the_moments_on():
    def run(collective, resumes):
        case = Case(NAME, state="carried")
        learner = case.learner(collective.rank, small_engine(5)[1], collective)
        update = METHODS[NAME].shared(learner)
        for number in range(ROUNDS):
            if resumes:
                saved, update = update.state_dict(), METHODS[NAME].shared(learner)
                update.load_state_dict(saved)
            update(case.round(number, collective.rank))
        return learner.shared

    undisturbed, resumed = (run_simulated(partial(run, resumes=resumes), 2)[0] for resumes in (False, True))
    assert torch.equal(resumed.dense, undisturbed.dense)


def test_a_single_process_needs_no_collective():
    shared, _, _ = Case(NAME, owner=OWNERS[1], ranks=1).run(SingleProcess(), sharded=False)
    assert (shared.dense != small_engine(5)[1].dense).any()
