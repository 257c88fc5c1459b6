"""Collective over Horovod."""

from collections.abc import Callable, Sequence

import horovod.torch as hvd
import torch
from torch import Tensor


class HorovodCollective:
    """Collective over the ranks of a launched Horovod job; calls hvd.init.

    Every operation has a fixed name: operations have the same order on all ranks, and a new name for each call would
    let the tables of Horovod grow with every round.
    """

    def __init__(self) -> None:
        hvd.init()
        self.rank: int = hvd.rank()
        self.size: int = hvd.size()
        # Builds may differ between machines, but all ranks must send CUDA tensors in the same way.
        with_nccl = hvd.allreduce(torch.tensor([int(hvd.nccl_built() > 0)]), name="with_nccl", op=hvd.Sum)
        self._sends_cuda = int(with_nccl) == self.size

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum over ranks."""
        return self._through(lambda own: hvd.allreduce(own, name="allreduce", op=hvd.Sum), tensor)

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Rows of all ranks, in rank order."""
        return self._through(lambda own: hvd.allgather(own, name="allgather"), tensor.contiguous())

    def all_to_all(self, tensor: Tensor, splits: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Rows sent to this rank, and their number per sender."""
        sent = torch.tensor(splits, dtype=torch.int32)
        counts: list[int] = []

        def exchange(own: Tensor) -> Tensor:
            received: Tensor
            received, received_counts = hvd.alltoall(own, sent, name="alltoall")
            counts.extend(received_counts.tolist())
            return received

        return self._through(exchange, tensor.contiguous()), counts

    def broadcast(self, tensor: Tensor) -> Tensor:
        """The tensor of rank 0."""
        return self._through(lambda own: hvd.broadcast(own, name="broadcast", root_rank=0), tensor)

    def _through(self, operation: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
        """Send CUDA tensors directly if Horovod has NCCL on all ranks; otherwise through host memory."""
        if tensor.device.type == "cpu" or self._sends_cuda:
            return operation(tensor)
        return operation(tensor.cpu()).to(tensor.device)
