"""Sizes of DR's visits and inner steps, which grow with the domain up to a limit."""

import torch
from torch import Tensor

from mamdr_core.config.learning import DRSettings


def visit_rows(dr: DRSettings, rows: int) -> int:
    """Number of rows of a visit to a target that has `rows` rows in the pass."""
    return min(rows, dr.target_rows or rows)


def step_rows(dr: DRSettings, rows: int, batch_size: int) -> int:
    """Largest number of rows of a step on a target and its supports; see `DRSettings.most_steps`.

    Args:
        dr: the settings.
        rows: number of rows of the visit to the target.
        batch_size: train.batch_size.
    """
    size = dr.batch_size or batch_size
    while dr.most_steps and size < batch_size and rows > dr.most_steps * size:
        size = min(2 * size, batch_size)
    return size


def scaled_rate(dr: DRSettings, size: int, batch_size: int) -> float:
    """Inner learning rate of steps of up to `size` rows; it is `dr.lr` for steps of `dr.batch_size` rows.

    Larger steps are fewer and have less noise. The rate of Adam grows with the square root of their rows (Malladi et
    al. 2022), that of gradient descent with their rows (Goyal et al. 2017).
    """
    growth = size / (dr.batch_size or batch_size)
    return dr.lr * (growth**0.5 if dr.optimizer == "adam" else growth)


def part_of(rows: Tensor, start: int, count: int) -> Tensor:
    """`count` rows from position `start`, continued at the beginning; all rows are returned in their order."""
    if start + count <= len(rows):
        return rows[start : start + count]
    if count == len(rows):
        return rows
    return torch.cat([rows[start : start + count], rows[: max(0, start + count - len(rows))]])
