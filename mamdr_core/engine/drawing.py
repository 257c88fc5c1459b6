"""theta_S before training; a rank that keeps a part of a table draws the rows that the whole table would have."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mamdr_core.engine.parameters import Shared
from mamdr_core.models.tables import Table, owners

CHUNK_ROWS = 1 << 16
_BLOCK = 16


def draw_rows(rows: int, width: int, generator: torch.Generator, first: int = 0, step: int = 1) -> Tensor:
    """Rows first, first + step, ... of `torch.randn(rows, width, generator=generator)`, which is never held whole.

    On the CPU torch draws normal numbers in blocks of 16, and the last 16 of a tensor once more where its size is no
    multiple of 16. So chunks of a multiple of 16 rows continue one stream, if the last chunk has at least 16 rows.
    The whole stream is drawn whatever is kept: about a second for each 10^8 numbers.

    Args:
        rows: rows of the whole table.
        width: length D of a row.
        generator: on the CPU; is left where the whole draw leaves it.
        first: first row to keep.
        step: distance between rows to keep.

    Returns:
        float32 [ceil((rows - first) / step), D].
    """
    kept_KD = torch.empty(len(range(first, rows, step)), width)
    start = done = 0
    while start < rows:
        stop = start + CHUNK_ROWS
        stop = stop if rows - stop >= _BLOCK else rows
        chunk_CD = torch.randn(stop - start, width, generator=generator)[(first - start) % step :: step]
        kept_KD[done : done + len(chunk_CD)] = chunk_CD
        start, done = stop, done + len(chunk_CD)
    return kept_KD


def start_rows(table: Table, generator: torch.Generator, first: int = 0, step: int = 1) -> Tensor:
    """A table's rows first, first + step, ... before training, N(0, std); with std 0 nothing of the stream is used."""
    if not table.std:
        return torch.zeros(len(range(first, table.rows, step)), table.width)
    return draw_rows(table.rows, table.width, generator, first, step).mul_(table.std)


def _start_from(rows_KD: Tensor, given_KD: Tensor) -> None:
    """Replace drawn rows by the given ones in place, those that are not zeros, without another copy of the table."""
    for rows_CD, given_CD in zip(rows_KD.split(CHUNK_ROWS), given_KD.split(CHUNK_ROWS), strict=True):
        rows_CD.copy_(torch.where(given_CD.any(1, keepdim=True), given_CD.to(rows_CD), rows_CD))


def initial_shared(
    module: nn.Module,
    tables: Sequence[Table],
    seed: int,
    device: torch.device | str = "cpu",
    part: tuple[int, int] = (0, 1),
    vectors: Mapping[str, Tensor] | None = None,
) -> Shared:
    """theta_S before training: the module's own initial values, and tables drawn from N(0, std).

    Args:
        module: as built under the same seed.
        tables: its embedding tables; only trainable ones are drawn.
        seed: decides the embeddings.
        device: where theta_S is wanted.
        part: (r, W): only rows r, r + W, ... of each table, with the values that they have in the whole.
        vectors: by table, where its rows start instead, float32 [rows, D]; rows of zeros, of ids without a vector, are
            drawn like any other embedding.
    """
    first, step = part
    generator = torch.Generator().manual_seed(seed)
    dense = torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])
    drawn = {}
    for table in owners(tables):
        if table.trainable:
            rows_KD = start_rows(table, generator, first, step)
            if vectors and table.name in vectors:
                _start_from(rows_KD, vectors[table.name][first::step])
            drawn[table.name] = rows_KD.to(device)
    return Shared(dense.clone().to(device), drawn)
