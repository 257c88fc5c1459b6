"""Collective over torch.distributed."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


class TorchCollective:
    """Collective over the ranks of an initialised process group.

    Floating-point sums depend on the order of summation, which the backend chooses (Gloo for CPU, NCCL for CUDA).
    """

    def __init__(self) -> None:
        self.rank: int = dist.get_rank()
        self.size: int = dist.get_world_size()

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum over ranks."""
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Rows of all ranks, in rank order; sent with padding to the largest number of rows."""
        own = tensor.contiguous()
        counts = [torch.zeros(1, dtype=torch.int64, device=own.device) for _ in range(self.size)]
        dist.all_gather(counts, torch.tensor([len(own)], device=own.device))
        sizes = [int(count) for count in counts]
        padded = own.new_zeros(max(sizes), *own.shape[1:])
        if not padded.numel():
            return own.new_zeros(sum(sizes), *own.shape[1:])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def all_to_all(self, tensor: Tensor, splits: Sequence[int]) -> tuple[Tensor, list[int]]:
        """Rows sent to this rank, and their number per sender."""
        sent = torch.tensor(list(splits), dtype=torch.int64, device=tensor.device)
        counts = torch.empty_like(sent)
        dist.all_to_all_single(counts, sent)
        received_counts = counts.tolist()
        received = tensor.new_empty(sum(received_counts), *tensor.shape[1:])
        dist.all_to_all_single(received, tensor.contiguous(), received_counts, list(splits))
        return received, received_counts

    def broadcast(self, tensor: Tensor) -> Tensor:
        """The tensor of rank 0."""
        received = tensor.clone()
        dist.broadcast(received, src=0)
        return received
