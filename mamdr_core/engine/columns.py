"""The rows that a rank trains or measures on, as columnar tensors sorted by domain."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass
class Columns:
    """Rows sorted by domain, as tensors.

    Attributes:
        ids: by column, int32 [N]; 0 is the unknown id, a vocabulary index i is stored as i + 1. Holds at least "user",
            "item" and "domain". Of a bag or sequence [N, L], a row's known ids first and in order, then zeros.
        bag_weights: by bag with weights, float32 [N, L]; 0 where `ids` are.
        numeric: standardised numeric features, float32 [N, K]; K may be 0.
        labels: 0. or 1., float32 [N].
        offsets: int64 [n + 1]; rows offsets[d] to offsets[d + 1] belong to the domain of index d.
        true_probability: float64 [N] where the log knows it, for the oracle's AUC.
        base_logits: float32 [N], the logits of a mixed model, which the network's are added to; None: zeros.
        weights: sample weights, float32 [N]; None: rows count alike.
    """

    ids: dict[str, Tensor]
    numeric: Tensor
    labels: Tensor
    offsets: Tensor
    true_probability: Tensor | None = None
    base_logits: Tensor | None = None
    weights: Tensor | None = None
    bag_weights: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of rows N."""
        return len(self.labels)

    @property
    def counts(self) -> Tensor:
        """Rows by domain, int64 [n]."""
        return self.offsets.diff()

    @cached_property
    def occupied(self) -> NDArray[np.int64]:
        """Domains with rows, ascending; the offsets must not change after this is first read."""
        return np.flatnonzero(np.diff(self.offsets.numpy()))

    @property
    def nbytes(self) -> int:
        """Bytes of what a device would hold."""
        columns = [*self.ids.values(), *self.bag_weights.values(), self.numeric, self.labels]
        return sum(column.nbytes for column in (*columns, self.base_logits, self.weights) if column is not None)

    def weights_of(self, bag: str, rows: Tensor) -> Tensor:
        """The weights of a bag's or sequence's ids at some rows, float32 [M, L]: 1 where it has none, 0 of padding."""
        weights_NL = self.bag_weights.get(bag)
        return (self.ids[bag][rows] > 0).float() if weights_NL is None else weights_NL[rows]

    def take(self, rows: Tensor) -> "Columns":
        """The given rows in their order; they must be sorted by domain.

        Args:
            rows: positions, int64 [M].
        """
        domains = self.ids["domain"][rows].long() - 1
        counts = torch.bincount(domains, minlength=len(self.offsets) - 1).cpu()
        return Columns(
            ids={name: column[rows] for name, column in self.ids.items()},
            numeric=self.numeric[rows],
            labels=self.labels[rows],
            offsets=offsets_of(counts),
            true_probability=None if self.true_probability is None else self.true_probability[rows.cpu()],
            base_logits=None if self.base_logits is None else self.base_logits[rows],
            weights=None if self.weights is None else self.weights[rows],
            bag_weights={name: weights[rows] for name, weights in self.bag_weights.items()},
        )

    def to(self, device: torch.device | str) -> "Columns":
        """A copy on `device` (offsets stay on the CPU, where plans are made)."""
        return Columns(
            ids={name: column.to(device) for name, column in self.ids.items()},
            numeric=self.numeric.to(device),
            labels=self.labels.to(device),
            offsets=self.offsets,
            true_probability=self.true_probability,
            base_logits=None if self.base_logits is None else self.base_logits.to(device),
            weights=None if self.weights is None else self.weights.to(device),
            bag_weights={name: weights.to(device) for name, weights in self.bag_weights.items()},
        )


def offsets_of(counts_n: Tensor) -> Tensor:
    """Where each domain's rows begin, int64 [n + 1], from rows by domain [n]."""
    return torch.cat([counts_n.new_zeros(1), counts_n.cumsum(0)])


@dataclass
class Visit:
    """One visit of a trajectory: some rows, in order, usually all of one domain.

    Attributes:
        columns: where the rows lie.
        rows: positions in `columns`, int64 [M].
        as_domain: show the rows to the model under this domain's index instead of their own (DR's support rows, which
            train the parameters that serve the target).
        batch_size: rows of a step at most; 0: the engine's.
        groups: of each of its batches, the rows of each domain, int64 [G] on the CPU, where they stand in groups (see
            `mamdr_core.engine.parts.order_by_domain`); none: each batch is of one domain, or the engine cuts it.
    """

    columns: Columns
    rows: Tensor
    as_domain: int | None = None
    batch_size: int = 0
    groups: tuple[Tensor, ...] = ()

    def ids(self, column: str) -> Tensor:
        """The visit's indices of one id column, int64 [M]."""
        if column == "domain" and self.as_domain is not None:
            return torch.full_like(self.rows, self.as_domain + 1)
        return self.columns.ids[column][self.rows].long()

    def add_base(self, logits_B: Tensor, places: slice | Tensor = slice(None)) -> Tensor:
        """The network's logits of some places of the visit plus the base logits of these rows, if there are any."""
        base_logits = self.columns.base_logits
        return logits_B if base_logits is None else logits_B + base_logits[self.rows[places]].to(logits_B)

    def weights(self, places: slice | Tensor, like: Tensor) -> Tensor | None:
        """Sample weights of some places of the visit; None: rows count alike.

        Args:
            places: of the visit.
            like: has their type and device.
        """
        weights = self.columns.weights
        return None if weights is None else weights[self.rows[places]].to(like)

    @property
    def total_weight(self) -> float:
        """The sum of the rows' weights."""
        weights = self.columns.weights
        return float(len(self.rows)) if weights is None else float(weights[self.rows].double().sum())

    def batches(self, batch_size: int) -> list[slice]:
        """Slices of near-equal size that cover the visit, of its `batch_size` rows at most, or else the engine's."""
        size = self.rows.shape[0]
        parts = -(-size // (self.batch_size or batch_size))
        if parts == 1:  # most visits
            return [slice(0, size)]
        edges = [part * size // parts for part in range(parts + 1)] if parts else []
        return [slice(start, stop) for start, stop in pairwise(edges)]


FrozenTables = Mapping[str, Tensor]
"""Fixed vectors by table name, float32 [rows, D]: row 0 belongs to the unknown id."""


def shares_of(weights_N: Tensor, run_N: Tensor, runs: int) -> Tensor:
    """Each row's share of its run's weights; zeros in a run whose weights are all zero.

    Args:
        weights_N: of the rows, floating.
        run_N: the run of each, int64.
        runs: number of runs.
    """
    total_R = weights_N.new_zeros(runs).index_add_(0, run_N, weights_N)
    return weights_N / total_R.clamp_min(torch.finfo(weights_N.dtype).tiny)[run_N]
