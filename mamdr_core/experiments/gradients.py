"""Agreement of domain gradients: cosines and inner products of all pairs, or of a random sample.

Shape suffixes: m measured domains, K pairs, A and B vectors on the two sides of pairs, P dense parameters.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mamdr_core.engine.columns import Columns
from mamdr_core.engine.dense_gradients import dense_gradients
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.hashing import derive_seed
from mamdr_core.engine.parameters import Shared
from mamdr_core.runtime.pace import ProgressLog

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
TILE_BYTES, ROWS_BYTES = 1 << 26, 1 << 19
"""Bytes of float64 gradients on one side of a matrix product, and of a row-wise product, which fits into the cache of
a core."""
DENSE = 50
"""A matrix product is faster than row-wise products while it computes at most this multiple of the wanted values."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of domains.

    Attributes:
        first, second: domain indices, first < second, int64 [K].
        total: number of all pairs; more than K for a sample.
    """

    first: Ints
    second: Ints
    total: int


def draw_pairs(domains: Ints, most: int, seed: int) -> Pairs:
    """All pairs of domains, or a sample of `most` pairs without replacement, in memory proportional to the sample.

    Args:
        domains: domain indices, ascending, int64 [m].
    """
    total = len(domains) * (len(domains) - 1) // 2
    if total <= most:
        number_K = np.arange(total)
    else:
        number_K = np.sort(np.random.default_rng(derive_seed(seed, 11)).choice(total, most, replace=False))
    # Pair number s (s - 1) / 2 + f consists of the positions f < s.
    second_K = ((1 + np.sqrt(1 + 8 * number_K.astype(np.float64))) / 2).astype(np.int64)
    second_K -= second_K * (second_K - 1) // 2 > number_K  # the root was rounded up
    second_K += second_K * (second_K + 1) // 2 <= number_K  # the root was rounded down
    first_K = number_K - second_K * (second_K - 1) // 2
    return Pairs(domains[first_K], domains[second_K], total)


@dataclass(frozen=True)
class Agreement:
    """Agreement of the gradients of pairs: cosines, NaN where a gradient is zero, and inner products."""

    pairs: Pairs
    cosine_K: Floats
    inner_K: Floats

    @property
    def known(self) -> NDArray[np.bool_]:
        """Mask of the pairs with a defined cosine, [K]."""
        return ~np.isnan(self.cosine_K)

    def mean_cosine(self) -> tuple[float, float]:
        """Mean over pairs, and its standard error."""
        return self._mean(self.cosine_K)

    def negative_share(self) -> tuple[float, float]:
        """Share of pairs with a negative cosine, and its standard error."""
        return self._mean((self.cosine_K < 0).astype(np.float64))

    def mean_inner_product(self) -> float:
        """Mean over the pairs with a cosine."""
        return self._mean(self.inner_K)[0]

    def quantiles(self) -> dict[str, float]:
        """Quantiles of the cosine."""
        found = np.quantile(self.cosine_K[self.known], QUANTILES)
        return {str(share): float(value) for share, value in zip(QUANTILES, found, strict=True)}

    def _mean(self, values_K: Floats) -> tuple[float, float]:
        """Standard error of a simple random sample of a finite population (Cochran 1977, eq. 2.20)."""
        known_K = values_K[self.known]
        if len(self.pairs.first) == self.pairs.total:
            return float(known_K.mean()), 0.0
        if len(known_K) < 2:
            return float(known_K.mean()), math.nan
        error = known_K.std(ddof=1) * np.sqrt((1 - len(known_K) / self.pairs.total) / len(known_K))
        return float(known_K.mean()), float(error)


def measure_pairs(gradients: Callable[[Ints], Tensor], pairs: Pairs, keep: int) -> Agreement:
    """Compute the cosines and inner products of pairs.

    If memory does not hold all gradients, domains are processed in blocks: the gradients of a block are kept, and those
    of partners in later blocks are computed in chunks.

    Args:
        gradients: computes the gradients of domains, [m, P].
        keep: number of gradients to keep in memory, at least 2.
    """
    domains, place = np.unique(np.concatenate([pairs.first, pairs.second]), return_inverse=True)
    low_K, high_K = place.reshape(2, -1)
    aside = max(1, keep // 8)  # size of a chunk of partners in later blocks
    size = len(domains) if len(domains) <= keep else keep - aside
    norm_m, inner_K = np.zeros(len(domains)), np.zeros(len(low_K))
    pace = ProgressLog("cosines", len(low_K), "pairs")

    def compute(places: Ints) -> Tensor:
        vectors_AP = gradients(domains[places])
        norm_m[places] = _norms(vectors_AP)
        return vectors_AP

    def multiply(which: Ints, rows: tuple[Ints, Tensor], columns: tuple[Ints, Tensor]) -> None:
        """Compute inner products of pairs; gradients come with their positions in ascending order."""
        (low_A, low_AP), (high_B, high_BP) = rows, columns
        row, column = np.searchsorted(low_A, low_K[which]), np.searchsorted(high_B, high_K[which])
        inner_K[which] = inner_products(low_AP, high_BP, row, column)
        pace.add(len(which))

    def measure_block(first: int) -> None:
        """Measure all pairs whose lower position is in the block."""
        own = np.flatnonzero((low_K >= first) & (low_K < first + size))
        if not len(own):
            return
        within = high_K[own] < first + size
        block = np.unique(np.concatenate([low_K[own], high_K[own[within]]]))
        kept = block, compute(block)
        multiply(own[within], kept, kept)
        outside = own[~within]
        partners = np.unique(high_K[outside])
        for start in range(0, len(partners), aside):
            some = partners[start : start + aside]
            theirs = outside[(high_K[outside] >= some[0]) & (high_K[outside] <= some[-1])]
            multiply(theirs, kept, (some, compute(some)))

    for first in range(0, len(domains), max(1, size)):
        measure_block(first)
    product_K = norm_m[low_K] * norm_m[high_K]
    cosine_K = np.divide(inner_K, product_K, out=np.full(len(low_K), np.nan), where=product_K > 0)
    return Agreement(pairs, cosine_K, inner_K)


def inner_products(left_AP: Tensor, right_BP: Tensor, row_K: Ints, column_K: Ints) -> Floats:
    """Inner products of left_AP[row_K] and right_BP[column_K] in float64, [K].

    Computed by tiles: a matrix product where many pairs of the tile are wanted, row-wise products elsewhere.

    Args:
        row_K, column_K: positions of vectors, int64 [K].
    """
    side, few = _at_once(TILE_BYTES, left_AP), _at_once(ROWS_BYTES, left_AP)
    inner_K = np.zeros(len(row_K))
    tile_K = row_K // side * (len(right_BP) // side + 1) + column_K // side
    order = np.argsort(tile_K, kind="stable")
    for which in np.split(order, np.flatnonzero(np.diff(tile_K[order])) + 1) if len(order) else ():
        row, row_place = np.unique(row_K[which], return_inverse=True)
        column, column_place = np.unique(column_K[which], return_inverse=True)
        if len(row) * len(column) <= DENSE * len(which):
            product = left_AP[row].double() @ right_BP[column].double().T
            inner_K[which] = product[row_place, column_place].numpy()
            continue
        for some in np.split(which, range(few, len(which), few)):
            inner_K[some] = (left_AP[row_K[some]].double() * right_BP[column_K[some]].double()).sum(1).numpy()
    return inner_K


def _norms(vectors_AP: Tensor) -> Floats:
    """Euclidean norms in float64, [A]."""
    parts = [part.double().norm(dim=1).numpy() for part in vectors_AP.split(_at_once(ROWS_BYTES, vectors_AP))]
    return np.concatenate(parts) if parts else np.zeros(0)


def _at_once(most_bytes: int, vectors_AP: Tensor) -> int:
    """Number of vectors that fit into `most_bytes` in float64; at least 1, at most 1024."""
    return max(1, min(1024, most_bytes // (8 * max(1, vectors_AP.shape[1]))))


def domain_gradients(
    engine: EagerEngine, shared: Shared, columns: Columns, rows: int, seed: int, domains: Ints
) -> Tensor:
    """Gradients of domain losses at theta_S with respect to dense parameters, without dropout, on the host [m, P].

    Args:
        rows: maximum number of rows per domain; more are sampled, with the same sample for the same seed.
        domains: domain indices, int64 [m].
    """
    drawn = [_draw_rows(columns, domain, rows, seed) for domain in domains.tolist()]
    edges = np.cumsum([0, *map(len, drawn)])
    return dense_gradients(engine, shared, columns, torch.cat(drawn), edges).cpu()


def _draw_rows(columns: Columns, domain: int, rows: int, seed: int) -> Tensor:
    """Positions of sampled rows of a domain, ascending, on the host."""
    start, stop = (int(edge) for edge in columns.offsets[domain : domain + 2])
    if stop - start <= rows:
        return torch.arange(start, stop)
    generator = torch.Generator().manual_seed(derive_seed(seed, domain, 12))
    return torch.randperm(stop - start, generator=generator)[:rows].sort().values + start


def cosine_matrix(agreement: Agreement, domains: Sequence[int]) -> Floats:
    """Cosines as a symmetric matrix with a unit diagonal, [m, m]; 0 where a gradient is zero."""
    place = {domain: number for number, domain in enumerate(domains)}
    first = [place[domain] for domain in agreement.pairs.first.tolist()]
    second = [place[domain] for domain in agreement.pairs.second.tolist()]
    matrix: Floats = np.eye(len(domains))
    matrix[first, second] = matrix[second, first] = np.nan_to_num(agreement.cosine_K)
    return matrix
