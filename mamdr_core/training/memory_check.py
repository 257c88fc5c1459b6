"""Checks before training that the memory of all ranks fits their machines, and reports it on rank 0."""

import logging
import socket
import tempfile
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mamdr_core.config.job_config import Config
from mamdr_core.config.training import TrainSettings
from mamdr_core.engine.columns import Columns
from mamdr_core.learning.methods import find_method
from mamdr_core.models.structures import build_model, declare_inputs
from mamdr_core.models.tables import Table, owners, readers
from mamdr_core.parallel.collective import Collective
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.host_memory import available_memory, ranks_here, total_memory
from mamdr_core.shards.arrays import is_in_memory
from mamdr_core.shards.pinned import PinnedExamples
from mamdr_core.training.choices import gather_trouble, ranks_per_device
from mamdr_core.training.rank_memory import RankMemory, RankShape, rank_memory

logger = logging.getLogger(__name__)

GB = 1e9
ON_DEVICE = ("theta_S", "inner", "outer", "best", "vectors", "round", "step")
"""Parts that are in the memory of the GPU if training runs on one."""
PART_ROWS = 1 << 22
"""Approximate number of rows whose distinct ids are counted at once."""


def shape_of(
    config: Config,
    pinned: PinnedExamples,
    learns: NDArray[np.bool_],
    inherited: NDArray[np.bool_],
    columns: Mapping[str, Columns],
    train: Columns,
    collective: Collective,
) -> RankShape:
    """The sizes that determine the memory of a rank, after it has read its rows.

    Args:
        learns: mask of the domains whose theta_i the rank trains if they have rows, bool [n].
        inherited: mask of the domains whose theta_i the rank takes from a parent, bool [n].
        columns: the rank's rows by split.
        train: the rank's training rows, including those of support domains.
    """
    inputs = declare_inputs(config.model, config.features, pinned.sizes)
    with torch.device("meta"):  # shapes alone
        dense = sum(parameter.numel() for parameter in build_model(config.model, inputs).parameters())
    method = find_method(config.train.method)
    dr = method.settle(config.train.learning).dr
    counts_n = train.counts.numpy()
    touched: dict[str, int] = {}
    if method.specific and dr.rows == "touched":
        tables = [table for table in owners(inputs.tables) if table.trainable and table.column != "domain"]
        touched = {
            table.name: count_distinct(train, table, learns, readers(inputs.tables, table.name)) for table in tables
        }
    others = sum(len(rows) for split, rows in columns.items() if split != "train")
    weights = [] if train.weights is None else [train.weights]
    by_row = [*train.ids.values(), *train.bag_weights.values(), *weights]
    return RankShape(
        ranks=collective.size,
        tables=inputs.tables,
        dense=dense,
        columns=sum(column[0].numel() if len(column) else 1 for column in by_row) + train.numeric.shape[1],
        train_rows=len(train),
        rows=others + len(train),
        all_train_rows=int(pinned.counts["train"].sum()),
        domains=int((learns & (counts_n > 0) | inherited).sum()) if method.specific else 0,
        sampled_rows=int(np.minimum(counts_n, dr.support_rows).sum()) if method.specific and dr.k else 0,
        touched=touched,
        starts=sum(
            (pinned.sizes[feature.of] + 1) * feature.size
            for feature in config.features
            if feature.kind == "vector" and feature.trainable
        ),
    )


def count_distinct(train: Columns, table: Table, own: NDArray[np.bool_], fields: Sequence[Table] | None = None) -> int:
    """Number of distinct ids of a table in the rows of each domain, summed over domains; some million rows at a time.

    Args:
        own: mask of the domains that count, bool [n].
        fields: the tables that read its rows; None: only the table itself.
    """
    offsets, total = train.offsets.numpy(), 0
    first = 0
    while first < len(own):
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + PART_ROWS, side="right")) - 1)
        last = min(last, len(own))
        rows = slice(int(offsets[first]), int(offsets[last]))
        domain_N = train.ids["domain"][rows].cpu().numpy().astype(np.int64)
        counts_N = own[domain_N - 1]
        keys = []
        for field in fields or (table,):
            ids = train.ids[field.column][rows].cpu().numpy().astype(np.int64)[counts_N]
            first_id = domain_N[counts_N] * table.rows
            keys.append((first_id[:, None] + ids)[ids > 0] if field.length else first_id + ids)
        total += len(np.unique(np.concatenate(keys)))
        first = last
    return total


