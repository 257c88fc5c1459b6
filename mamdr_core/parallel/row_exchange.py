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
    named = [name for name, column in _single(columns).items() if column is not None]
    single = {name: column.contiguous() for name, column in zip(named, values[:, width:].unbind(1), strict=True)}
    return Columns(
        {name: ids[:, place].contiguous() for place, name in enumerate(names)},
        values[:, :width].contiguous(),
        single["labels"],
        offsets_of(torch.bincount(domains, minlength=len(columns.offsets) - 1).cpu()),
        base_logits=single.get("base_logits"),
        weights=single.get("weights"),
    )


def _values(columns: Columns, rows: Tensor) -> Tensor:
    """Numeric features, the label and, where there are any, base logits and weights of some rows, [M, K + 1 to 3]."""
    single = [column[rows, None] for column in _single(columns).values() if column is not None]
    return torch.cat([columns.numeric[rows], *single], dim=1)


def _single(columns: Columns) -> dict[str, Tensor | None]:
    return {"labels": columns.labels, "base_logits": columns.base_logits, "weights": columns.weights}
