"""Where state is stored that is as large as embedding tables and unused while an inner loop runs.

Between inner loops rows of moments and momenta are read and written, and the best theta_S is replaced at validations;
the steps themselves work on copies of the rows that they read. So only theta_S has to be in memory all the time.
"""

from typing import Protocol

import torch
from torch import Tensor


class StateMemory(Protocol):
    """Makes tensors for state: in memory, or elsewhere (`mamdr_core.shards.arrays.Arrays`)."""

    mapped: bool
    """Whether they are memory-mapped, so that what is used all the time is copied back to memory."""

    def zeros_like(self, like: Tensor) -> Tensor:
        """Zeros of the shape and type of a tensor."""

    def copy(self, values: Tensor) -> Tensor:
        """A copy that shares no memory with `values`."""


class InMemory:
    """State in the memory of the device that theta_S is on."""

    mapped = False

    def zeros_like(self, like: Tensor) -> Tensor:
        """Zeros of the shape and type of a tensor, on its device."""
        return torch.zeros_like(like)

    def copy(self, values: Tensor) -> Tensor:
        """A copy on the same device."""
        return values.clone()


IN_MEMORY = InMemory()
