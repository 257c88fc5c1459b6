"""Which trajectories share a stack, and what their steps are padded to."""

import torch

from mamdr_core.engine.columns import Visit
from mamdr_core.engine.parameters import Scope
from mamdr_core.engine.stacking import PaddedSteps, StackLimits, cut_stacks, sort_trajectories
from mamdr_core.engine.steps import lay_steps
from tests.engine.small_models import random_columns


def stacks_of(counts: list[int], batch_size: int = 10, **limits: float) -> list[list[tuple[int, ...]]]:
    """Rows of the batches of the trajectories of each stack, one visit of a number of rows each."""
    columns = random_columns([sum(counts)])
    visits = [[Visit(columns, torch.arange(count))] for count in counts]
    scopes = [Scope()] * len(counts)
    within = StackLimits(
        **{"budget": 1e9, "trajectory_bytes": 1, "row_bytes": 1, "padding": 1.15, "size": 99, **limits}
    )
    lined_up = sort_trajectories([None] * len(counts), visits, scopes, [0] * len(counts), batch_size)
    return [[trajectory.rows_S for trajectory in stack] for stack in cut_stacks(lined_up, within)]


def test_trajectories_of_different_lengths_share_a_stack():
    assert stacks_of([10, 50, 0, 30]) == [[(10,) * 5, (10,) * 3, (10,), ()]]


def test_a_stack_has_little_padding_and_fits_its_budget():
    assert stacks_of([500, 450], 500) == [[(450,), (500,)]]
    assert stacks_of([500, 450], 500, padding=1.0) == stacks_of([500, 450], 500, budget=600) == [[(450,)], [(500,)]]
    assert stacks_of([20, 20, 20], budget=24) == [[(10, 10), (10, 10)], [(10, 10)]]
    assert stacks_of([20] * 5, size=2) == [[(10, 10), (10, 10)]] * 2 + [[(10, 10)]]


def test_a_step_is_padded_to_its_largest_batch():
    columns = random_columns([100])
    visits = [[Visit(columns, torch.arange(rows))] for rows in (60, 23, 0)]
    steps = lay_steps(visits, 20)
    assert steps.shapes == [(2, 24), (2, 24), (1, 24)]
    assert [[len(batch) for batch in batches] for batches in steps.batches] == [[20, 11], [20, 12], [20]]
    padded = PaddedSteps.none().with_one((20, 20, 20)).with_one((11, 12)).with_one(())
    assert (padded.widest_S.tolist(), padded.running_S.tolist(), padded.rows) == ([20, 20, 20], [2, 2, 1], 83)
