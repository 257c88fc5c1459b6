"""The memory that a stack of trajectories needs, and the memory that is available."""

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from mamdr_core.engine.flat import FlatModule
from mamdr_core.engine.stacking import PADDING, StackLimits
from mamdr_core.models.pooling import is_linear
from mamdr_core.models.statistics import ROW_WEIGHT, statistics_layers
from mamdr_core.models.tables import Table

CPU_BYTES = 4.8e7
"""Bytes of a stack on a CPU: about the size of its last-level cache; larger stacks are slower, as measured."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def stack_memory(device: torch.device) -> float:
    """Default number of bytes for a stack: `CPU_BYTES`, or half of the free memory of a GPU."""
    if device.type == "cpu":
        return CPU_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    return free / 2


def stack_limits(
    flat: FlatModule, tables: Sequence[Table], device: torch.device, group_memory: float = 0.0
) -> StackLimits:
    """Limits of a stack of trajectories on a device; the memory of a row is still 0, see `bytes_per_row`.

    Args:
        flat: the model.
        tables: its tables.
        device: device of the stacks.
        group_memory: GB for the stacks that run at the same time, one per CPU thread; 0: see `stack_memory`.
    """
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    parameters = flat.values_P.numel() + sum(table.width for table in tables if table.per_domain)
    return StackLimits(
        budget=(group_memory * 1e9 or stack_memory(device)) / threads,
        # Start, values, two moments, gradient, and two intermediate results.
        trajectory_bytes=7 * parameters * flat.values_P.element_size(),
        row_bytes=0,
        padding=PADDING[device.type],
        size=1 << 20,
    )


def keep_freed_memory() -> None:
    """Make glibc, if it is used, keep the memory that a step frees for the next step.

    By default it returns large blocks to the kernel and requests new ones page by page, which takes a few hundred
    microseconds per trajectory: up to two fifths of the time of steps of few rows (benchmarks/README.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the maximum
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def bytes_per_row(flat: FlatModule, tables: Sequence[Table], numeric: int) -> int:
    """Bytes per row of a batch while gradients are computed: its fields, and twice what autograd saves.

    Args:
        flat: the model.
        tables: its tables.
        numeric: number of numeric features.
    """
    few, many = 16, 32  # the difference excludes parameters, which autograd saves as well
    return (_kept_bytes(flat, tables, numeric, many) - _kept_bytes(flat, tables, numeric, few)) // (many - few)


def _kept_bytes(flat: FlatModule, tables: Sequence[Table], numeric: int, rows: int) -> int:
    """Bytes of the fields of a number of rows, and twice what autograd saves, including parameters."""
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    like = flat.values_P
    fields = {}
    for table in tables:
        if table.length and not is_linear(table):
            fields[table.name] = like.new_zeros(rows, table.length, table.width).requires_grad_()
            fields[table.weight] = like.new_zeros(rows, table.length)
        else:
            fields[table.name] = like.new_zeros(1 if table.per_domain else rows, table.width).requires_grad_()
    if numeric:
        fields["numeric"] = like.new_zeros(rows, numeric)
    if statistics_layers(flat.module):
        fields[ROW_WEIGHT] = like.new_ones(rows)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        flat.module.train(True)
        flat.module(fields)
    return 2 * kept + sum(field.nbytes for field in fields.values())


class NoMemoryError(Exception):
    """Memory does not suffice for a stack of `size` trajectories; the cause is the error of torch or Python."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


@contextmanager
def no_memory_for(size: int) -> Iterator[None]:
    """Replace the errors that torch, on any device, and Python raise without memory by `NoMemoryError`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        on_cpu = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
        if on_cpu or isinstance(error, torch.OutOfMemoryError | MemoryError):
            raise NoMemoryError(size) from error
        raise
