"""Outer updates against torch's optimizers."""

import pytest
import torch

from mamdr_core.config.engine import OuterSettings
from mamdr_core.engine.optimizers import WIDE, OuterOptimizer, move_by_adam, move_rows_by_adam, row_views
from mamdr_core.engine.parameters import Change, Rows, Shared


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.3)),
        ("nesterov", lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.5, nesterov=True)),
        ("adam", lambda p: torch.optim.Adam(p, lr=0.3, betas=(0.5, 0.999))),
    ],
)
def test_the_outer_update_is_a_step_along_the_negative_change(name, make):
    dense, table = torch.randn(4, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    shared = Shared(dense.clone(), {"user": table.clone()})
    expected = [dense.clone().requires_grad_(), table.clone().requires_grad_()]
    ours, theirs = OuterOptimizer(OuterSettings(optimizer=name, beta=0.3, momentum=0.5)), make(expected)
    for _ in range(4):
        change = Change(torch.randn(4, dtype=torch.float64))
        change.rows["user"] = Rows(torch.arange(3), torch.randn(3, 2, dtype=torch.float64))
        ours.step(shared, change)
        expected[0].grad, expected[1].grad = -change.dense, -change.rows["user"].values
        theirs.step()
    torch.testing.assert_close(shared.dense, expected[0].detach())
    torch.testing.assert_close(shared.tables["user"], expected[1].detach())


def test_untouched_rows_do_not_change():
    shared = Shared(torch.zeros(1), {"user": torch.zeros(3, 1)})
    outer = OuterOptimizer(OuterSettings(optimizer="nesterov", beta=0.5))
    for _ in range(2):
        outer.step(shared, Change(torch.zeros(1), {"user": Rows(torch.tensor([1]), torch.ones(1, 1))}))
    assert shared.tables["user"][[0, 2]].tolist() == [[0.0], [0.0]]
    assert shared.tables["user"][1].item() > 1.0


@pytest.mark.parametrize("rows", [[], [3, 1]])
def test_adam_of_rows_in_place_is_that_of_copies_and_changes_no_other_row(rows):
    torch.manual_seed(0)
    matrices = [torch.rand(5, WIDE, dtype=torch.float64) for _ in range(3)]
    expected, place, count = [matrix.clone() for matrix in matrices], torch.tensor(rows).long(), torch.tensor(4.0)
    gradient = torch.randn(len(rows), WIDE, dtype=torch.float64)
    values, first, second = (matrix[place] for matrix in expected)
    values *= 0.9
    move_by_adam([values], [gradient], [first], [second], count, 0.01)
    for matrix, moved in zip(expected, (values, first, second), strict=True):
        matrix[place] = moved
    move_rows_by_adam(row_views(matrices), place, gradient, count, 0.01, keep=0.9)
    torch.testing.assert_close(matrices, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [0, 1, 37])
def test_adam_equals_torchs_and_does_not_change_the_count(dtype, rows):
    torch.manual_seed(0)
    start = torch.randn(rows, 5, dtype=dtype)
    values, first, second = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    parameter = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.Adam([parameter], lr=0.01, fused=False)
    for step in range(1, 6):
        parameter.grad = torch.randn(rows, 5, dtype=dtype)
        count = torch.tensor(float(step))
        move_by_adam([values], [parameter.grad], [first], [second], count, 0.01)
        optimizer.step()
        assert count == step
    torch.testing.assert_close(values, parameter.data)
    assert not rows or (values - start).abs().max() > 0.02