def maps_state(train: TrainSettings, needs: RankMemory, device: torch.device) -> bool:
    """Whether a rank memory-maps the optimizers' state of tables and the best copy, because they exceed their limit.

    Each rank decides independently, since no collective depends on the decision.

    Args:
        needs: memory of the rank if nothing is mapped.
        device: where training runs; nothing is mapped when a GPU is used.
    """
    if device.type != "cpu" or not needs.shared:
        return False
    if train.table_memory:
        return needs.tables > train.table_memory * GB
    return needs.tables > available_memory() / 2 / ranks_here() and not is_in_memory(train.scratch)


def check_memory(
    config: Config, shape: RankShape, device: torch.device, collective: Collective, is_mapped: bool = False
) -> bool:
    """Raise an error on all ranks if the memory of one of them is too small; rank 0 logs its memory by part.

    All ranks must call this after they have read their rows, before they allocate anything else.

    Returns:
        Whether this rank maps the state of tables; see `maps_state`.

    Raises:
        MamdrError: theta_i with `dr.rows: touched`, or the tables even on their own, do not fit; the same error on all
            ranks.
    """
    train = config.train
    room = train.specific_memory * GB or available_memory() / 2 / ranks_here()
    needs = rank_memory(train, shape, room, is_mapped, on_gpu=device.type == "cuda")
    if maps := maps_state(train, needs, device):
        in_memory, needs = needs, rank_memory(train, shape, room, is_mapped, maps_state=True)
        if collective.rank == 0:
            logger.info(
                "%.3g GB of the optimizers' state of tables and of the best copy are memory-mapped in %s",
                (in_memory.tables - needs.tables) / GB, train.scratch or tempfile.gettempdir(),
            )  # fmt: skip
    on_device = ON_DEVICE if device.type == "cuda" else ()
    rows_of_specific = needs.parts.get("rows of theta_i", 0) + needs.parts.get("a group's rows", 0)
    tables = 0 if on_device else needs.tables
    here, (rest_here, tables_here) = _of_machine(collective, [needs.on_host(on_device), tables])
    available = available_memory()
    if collective.rank == 0:
        parts = ", ".join(f"{name} {size / GB:.2g}" for name, size in needs.parts.items() if size)
        logger.info(
            "rank 0 needs about %.3g GB beyond the interpreter's: %s; %.3g GB are available to the %d ranks of its "
            "machine", needs.total / GB, parts, available / GB, here,
        )  # fmt: skip
    _raise_together(collective, _tables_trouble(needs, device, tables_here, here))
    trouble = ""
    if shape.touched and rest_here > available:
        trouble = (
            f"embedding rows of theta_i, of {sum(shape.touched.values()):,} ids, take {rows_of_specific / GB:.3g} GB "
            f"with the best and a checkpoint, the {here} ranks of the machine need {rest_here / GB:.3g} GB in all "
            f"beyond their rows, and {available / GB:.3g} GB are available"
        )
    _raise_together(
        collective, trouble, "train.dr.rows touched",
        "set train.dr.rows to none, raise train.ranks on more machines, or give ranks more memory (docs/memory.md)",
    )  # fmt: skip
    return maps


def _tables_trouble(needs: RankMemory, device: torch.device, tables_here: int, here: int) -> str:
    """Why tables do not fit, even if nothing else is in memory; empty: they may fit."""
    each = f"theta_S with its moments and the best copy takes {needs.tables / GB:.3g} GB a rank"
    if device.type == "cuda":
        whole, sharing = torch.cuda.mem_get_info(device)[1], ranks_per_device(here)
        fits = needs.tables * sharing <= whole
        return "" if fits else f"{each}, {sharing} of them share a GPU of {whole / GB:.3g} GB"
    whole = total_memory()
    return "" if tables_here <= whole else f"{each}, and {here} ranks share a machine of {whole / GB:.3g} GB"


def _of_machine(collective: Collective, own: Sequence[int]) -> tuple[int, list[int]]:
    """Number of ranks on this machine, and sums over them; ranks of other runs are assumed to need as much."""
    host = zlib.crc32(socket.gethostname().encode())
    all_WK = collective.all_gather(torch.tensor([[host, *own]], dtype=torch.int64))
    here_RK = all_WK[all_WK[:, 0] == host, 1:]
    ranks = max(len(here_RK), ranks_here())
    return ranks, [round(total * ranks / len(here_RK)) for total in here_RK.sum(0).tolist()]


def _raise_together(
    collective: Collective,
    own: str,
    what: str = "train.tables",
    advice: str = "set train.tables to sharded, or run fewer ranks on a machine (docs/memory.md)",
) -> None:
    trouble = gather_trouble(collective, own)
    if trouble.text:
        raise MamdrError(f"{what} does not fit memory: {trouble.text}: {advice}")
