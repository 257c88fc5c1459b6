"""DR's support rows: a bounded sample of every domain, which stays with its owner until rows of it are drawn."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mamdr_core.engine.columns import Columns, offsets_of
from mamdr_core.engine.plan import shuffled_parts
from mamdr_core.engine.steps import ranges
from mamdr_core.learning.learner import Draw
from mamdr_core.parallel.collective import Collective


class SupportSample:
    """An epoch's sample of every domain's training rows, of which other ranks fetch what their targets have drawn.

    A domain's sample is uniform without replacement and in random order; it depends on the seed and the domain's own
    rows alone, not on the rank that owns them. A rank holds the places of its own domains' samples, 8 bytes a row.
    Every rank makes it at the same time.

    Args:
        collective: the ranks.
        train: this rank's rows; every domain has one owner.
        rows_per_domain: bound of a domain's sample.
        seed: of the run and epoch.

    Attributes:
        counts_n: rows of each domain's sample, [n], the same on all ranks.
        occupied: domains with rows, ascending, the same on all ranks.
    """

    def __init__(self, collective: Collective, train: Columns, rows_per_domain: int, seed: int) -> None:
        self._collective = collective
        self._train = train
        offsets = train.offsets.numpy()
        chosen = [np.zeros(0, dtype=np.int64)]
        for first, order in shuffled_parts(offsets, seed):
            rows = np.arange(first, first + len(order))
            within = rows - offsets[np.searchsorted(offsets, rows, side="right") - 1]
            chosen.append(order[within < rows_per_domain])
        self._places = torch.from_numpy(np.concatenate(chosen)).to(train.labels.device)
        own_n = np.minimum(np.diff(offsets), rows_per_domain)
        self._starts_n = own_n.cumsum() - own_n
        known = np.stack([own_n, np.where(own_n > 0, collective.rank, 0)])
        self.counts_n, self._owner_n = collective.all_reduce(torch.from_numpy(known)).numpy()
        self.occupied = np.flatnonzero(self.counts_n)

    def fetch(self, draws: Sequence[Draw]) -> tuple[Columns, list[Tensor]]:
        """Get rows of samples from their owners; every rank calls this equally often.

        One process reads its own rows where they are. Several ranks exchange each distinct draw once, by all-to-all.

        Args:
            draws: domain, first row within its sample, and number of rows; or none at all.

        Returns:
            Columns, and for each draw the positions of its rows there.
        """
        if self._collective.size == 1:
            starts = [int(self._starts_n[domain]) + first for domain, first, _ in draws]
            rows = [rows for _, _, rows in draws]
            return self._train, [self._places[start : start + size] for start, size in zip(starts, rows, strict=True)]
        draws_D3 = np.array(draws, dtype=np.int64).reshape(-1, 3)
        distinct_U3, place_D = np.unique(draws_D3, axis=0, return_inverse=True)  # by domain
        columns = self._exchange(distinct_U3)
        rows_U = torch.arange(len(columns), device=columns.labels.device).split(distinct_U3[:, 2].tolist())
        return columns, [rows_U[place] for place in place_D.tolist()]

    def _exchange(self, wanted_U3: NDArray[np.int64]) -> Columns:
        """The rows of draws, in their order, which is by domain."""
        collective, train, ranks = self._collective, self._train, self._collective.size
        owner_U = self._owner_n[wanted_U3[:, 0]]
        order_U = owner_U.argsort(kind="stable")
        splits = np.bincount(owner_U, minlength=ranks).tolist()
        asked, asked_counts = collective.all_to_all(torch.from_numpy(wanted_U3[order_U]), splits)
        domains, firsts, sizes = asked.numpy().T
        own = self._places[torch.from_numpy(ranges(self._starts_n[domains] + firsts, sizes)).to(self._places.device)]
        sent = [int(part[:, 2].sum()) for part in asked.split(asked_counts)]
        names = sorted(train.ids)
        ids, _ = collective.all_to_all(torch.stack([train.ids[name][own] for name in names], dim=1), sent)
        values, _ = collective.all_to_all(_values(train, own), sent)
        sizes_U = wanted_U3[:, 2]
        starts_U = np.empty_like(sizes_U)
        starts_U[order_U] = sizes_U[order_U].cumsum() - sizes_U[order_U]
        by_domain = torch.from_numpy(ranges(starts_U, sizes_U)).to(ids.device)
        ids, values = ids[by_domain], values[by_domain]
        counts_n = np.zeros_like(self.counts_n)
        np.add.at(counts_n, wanted_U3[:, 0], sizes_U)
        numeric, single = values[:, : train.numeric.shape[1]].contiguous(), values[:, train.numeric.shape[1] :]
        labels, *base_logits = (column.contiguous() for column in single.unbind(1))
        columns = {name: ids[:, place].contiguous() for place, name in enumerate(names)}
        return Columns(columns, numeric, labels, offsets_of(torch.from_numpy(counts_n)), None, *base_logits)


def _values(columns: Columns, rows: Tensor) -> Tensor:
    """Numeric features, the label and, where there are any, the base logit of some rows, [M, K + 1] or [M, K + 2]."""
    single = [columns.labels] if columns.base_logits is None else [columns.labels, columns.base_logits]
    return torch.cat([columns.numeric[rows], *(column[rows, None] for column in single)], dim=1)
