"""Agreement of domains' gradients: cosines and inner products of all pairs, or of a random sample of them.

Shape suffixes: n domains, m domains that are measured, K pairs, P dense parameters.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mamdr_core.engine.columns import Columns, Visit
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.hashing import derive_seed
from mamdr_core.engine.parameters import Shared, Theta
from mamdr_core.pace import Pace

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Pairs:
    """Pairs of domains.

    Attributes:
        first, second: their indices, first < second, int64 [K].
        total: how many pairs there are; more than K where they are a sample.
    """

    first: Ints
    second: Ints
    total: int


def draw_pairs(domains: Ints, most: int, seed: int) -> Pairs:
    """All pairs of some domains, or `most` of them drawn without replacement; memory does not grow with all pairs.

    Args:
        domains: their indices, ascending, int64 [m].
        most: pairs at most.
        seed: of the draw.
    """
    total = len(domains) * (len(domains) - 1) // 2
    if total <= most:
        number_K = np.arange(total)
    else:
        number_K = np.sort(np.random.default_rng(derive_seed(seed, 11)).choice(total, most, replace=False))
    # Pair number s (s - 1) / 2 + f is of the places f < s.
    second_K = ((1 + np.sqrt(1 + 8 * number_K.astype(np.float64))) / 2).astype(np.int64)
    second_K -= second_K * (second_K - 1) // 2 > number_K  # where the root was rounded up
    second_K += second_K * (second_K + 1) // 2 <= number_K  # or down
    first_K = number_K - second_K * (second_K - 1) // 2
    return Pairs(domains[first_K], domains[second_K], total)


@dataclass(frozen=True)
class Agreement:
    """What pairs' gradients say.

    Attributes:
        pairs: the pairs.
        cosine_K: NaN where a gradient is zero.
        inner_K: inner products.
    """

    pairs: Pairs
    cosine_K: Floats
    inner_K: Floats

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which pairs have a cosine, [K]."""
        return ~np.isnan(self.cosine_K)

    def mean_cosine(self) -> tuple[float, float]:
        """Mean over pairs, and its standard error."""
        return self._mean(self.cosine_K)

    def negative_share(self) -> tuple[float, float]:
        """Share of pairs with a negative cosine, and its standard error."""
        return self._mean((self.cosine_K < 0).astype(np.float64))

    def mean_inner_product(self) -> float:
        """Mean over the same pairs."""
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


def measure_pairs(gradient: Callable[[int], Tensor], pairs: Pairs, keep: int) -> Agreement:
    """Cosines and inner products of pairs.

    Args:
        gradient: a domain's, [P].
        pairs: what to measure.
        keep: gradients kept in memory at a time; a domain's is computed again where it had to go.
    """
    inner_K, cosine_K = np.zeros(len(pairs.first)), np.full(len(pairs.first), np.nan)
    kept: dict[int, tuple[Tensor, float]] = {}
    pace = Pace("cosines", len(pairs.first), "pairs")

    def lookup(domain: int) -> tuple[Tensor, float]:
        if domain not in kept:
            if len(kept) >= keep:
                kept.pop(next(iter(kept)))
            vector = gradient(domain)
            kept[domain] = vector, float(vector.double().norm())
        return kept[domain]

    for number, (one, other) in enumerate(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)):
        (first, first_norm), (second, second_norm) = lookup(one), lookup(other)
        inner_K[number] = float(first.double() @ second.double())
        if first_norm and second_norm:
            cosine_K[number] = inner_K[number] / (first_norm * second_norm)
        pace.add(1)
    return Agreement(pairs, cosine_K, inner_K)


def domain_gradients(
    engine: EagerEngine, shared: Shared, columns: Columns, rows: int, seed: int
) -> Callable[[int], Tensor]:
    """By domain, the gradient of its mean loss at theta_S over dense parameters [P], dropout off.

    Args:
        engine: computes it.
        shared: theta_S.
        columns: rows of all domains.
        rows: of a domain at most, drawn at random: the same ones for the same seed.
        seed: of the draw.
    """
    theta = Theta(shared)

    def gradient(domain: int) -> Tensor:
        start, stop = columns.offsets[domain : domain + 2].tolist()
        generator = torch.Generator().manual_seed(derive_seed(seed, domain, 12))
        drawn = torch.randperm(stop - start, generator=generator)[:rows].sort().values + start
        return engine.gradient(theta, Visit(columns, drawn.to(columns.labels.device))).dense.cpu()

    return gradient


def cosine_matrix(agreement: Agreement, domains: Sequence[int]) -> Floats:
    """All pairs' cosines as a matrix with ones on its diagonal, [m, m]; 0 where a gradient is zero."""
    place = {domain: number for number, domain in enumerate(domains)}
    first = [place[domain] for domain in agreement.pairs.first.tolist()]
    second = [place[domain] for domain in agreement.pairs.second.tolist()]
    matrix: Floats = np.eye(len(domains))
    matrix[first, second] = matrix[second, first] = np.nan_to_num(agreement.cosine_K)
    return matrix
