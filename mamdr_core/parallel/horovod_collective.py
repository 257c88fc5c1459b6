"""Collective over Horovod."""

from collections.abc import Sequence

import horovod.torch as hvd
import torch
from torch import Tensor


class HorovodCollective:
    """The ranks of a Horovod job, which has been launched; hvd.init is called here.

    Every operation keeps one name: they follow one another in the same order on all ranks, and a name of its own for
    each call would grow Horovod's tables with every round.
    """

    def __init__(self) -> None:
        hvd.init()
        self.rank: int = hvd.rank()
        self.size: int = hvd.size()

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum over ranks."""
        summed: Tensor = hvd.allreduce(tensor, name="allreduce", op=hvd.Sum)
        return summed

    def all_gather(self, tensor: Tensor) -> Tensor:
        """All ranks' rows, in rank order."""
        gathered: Tensor = hvd.allgather(tensor.contiguous(), name="allgather")
        return gathered

    def all_to_all(self, tensor: Tensor, splits: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Rows sent to this rank, and how many came from each."""
        sent = torch.tensor(splits, dtype=torch.int32)
        received, counts = hvd.alltoall(tensor.contiguous(), sent, name="alltoall")
        return received, counts.tolist()

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Rank 0's tensor."""
        sent: Tensor = hvd.broadcast(tensor, name="broadcast", root_rank=0)
        return sent
