"""How much memory a stack of trajectories takes, and how much there is."""

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
"""Of a stack on a CPU: about what its last cache holds; measured, stacks that do not fit it are slower."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def stack_memory(device: torch.device) -> float:
    """Bytes that a stack may take by default: `CPU_BYTES`, or half of a GPU's free memory."""
    if device.type == "cpu":
        return CPU_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    return free / 2


def stack_limits(
    flat: FlatModule, tables: Sequence[Table], device: torch.device, group_memory: float = 0.0
) -> StackLimits:
    """What a stack of trajectories may take on a device, before it is known how much a row takes.

    Args:
        flat: the model.
        tables: what feeds it.
        device: where stacks run.
        group_memory: GB of the stacks that run at a time, one on each thread of a CPU; 0: see `stack_memory`.
    """
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    parameters = flat.values_P.numel() + sum(table.width for table in tables if table.per_domain)
    return StackLimits(
        budget=(group_memory * 1e9 or stack_memory(device)) / threads,
        # Start, values, moments, gradient, and two in between.
        trajectory_bytes=7 * parameters * flat.values_P.element_size(),
        row_bytes=0,
        padding=PADDING[device.type],
        size=1 << 20,
    )


def keep_freed_memory() -> None:
    """Have glibc keep what steps free for the next step, where there is glibc.

    It gives large blocks back to the kernel at once and takes new ones, page by page, a few hundred microseconds for
    each trajectory: up to two fifths of the time of steps of few rows (benchmarks/README.md).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # its largest
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def bytes_per_row(flat: FlatModule, tables: Sequence[Table], numeric: int) -> int:
    """Bytes that a row of a batch takes while gradients are computed: its fields, and twice what autograd keeps.

    Args:
        flat: the model.
        tables: what feeds it.
        numeric: numeric features.
    """
    few, many = 16, 32  # what they differ by is of rows: parameters, which are kept too, are the same
    return (_kept_bytes(flat, tables, numeric, many) - _kept_bytes(flat, tables, numeric, few)) // (many - few)


def _kept_bytes(flat: FlatModule, tables: Sequence[Table], numeric: int, rows: int) -> int:
    """Bytes of the fields of a number of rows, and twice what autograd keeps, parameters included."""
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
    """A stack of `size` trajectories does not fit memory; the cause is torch's or Python's error."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


@contextmanager
def no_memory_for(size: int) -> Iterator[None]:
    """Turn what torch, on any device, or Python raises where there is no memory into `NoMemoryError`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        on_cpu = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
        if on_cpu or isinstance(error, torch.OutOfMemoryError | MemoryError):
            raise NoMemoryError(size) from error
        raise
