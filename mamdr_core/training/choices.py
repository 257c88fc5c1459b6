"""Choices that all ranks of a run agree on before training: device, engine, and the memory in which rows are stored.

If every rank chose on its own, ranks could enter a collective with tensors on different devices and hang. Instead each
rank reports what prevents a choice on its machine. The reports are exchanged as CPU tensors, which all launchers
support on any machine, so that all ranks reach the same decision or raise the same error.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from mamdr_core.config.training import TrainSettings
from mamdr_core.engine.columns import Columns
from mamdr_core.engine.compiler import compiler_trouble
from mamdr_core.engine.device import cuda_device, cuda_trouble
from mamdr_core.learning.methods import find_method
from mamdr_core.parallel.collective import Collective, gather_texts
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.host_memory import ranks_here

logger = logging.getLogger(__name__)

EngineName = Literal["eager", "fast"]
FAST_ROWS = 3_000_000
"""Number of row-descents of a rank from which `auto` selects the fast engine. Compiling takes 10 to 40 s; with the
paper's network the eager engine takes half a minute for this number of rows in full batches, longer in small ones."""
FAST_STEPS = 25_000
"""Number of steps of few rows from which `auto` selects the fast engine: the eager engine takes about half a
millisecond more for each step (benchmarks/bench_conflict.py)."""
_MOST_REASONS, _MOST_RANKS = 3, 8
"""Maximum number of reasons, and of ranks per reason, in a message."""


@dataclass(frozen=True)
class Choices:
    """The choices of a run: the device, the CPU on all ranks or the CUDA device of this rank, and the engine."""

    device: torch.device
    engine: EngineName


@dataclass(frozen=True)
class Trouble:
    """What prevents a choice on some ranks; equal on all ranks.

    Attributes:
        text: the reasons, with their ranks unless all ranks have the same one; empty: nothing prevents it.
        is_partial: whether this concerns only some of the ranks.
    """

    text: str
    is_partial: bool


def choose_together(train: TrainSettings, rows: int, collective: Collective, trouble: str = "") -> Choices:
    """Choose the device and the engine of a run; all ranks must call this with the same arguments.

    Args:
        rows: maximum number of row-descents of the rank with the most rows.
        trouble: why the fast engine cannot run the model; empty: it can.

    Raises:
        MamdrError: some ranks lack the requested device or engine, or the precision needs another one; the same error
            on all ranks.
    """
    device = choose_device(train.device, collective)
    # The fast engine runs trajectories, not single gradients.
    name = "eager" if find_method(train.method).combines_gradients else train.engine
    engine = choose_engine(name, device, rows, collective, trouble=trouble)
    if train.precision != "fp32" and engine == "eager":
        raise MamdrError(
            f"train.precision {train.precision} needs the fast engine, and the eager one runs: set train.engine to fast"
        )
    if train.precision == "tf32" and device.type != "cuda":
        raise MamdrError(f"train.precision tf32 needs CUDA, and training runs on the {device}: use fp32")
    return Choices(device, engine)


def choose_device(name: str, collective: Collective) -> torch.device:
    """Choose the device of this rank; its type is the same on all ranks.

    Args:
        name: "cpu", "cuda", or "auto": CUDA if all ranks can use it, otherwise the CPU.

    Raises:
        MamdrError: `name` is "cuda", and some ranks cannot use it.
    """
    if name == "cpu":
        return torch.device(name)
    trouble = gather_trouble(collective, cuda_trouble())
    if not trouble.text:
        return cuda_device()
    if name == "cuda":
        raise MamdrError(f"train.device is cuda, but {trouble.text}: use auto or cpu")
    _log(collective, trouble, "the CPU is used")
    return torch.device("cpu")


def choose_engine(
    name: str, device: torch.device, rows: int, collective: Collective, steps: int = 0, trouble: str = ""
) -> EngineName:
    """Choose the eager or the fast engine, the same on all ranks.

    Args:
        name: "eager", "fast", or "auto": fast if all ranks can compile steps and compiling pays off.
        rows: maximum number of row-descents of the rank with the most rows.
        steps: number of steps of a rank, if known.
        trouble: why the fast engine cannot run the model; empty: it can.

    Raises:
        MamdrError: `name` is "fast", and some ranks cannot compile steps, or the engine cannot run the model.
    """
    if name == "eager":
        return "eager"
    found = gather_trouble(collective, trouble or compiler_trouble(device))
    if name == "fast" and found.text:
        raise MamdrError(f"train.engine is fast, but {found.text}: use auto or eager")
    if name == "auto" and not found.text and rows < FAST_ROWS and steps < FAST_STEPS:
        found = Trouble(f"{rows:,} row-descents at most do not repay compiling ({FAST_ROWS:,} do)", False)
    if not found.text:
        return "fast"
    _log(collective, found, "the eager engine runs")
    return "eager"


def place_columns(columns: Mapping[str, Columns], device: torch.device, collective: Collective) -> dict[str, Columns]:
    """Move columns to the device if half of its free memory suffices on every rank; otherwise keep them on the host.

    Ranks that share a device share this memory. From the host, every step copies its rows to the device.
    """
    if device.type == "cuda":
        needed, free = sum(own.nbytes for own in columns.values()), torch.cuda.mem_get_info(device)[0]
        fits = needed <= free / 2 / ranks_per_device(ranks_here())  # no rank has copied yet
        trouble = gather_trouble(
            collective, "" if fits else f"rows take {needed / 1e9:.3g} GB, and {free / 1e9:.3g} GB are free"
        )
        if trouble.text:
            _log(collective, trouble, "rows stay in host memory and are copied to the device in each round")
            return dict(columns)
    return {split: own.to(device) for split, own in columns.items()}


def ranks_per_device(ranks: int) -> int:
    """Largest number of ranks that share a GPU, given the number of ranks on this machine."""
    return -(-ranks // max(1, torch.cuda.device_count()))


def gather_trouble(collective: Collective, own: str) -> Trouble:
    """Gather what prevents a choice on each rank, `own` on this one (empty: nothing); all ranks must call this."""
    texts = gather_texts(collective, own)
    ranks_by_reason: dict[str, list[int]] = {}
    for rank, reason in enumerate(texts):
        if reason:
            ranks_by_reason.setdefault(reason, []).append(rank)
    if len(ranks_by_reason) == 1 and all(texts):
        return Trouble(texts[0], False)
    reasons = [f"{reason} ({_named(ranks)})" for reason, ranks in ranks_by_reason.items()]
    if len(reasons) > _MOST_REASONS:
        others = sum(map(len, list(ranks_by_reason.values())[_MOST_REASONS:]))
        reasons = [*reasons[:_MOST_REASONS], f"and similarly on {others} other ranks"]
    return Trouble("; ".join(reasons), not all(texts))


def _named(ranks: Sequence[int]) -> str:
    """Text for a list of ranks in a message."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    more = f" and {len(ranks) - _MOST_RANKS} more" if len(ranks) > _MOST_RANKS else ""
    return f"ranks {', '.join(map(str, ranks[:_MOST_RANKS]))}{more}"


def _log(collective: Collective, trouble: Trouble, outcome: str) -> None:
    """Log the outcome on rank 0, as a warning if it concerns only some of the ranks."""
    if collective.rank == 0:
        logger.log(logging.WARNING if trouble.is_partial else logging.INFO, "%s: %s", outcome, trouble.text)
