"""State of embedding tables in memory-mapped scratch files; see `mamdr_core.engine.state_memory.StateMemory`."""

import torch
from torch import Tensor

from mamdr_core.shards.arrays import Arrays


class MappedState:
    """Allocates tensors on the CPU whose pages the kernel evicts when memory is short; see `Arrays`.

    Example:
        >>> MappedState().copy(torch.ones(2)).add_(1)
        tensor([2., 2.])
    """

    mapped = True

    def __init__(self, folder: str = "") -> None:
        self._arrays = Arrays(True, folder, "train.table_memory", "set train.tables to sharded")

    def zeros_like(self, like: Tensor) -> Tensor:
        """Zeros with the shape and type of a tensor.

        Raises:
            MamdrError: the folder does not exist, cannot be written or is full.
        """
        kind = torch.empty(0, dtype=like.dtype).numpy().dtype
        return torch.from_numpy(self._arrays.empty(tuple(like.shape), kind))  # a new file contains zeros

    def copy(self, values: Tensor) -> Tensor:
        """A copy that shares no memory with `values`.

        Raises:
            MamdrError: the folder does not exist, cannot be written or is full.
        """
        return self.zeros_like(values).copy_(values)
