"""Storage of state of the size of embedding tables that inner loops do not use.

Rows of moments and momenta are read and written between inner loops, and the best theta_S is replaced after
validations. Steps work on copies of the rows that they read. So only theta_S has to be in memory.
"""

from typing import Protocol

import torch
from torch import Tensor


class StateMemory(Protocol):
    """Creates tensors of state, in memory or in files (`mamdr_core.shards.arrays.Arrays`)."""

    mapped: bool
    """Whether tensors are memory-mapped; values that steps use are then copied to memory."""

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
