"""How large DR's visits and inner steps are: they grow with the domain, and are bounded."""

import torch
from torch import Tensor

from mamdr_core.learning.settings import DRSettings


def visit_rows(dr: DRSettings, dealt: int) -> int:
    """Rows of a visit to a target, of those dealt to it."""
    return min(dealt, dr.target_rows or dealt)


def step_rows(dr: DRSettings, rows: int, batch_size: int) -> int:
    """Largest number of rows of a step on a target and its supports: `dr.batch_size`, doubled until steps are few.

    Args:
        dr: the settings.
        rows: of the visit to the target.
        batch_size: train.batch_size.
    """
    size = dr.batch_size or batch_size
    while dr.most_steps and size < batch_size and rows > dr.most_steps * size:
        size = min(2 * size, batch_size)
    return size


def scaled_rate(dr: DRSettings, size: int, batch_size: int) -> float:
    """Inner rate of steps of up to `size` rows, `dr.lr` for those of `dr.batch_size`.

    Larger steps are fewer and have less noise: Adam's rate grows with the square root of their rows (Malladi et al.
    2022), plain descent's with their rows (Goyal et al. 2017).
    """
    growth = size / (dr.batch_size or batch_size)
    return dr.lr * (growth**0.5 if dr.optimizer == "adam" else growth)


def part_of(rows: Tensor, start: int, most: int) -> Tensor:
    """All rows, or `most` of them from a place on, continued at the beginning."""
    if start + most <= len(rows):
        return rows[start : start + most]
    if most == len(rows):
        return rows
    return torch.cat([rows[start : start + most], rows[: max(0, start + most - len(rows))]])
