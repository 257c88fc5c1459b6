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
    names, bags = sorted(columns.ids), sorted(columns.bag_weights)
    sent = [_as_matrix(columns.ids[name][rows]) for name in names]
    ids, _ = collective.all_to_all(torch.cat(sent, dim=1), splits)
    values, _ = collective.all_to_all(_values(columns, rows), splits)
    own = dict(zip(names, ids.split([part.shape[1] for part in sent], dim=1), strict=True))
    domains, by_domain = (own["domain"].squeeze(1).long() - 1).sort(stable=True)
    values = values[by_domain]
    width = columns.numeric.shape[1]
    kept = 1 if columns.base_logits is None else 2
    lengths = [columns.bag_weights[name].shape[1] for name in bags]
    numeric, single, *weights = values.split([width, kept, *lengths], dim=1)
    labels, *base_logits = (column.contiguous() for column in single.unbind(1))
    base = base_logits[0] if base_logits else None
    return Columns(
        {name: own[name][by_domain].view(-1, *columns.ids[name].shape[1:]) for name in names},
        numeric.contiguous(),
        labels,
        offsets_of(torch.bincount(domains, minlength=len(columns.offsets) - 1).cpu()),
        None,
        base,
        bag_weights={
            name: part.to(columns.bag_weights[name].dtype).contiguous()
            for name, part in zip(bags, weights, strict=True)
        },
    )


def _as_matrix(column: Tensor) -> Tensor:
    return column[:, None] if column.dim() == 1 else column


def _values(columns: Columns, rows: Tensor) -> Tensor:
    """Numeric features, the label, and where there are any the base logit and the bags' weights of some rows."""
    single = [columns.labels] if columns.base_logits is None else [columns.labels, columns.base_logits]
    weights = [columns.bag_weights[name][rows].to(columns.labels) for name in sorted(columns.bag_weights)]
    return torch.cat([columns.numeric[rows], *(column[rows, None] for column in single), *weights], dim=1)
