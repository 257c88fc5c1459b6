"""DR's support rows: a bounded sample of every domain, exchanged so that any rank can draw any domain."""

import numpy as np
import torch
from torch import Tensor

from mamdr_core.engine.columns import Columns, offsets_of
from mamdr_core.engine.plan import shuffled_parts
from mamdr_core.parallel.collective import Collective


def exchange_supports(collective: Collective, train: Columns, rows_per_domain: int, seed: int) -> Columns:
    """Sample at most `rows_per_domain` rows of each own domain and share them with all ranks.

    Every domain has one owner, so the samples of all ranks are disjoint and the result, sorted by domain, does not
    depend on the placement. The sample is uniform without replacement and stands in random order.

    Args:
        collective: the ranks.
        train: this rank's rows.
        rows_per_domain: bound of a domain's sample.
        seed: of the run and epoch.
    """
    offsets = train.offsets.numpy()
    chosen = [np.zeros(0, dtype=np.int64)]
    for first, order in shuffled_parts(offsets, seed):
        rows = np.arange(first, first + len(order))
        within = rows - offsets[np.searchsorted(offsets, rows, side="right") - 1]
        chosen.append(order[within < rows_per_domain])
    sample = train.take(torch.from_numpy(np.concatenate(chosen)).to(train.labels.device))
    if collective.size == 1:
        return sample
    names = sorted(sample.ids)
    ids = collective.all_gather(torch.stack([sample.ids[name] for name in names], dim=1))
    values = collective.all_gather(torch.cat([sample.numeric, _single(sample)], dim=1))
    by_domain: Tensor = ids[:, names.index("domain")].sort(stable=True).indices
    ids, values = ids[by_domain], values[by_domain]
    columns = {name: ids[:, place].contiguous() for place, name in enumerate(names)}
    counts = torch.bincount(columns["domain"].long() - 1, minlength=len(train.offsets) - 1).cpu()
    numeric, single = values[:, : sample.numeric.shape[1]].contiguous(), values[:, sample.numeric.shape[1] :]
    labels, *base_logits = (column.contiguous() for column in single.unbind(1))
    return Columns(columns, numeric, labels, offsets_of(counts), None, *base_logits)


def _single(columns: Columns) -> Tensor:
    """The columns of one number a row, [N, 1] or, with base logits, [N, 2]."""
    single = [columns.labels] if columns.base_logits is None else [columns.labels, columns.base_logits]
    return torch.stack(single, dim=1)
