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
    values = collective.all_gather(torch.cat([sample.numeric, sample.labels[:, None]], dim=1))
    by_domain: Tensor = ids[:, names.index("domain")].sort(stable=True).indices
    ids, values = ids[by_domain], values[by_domain]
    columns = {name: ids[:, place].contiguous() for place, name in enumerate(names)}
    counts = torch.bincount(columns["domain"].long() - 1, minlength=len(train.offsets) - 1).cpu()
    return Columns(columns, values[:, :-1].contiguous(), values[:, -1].contiguous(), offsets_of(counts))
