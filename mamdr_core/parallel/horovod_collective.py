"""Collective over Horovod."""

from collections.abc import Callable, Sequence

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
        # Each machine has its own build, and all ranks must send CUDA tensors the same way.
        with_nccl = hvd.allreduce(torch.tensor([int(hvd.nccl_built() > 0)]), name="with_nccl", op=hvd.Sum)
        self._sends_cuda = int(with_nccl) == self.size

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum over ranks."""
        return self._through(lambda own: hvd.allreduce(own, name="allreduce", op=hvd.Sum), tensor)

    def all_gather(self, tensor: Tensor) -> Tensor:
        """All ranks' rows, in rank order."""
        return self._through(lambda own: hvd.allgather(own, name="allgather"), tensor.contiguous())

    def all_to_all(self, tensor: Tensor, splits: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Rows sent to this rank, and how many came from each."""
        sent = torch.tensor(splits, dtype=torch.int32)
        counts: list[int] = []

        def exchange(own: Tensor) -> Tensor:
            received: Tensor
            received, received_counts = hvd.alltoall(own, sent, name="alltoall")
            counts.extend(received_counts.tolist())
            return received

        return self._through(exchange, tensor.contiguous()), counts

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Rank 0's tensor."""
        return self._through(lambda own: hvd.broadcast(own, name="broadcast", root_rank=0), tensor)

    def _through(self, operation: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
        """Horovod sends CUDA tensors if every rank's was built with NCCL; else they go through the host's memory."""
        if tensor.device.type == "cpu" or self._sends_cuda:
            return operation(tensor)
        return operation(tensor.cpu()).to(tensor.device)
