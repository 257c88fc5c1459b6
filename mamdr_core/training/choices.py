"""What the ranks of a run choose together, before anything depends on it: device, engine and where rows are stored.

Ranks that chose alone could enter a collective with tensors on different devices, which never ends. Instead every rank
reports what prevents a choice on its machine. Reports are exchanged as tensors on the CPU, which all launchers support
whatever devices there are, so that all ranks draw the same conclusion or raise the same error.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from mamdr_core.engine.columns import Columns
from mamdr_core.engine.compiler import compiler_trouble
from mamdr_core.engine.device import cuda_device, cuda_trouble
from mamdr_core.errors import MamdrError
from mamdr_core.host_memory import ranks_here
from mamdr_core.learning.methods import find_method
from mamdr_core.parallel.collective import Collective, gather_texts
from mamdr_core.training.settings import TrainSettings

logger = logging.getLogger(__name__)

EngineName = Literal["eager", "fast"]
FAST_ROWS = 3_000_000
"""Row-descents of a rank from which `auto` takes the fast engine. Compiling takes 10 to 40 s; on the paper's network
the eager engine takes half a minute for this number of rows in full batches, longer in small ones."""
FAST_STEPS = 25_000
"""Likewise steps, of few rows: the eager engine takes about half a millisecond more for each
(benchmarks/bench_conflict.py)."""
_MOST_REASONS, _MOST_RANKS = 3, 8
"""Named in a message at most."""


@dataclass(frozen=True)
class Choices:
    """What all ranks use.

    Attributes:
        device: the CPU on all ranks, or on every rank its own CUDA device.
        engine: of the inner loops.
    """

    device: torch.device
    engine: EngineName


@dataclass(frozen=True)
class Trouble:
    """What prevents a choice on some ranks: the same on all ranks.

    Attributes:
        text: the reasons, with the ranks unless it is the same reason on all; empty: nothing on any rank.
        is_partial: whether only some ranks have trouble.
    """

    text: str
    is_partial: bool


def choose_together(train: TrainSettings, rows: int, collective: Collective, trouble: str = "") -> Choices:
    """The device and the engine of a run; every rank calls it with the same arguments.

    Args:
        train: the settings.
        rows: rows that the largest rank may descend on at most, every visit counted.
        collective: the ranks.
        trouble: why the fast engine cannot run the model; empty: it can.

    Raises:
        MamdrError: some ranks do not have what is asked for, or the precision needs another device or engine; the same
            error on all ranks.
    """
    device = choose_device(train.device, collective)
    # The fast engine is for trajectories.
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
    """The device of this rank, of the same type on all ranks.

    Args:
        name: "cpu"; "cuda"; or "auto": CUDA where all ranks can use it, else the CPU.
        collective: the ranks.

    Raises:
        MamdrError: "cuda" is asked for and some ranks cannot use it.
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
    """Eager or fast, the same on all ranks.

    Args:
        name: "eager", "fast", or "auto": fast where steps can be compiled on all ranks and compiling pays off.
        device: where steps run.
        rows: rows that the largest rank may descend on at most, every visit counted.
        collective: the ranks.
        steps: of a rank, where they are known.
        trouble: why it cannot run the model; empty: it can.

    Raises:
        MamdrError: fast is asked for and some ranks cannot compile steps, or not those of the model.
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
    """Columns on the device if on every rank all fit into its share of half of the free memory; else on the host.

    From the host steps fetch their rows.

    Args:
        columns: of this rank, by split.
        device: where they are used, see `choose_device`.
        collective: the ranks.
    """
    if device.type == "cuda":
        needed, free = sum(own.nbytes for own in columns.values()), torch.cuda.mem_get_info(device)[0]
        fits = needed <= free / 2 / ranks_per_device(ranks_here())  # no rank has copied yet
        trouble = gather_trouble(
            collective, "" if fits else f"rows take {needed / 1e9:.3g} GB, and {free / 1e9:.3g} GB are free"
        )
        if trouble.text:
            _log(collective, trouble, "rows stay in the host's memory, and rounds fetch theirs")
            return dict(columns)
    return {split: own.to(device) for split, own in columns.items()}


def ranks_per_device(ranks: int) -> int:
    """The most ranks that share a GPU, of a number of them on this machine."""
    return -(-ranks // max(1, torch.cuda.device_count()))


def gather_trouble(collective: Collective, own: str) -> Trouble:
    """All ranks' trouble; every rank calls it.

    Args:
        collective: the ranks.
        own: this rank's trouble; empty: none.
    """
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
    """Ranks as a message names them."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    more = f" and {len(ranks) - _MOST_RANKS} more" if len(ranks) > _MOST_RANKS else ""
    return f"ranks {', '.join(map(str, ranks[:_MOST_RANKS]))}{more}"


def _log(collective: Collective, trouble: Trouble, outcome: str) -> None:
    """Have rank 0 log what follows from trouble: a warning where it is that of some ranks only."""
    if collective.rank == 0:
        logger.log(logging.WARNING if trouble.is_partial else logging.INFO, "%s: %s", outcome, trouble.text)
