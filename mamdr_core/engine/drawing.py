"""Initial embedding rows, drawn so that a rank that keeps a part of a table gets the rows of the whole table's draw."""

import torch
from torch import Tensor

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
