"""Rows of columns sent from rank to rank."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mamdr_core.engine.columns import Columns, offsets_of
from mamdr_core.parallel.collective import Collective


def exchange_rows(collective: Collective, columns: Columns, rows: Tensor, splits: Sequence[int]) -> Columns:
    """Send rows to other ranks, by two all-to-alls; every rank calls this equally often.

    Args:
        collective: the ranks.
        columns: this rank's rows.
        rows: positions of what is sent, int64 [M], in any order, repeated or none at all.
        splits: how many go to rank 0, to rank 1, ...

    Returns:
        The received rows, without true probabilities: sorted by domain, those of a domain by sender and as sent.
    """
    names = sorted(columns.ids)
    ids, _ = collective.all_to_all(torch.stack([columns.ids[name][rows] for name in names], dim=1), splits)
    values, _ = collective.all_to_all(_values(columns, rows), splits)
    domains, by_domain = (ids[:, names.index("domain")].long() - 1).sort(stable=True)
    ids, values = ids[by_domain], values[by_domain]
    width = columns.numeric.shape[1]
    labels, *base_logits = (column.contiguous() for column in values[:, width:].unbind(1))
    return Columns(
        {name: ids[:, place].contiguous() for place, name in enumerate(names)},
        values[:, :width].contiguous(),
        labels,
        offsets_of(torch.bincount(domains, minlength=len(columns.offsets) - 1).cpu()),
        None,
        *base_logits,
    )


def _values(columns: Columns, rows: Tensor) -> Tensor:
    """Numeric features, the label and, where there are any, the base logit of some rows, [M, K + 1] or [M, K + 2]."""
    single = [columns.labels] if columns.base_logits is None else [columns.labels, columns.base_logits]
    return torch.cat([columns.numeric[rows], *(column[rows, None] for column in single)], dim=1)
