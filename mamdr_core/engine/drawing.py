"""theta_S before training. A rank that owns some rows of a table draws the values that the whole table would have."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mamdr_core.engine.parameters import Shared
from mamdr_core.engine.striping import WHOLE, Stripe
from mamdr_core.models.tables import Table, owners

CHUNK_ROWS = 1 << 16
_BLOCK = 16


def draw_rows(rows: int, width: int, generator: torch.Generator, stripe: Stripe = WHOLE) -> Tensor:
    """Some rows of `torch.randn(rows, width, generator=generator)`, which is never in memory as a whole.

    On the CPU torch draws normal numbers in blocks of 16, and redraws the last 16 of a tensor whose size is not a
    multiple of 16. So chunks of a multiple of 16 rows continue one stream if the last chunk has at least 16 rows.
    The whole stream is drawn, whichever rows are kept: this takes about a second per 10^8 numbers.

    Args:
        rows: number of rows of the whole table.
        width: length D of a row.
        generator: on the CPU; its state afterwards is that after drawing the whole table.
        stripe: the rows to keep.

    Returns:
        float32 [K, D].
    """
    kept_KD = torch.empty(stripe.count(rows), width)
    start = done = 0
    while start < rows:
        stop = start + CHUNK_ROWS
        stop = stop if rows - stop >= _BLOCK else rows
        chunk_CD = torch.randn(stop - start, width, generator=generator)[
            (stripe.rank - start) % stripe.ranks :: stripe.ranks
        ]
        kept_KD[done : done + len(chunk_CD)] = chunk_CD
        start, done = stop, done + len(chunk_CD)
    return kept_KD


def start_rows(table: Table, generator: torch.Generator, stripe: Stripe = WHOLE) -> Tensor:
    """Some rows of a table before training, drawn from N(0, std) [K, D]; with std 0 the generator is not used."""
    if not table.std:
        return torch.zeros(stripe.count(table.rows), table.width)
    return draw_rows(table.rows, table.width, generator, stripe).mul_(table.std)


def _start_from(rows_KD: Tensor, given_KD: Tensor) -> None:
    """Replace drawn rows in place by the given ones that are not zero, without another copy of the table."""
    for rows_CD, given_CD in zip(rows_KD.split(CHUNK_ROWS), given_KD.split(CHUNK_ROWS), strict=True):
        rows_CD.copy_(torch.where(given_CD.any(1, keepdim=True), given_CD.to(rows_CD), rows_CD))


def initial_shared(
    module: nn.Module,
    tables: Sequence[Table],
    seed: int,
    device: torch.device | str = "cpu",
    stripe: Stripe = WHOLE,
    vectors: Mapping[str, Tensor] | None = None,
) -> Shared:
    """theta_S before training: the module's initial values, and tables drawn from N(0, std).

    Args:
        module: built with the same seed.
        tables: its embedding tables; only trainable ones are drawn.
        seed: seed of the embeddings.
        device: device of theta_S.
        stripe: the rows to keep of each table; their values are those in the whole table.
        vectors: initial rows by table, float32 [rows, D]; rows of zeros (ids without a vector) are drawn instead.
    """
    generator = torch.Generator().manual_seed(seed)
    dense = torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])
    drawn = {}
    for table in owners(tables):
        if table.trainable:
            rows_KD = start_rows(table, generator, stripe)
            if vectors and table.name in vectors:
                _start_from(rows_KD, vectors[table.name][stripe.slice])
            drawn[table.name] = rows_KD.to(device)
    return Shared(dense.clone().to(device), drawn)
