"""Exchange of rows of columns between ranks."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mamdr_core.engine.columns import Columns, offsets_of
from mamdr_core.parallel.collective import Collective


def exchange_rows(collective: Collective, columns: Columns, rows: Tensor, splits: Sequence[int]) -> Columns:
    """Send rows to other ranks by two all-to-alls; all ranks must call this the same number of times.

    Args:
        collective: the ranks.
        columns: rows of this rank.
        rows: positions of the rows to send, int64 [M], in any order, possibly repeated or empty.
        splits: number of rows for rank 0, rank 1, ...

    Returns:
        The received rows without true probabilities, sorted by domain, then by sender, then in the order sent.
    """
    names, bags = sorted(columns.ids), sorted(columns.bag_weights)
    sent = [_as_matrix(columns.ids[name][rows]) for name in names]
    ids, _ = collective.all_to_all(torch.cat(sent, dim=1), splits)
    values, _ = collective.all_to_all(_values(columns, rows), splits)
    own = dict(zip(names, ids.split([part.shape[1] for part in sent], dim=1), strict=True))
    domains, by_domain = (own["domain"].squeeze(1).long() - 1).sort(stable=True)
    values = values[by_domain]
    width = columns.numeric.shape[1]
    kept = [name for name, column in _single(columns).items() if column is not None]
    lengths = [columns.bag_weights[name].shape[1] for name in bags]
    numeric, one_each, *weights = values.split([width, len(kept), *lengths], dim=1)
    single = {name: column.contiguous() for name, column in zip(kept, one_each.unbind(1), strict=True)}
    return Columns(
        {name: own[name][by_domain].view(-1, *columns.ids[name].shape[1:]) for name in names},
        numeric.contiguous(),
        single["labels"],
        offsets_of(torch.bincount(domains, minlength=len(columns.offsets) - 1).cpu()),
        base_logits=single.get("base_logits"),
        weights=single.get("weights"),
        bag_weights={
            name: part.to(columns.bag_weights[name].dtype).contiguous()
            for name, part in zip(bags, weights, strict=True)
        },
    )


def _as_matrix(column: Tensor) -> Tensor:
    return column[:, None] if column.dim() == 1 else column


def _values(columns: Columns, rows: Tensor) -> Tensor:
    """Numeric features, labels and, if present, base logits, weights and weights of bags of rows."""
    single = [column[rows, None] for column in _single(columns).values() if column is not None]
    of_bags = [columns.bag_weights[name][rows].to(columns.labels) for name in sorted(columns.bag_weights)]
    return torch.cat([columns.numeric[rows], *single, *of_bags], dim=1)


def _single(columns: Columns) -> dict[str, Tensor | None]:
    return {"labels": columns.labels, "base_logits": columns.base_logits, "weights": columns.weights}
