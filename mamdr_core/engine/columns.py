"""The training or evaluation rows of a rank as columns, sorted by domain, and visits to them."""

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
        ids: ids by column, int32 [N]: vocabulary index + 1, or 0 for an unknown id. Contains at least "user", "item"
            and "domain". For a bag or sequence [N, L]: the known ids of a row in order, then zeros.
        numeric: standardised numeric features, float32 [N, K]; K may be 0.
        labels: 0. or 1., float32 [N].
        offsets: int64 [n + 1]; rows offsets[d] to offsets[d + 1] belong to the domain of index d.
        true_probability: the probability of a click, known for synthetic logs, float64 [N].
        base_logits: logits of a mixed model, to which those of the network are added, float32 [N]; None: zeros.
        weights: sample weights, float32 [N]; None: equal weights.
        bag_weights: weights of the ids of bags that have weights, float32 [N, L]; 0 for padding.
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
        return len(self.labels)

    @property
    def counts(self) -> Tensor:
        """Number of rows of each domain, int64 [n]."""
        return self.offsets.diff()

    @cached_property
    def occupied(self) -> NDArray[np.int64]:
        """Domains with rows, ascending; cached, so the offsets must not change."""
        return np.flatnonzero(np.diff(self.offsets.numpy()))

    @property
    def nbytes(self) -> int:
        """Bytes of the columns on a device."""
        columns = [*self.ids.values(), *self.bag_weights.values(), self.numeric, self.labels]
        return sum(column.nbytes for column in (*columns, self.base_logits, self.weights) if column is not None)

    def weights_of(self, bag: str, rows: Tensor) -> Tensor:
        """The weights of the ids of a bag or sequence at some rows, float32 [M, L]; by default 1, and 0 for padding."""
        weights_NL = self.bag_weights.get(bag)
        return (self.ids[bag][rows] > 0).float() if weights_NL is None else weights_NL[rows]

    def take(self, rows: Tensor) -> "Columns":
        """Select rows.

        Args:
            rows: positions sorted by domain, int64 [M].
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
        """A copy on `device`, except for offsets, which are used on the CPU."""
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
    """The first row of each domain, and the number of rows, int64 [n + 1].

    Args:
        counts_n: number of rows of each domain, int64 [n].
    """
    return torch.cat([counts_n.new_zeros(1), counts_n.cumsum(0)])


@dataclass
class Visit:
    """One visit of a trajectory: some rows in order, usually of one domain.

    Attributes:
        columns: the columns with the rows.
        rows: positions in `columns`, int64 [M].
        as_domain: domain index that the model reads instead of that of the rows. Support rows of DR train the
            parameters of the target.
        batch_size: maximum number of rows of a step; 0: that of the engine.
        groups: number of rows of each domain in each batch, int64 [G] on the CPU, if rows are grouped by domain (see
            `mamdr_core.engine.parts.order_by_domain`); empty otherwise.
    """

    columns: Columns
    rows: Tensor
    as_domain: int | None = None
    batch_size: int = 0
    groups: tuple[Tensor, ...] = ()

    def ids(self, column: str) -> Tensor:
        """Ids of a column, int64 [M], or [M, L]."""
        if column == "domain" and self.as_domain is not None:
            return torch.full_like(self.rows, self.as_domain + 1)
        return self.columns.ids[column][self.rows].long()

    def add_base(self, logits_B: Tensor, places: slice | Tensor = slice(None)) -> Tensor:
        """Add the base logits of the rows, if there are any, to the network's logits at some positions of the visit."""
        base_logits = self.columns.base_logits
        return logits_B if base_logits is None else logits_B + base_logits[self.rows[places]].to(logits_B)

    def weights(self, places: slice | Tensor, like: Tensor) -> Tensor | None:
        """Sample weights at some positions of the visit; None: equal weights.

        Args:
            places: the positions.
            like: a tensor of the type and device of the result.
        """
        weights = self.columns.weights
        return None if weights is None else weights[self.rows[places]].to(like)

    @property
    def total_weight(self) -> float:
        """The sum of the sample weights; by default the number of rows."""
        weights = self.columns.weights
        return float(len(self.rows)) if weights is None else float(weights[self.rows].double().sum())

    def batches(self, batch_size: int) -> list[slice]:
        """Split the visit into slices of nearly equal size, of at most its own `batch_size` or that of the engine."""
        size = self.rows.shape[0]
        parts = -(-size // (self.batch_size or batch_size))
        if parts == 1:  # the most frequent case
            return [slice(0, size)]
        edges = [part * size // parts for part in range(parts + 1)] if parts else []
        return [slice(start, stop) for start, stop in pairwise(edges)]


FrozenTables = Mapping[str, Tensor]
"""Fixed vectors by table name, float32 [rows, D]; row 0 is that of the unknown id."""


def shares_of(weights_N: Tensor, run_N: Tensor, runs: int) -> Tensor:
    """Weights divided by their sum over each run; 0 in a run whose weights are all 0.

    Args:
        weights_N: floating-point weights of rows.
        run_N: run of each row, int64.
        runs: number of runs.
    """
    total_R = weights_N.new_zeros(runs).index_add_(0, run_N, weights_N)
    return weights_N / total_R.clamp_min(torch.finfo(weights_N.dtype).tiny)[run_N]
