"""Specific parameters w_i of every domain, with a prior that is learned from all domains (empirical Bayes).

Shape suffixes: n domains, D domains of this rank with rows, N rows, G domains of a batch, M their rows (padded), F
entries of phi, R domains of a saved state.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mamdr_core.engine.columns import Columns
from mamdr_core.engine.threads import one_thread
from mamdr_core.mixed.design import Design
from mamdr_core.mixed.newton import Posterior, Prior, fit_domains, variance_factor
from mamdr_core.parallel.collective import Collective
from mamdr_core.runtime.heartbeat import beat
from mamdr_core.runtime.stateful import DomainRows, State

BATCH_VALUES = 1 << 21
"""Largest number of values of phi in a batch of several domains."""
PADDING = 1.25
"""Largest ratio of a batch's rows with padding to those without; `PADDED_ROWS` for each domain are not counted."""
PADDED_ROWS = 2
LEAST_TAU = 1e-3
"""Smallest standard deviation of the prior; w_i then equals the prior's mean, whatever the rows of the domain."""
MOST_TAU = 10.0
"""Largest standard deviation of the prior: larger weights of standardised entries almost separate the classes."""
T = TypeVar("T")


@dataclass(frozen=True)
class DomainBatch:
    """Domains that are fitted together.

    Attributes:
        places_G: positions of the domains in `DomainWeights.domains_D`.
        rows_GM: positions of their rows, 0 for padding.
        real_GM: false for padding.
    """

    places_G: Tensor
    rows_GM: Tensor
    real_GM: Tensor


class DomainWeights:
    """w_i ~ N(mean, diag(tau^2)) for every domain i, by EM over domains.

    The M-step maximises the Laplace approximation of the marginal likelihood by MacKay's update (1992), with the
    effective number of observed domains. Plain EM would converge slowly for small domains, since it moves a variance in
    proportion to the part that the rows explain.

    Args:
        design: computes phi.
        domains: indices of this rank's domains with training rows, ascending.
        variance: initial variance of every entry of w_i.

    Attributes:
        domains_D: the domains.
        prior: mean and standard deviations, equal on all ranks.
        weights_DF: posterior modes.
        variances_DF: diagonals of the inverse Hessians.
        own_prior_DF: the prior of each domain, if it is the posterior of a parent; else None.
    """

    def __init__(self, design: Design, domains: Sequence[int], variance: float) -> None:
        self._design = design
        self.domains_D = torch.tensor(list(domains), dtype=torch.long)
        features = len(design)
        self.prior = Prior(torch.zeros(features), torch.full((features,), variance**0.5))
        self.weights_DF = torch.zeros(len(self.domains_D), features)
        self.variances_DF = torch.zeros(len(self.domains_D), features)
        self.own_prior_DF: Prior | None = None
        self._threads = torch.get_num_threads()

    def sweep(
        self,
        columns: Columns,
        base_N: Tensor,
        collective: Collective,
        steps: int = 1,
        learns_prior: bool = True,
        weight_N: Tensor | None = None,
    ) -> Tensor:
        """Fit every w_i under the prior, then the prior to all w_i; a collective call.

        Args:
            columns: this rank's training rows.
            base_N: logits of the rows without w_i . phi, float32.
            collective: the ranks.
            steps: number of Newton steps.
            learns_prior: whether to fit the prior too.
            weight_N: weights of the rows, 1 on average; None: all are 1.

        Returns:
            w_i . phi of the rows, float32 [N], under the prior before the call.
        """
        logits_N = torch.empty(len(columns))
        features = len(self._design)
        sums, counted = torch.zeros(features + 4, features, dtype=torch.float64), 0

        def fit(batch: DomainBatch) -> tuple[DomainBatch, Posterior]:
            return batch, self._fit(batch, columns, base_N, steps, weight_N)

        for batch, posterior in _in_threads(fit, self._batches(columns), self._threads):
            logits_N[batch.rows_GM[batch.real_GM]] = posterior.logits_GM[batch.real_GM]
            white_GF, prior = posterior.white_GF, self._prior_of(batch)
            self.weights_DF[batch.places_G] = prior.mean_F + prior.tau_F * white_GF
            variance_GF, observed_FF = posterior.hessian.posterior()
            self.variances_DF[batch.places_G] = prior.tau_F.square() * variance_GF
            observed_GF = 1 - variance_GF.double()
            counted += len(white_GF)
            sums[0] += white_GF.double().sum(0)
            sums[1] += white_GF.double().square().sum(0)
            sums[2] += (observed_GF * white_GF).sum(0)
            sums[3] += observed_GF.square().sum(0)
            sums[4:] += observed_FF
        count = collective.all_reduce(torch.tensor([float(counted)], dtype=torch.float64))
        total = collective.all_reduce(sums)
        if learns_prior and count[0] and not self.own_prior_DF:
            self.prior = _fit_prior(self.prior, total[:4], total[4:])
        return logits_N

    def leverages(self, columns: Columns, base_N: Tensor, weight_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """w_i . phi of the training rows, and its posterior variance, both float32 [N].

        Args:
            columns: this rank's training rows.
            base_N: logits of the rows without w_i . phi, float32.
            weight_N: weights of the rows; see `sweep`.
        """
        logits_N, variance_N = torch.empty(len(columns)), torch.empty(len(columns))
        if not np.isin(columns.occupied, self.domains_D.numpy()).all():  # some domains have no w_i
            logits_N, variance_N = self.predict(columns), self.variance(columns)

        def find(batch: DomainBatch) -> tuple[DomainBatch, Posterior, Tensor]:
            posterior = self._fit(batch, columns, base_N, 0, weight_N)
            return batch, posterior, posterior.hessian.leverages()

        for batch, posterior, leverage_GM in _in_threads(find, self._batches(columns), self._threads):
            rows = batch.rows_GM[batch.real_GM]
            logits_N[rows] = posterior.logits_GM[batch.real_GM]
            variance_N[rows] = leverage_GM[batch.real_GM]
        return logits_N, variance_N

    def predict(self, columns: Columns) -> Tensor:
        """w_i . phi of any rows, float32 [N]; domains without training rows have the prior's mean."""
        return self._dot(columns, self.weights_DF, self.prior.mean_F, squared=False)

    def variance(self, columns: Columns) -> Tensor:
        """Variance of w_i . phi without covariances, float32 [N]; domains without training rows have the prior's."""
        return self._dot(columns, self.variances_DF, self.prior.tau_F.square(), squared=True)

    def _dot(self, columns: Columns, values_DF: Tensor, default_F: Tensor, squared: bool) -> Tensor:
        """Dot products of phi, or of its squares, and the values of the rows' domains."""
        total_N = torch.empty(len(columns))
        for rows in torch.arange(len(columns)).split(max(1, BATCH_VALUES // len(self._design))):
            phi_MF = self._design.rows(columns, rows)
            domain_M = columns.ids["domain"][rows].long().cpu() - 1
            values_MF = default_F
            if len(self.domains_D):
                place_M = torch.searchsorted(self.domains_D, domain_M).clamp(max=len(self.domains_D) - 1)
                known_M = self.domains_D[place_M] == domain_M
                values_MF = torch.where(known_M[:, None], values_DF[place_M], default_F)
            total_N[rows] = ((phi_MF.square() if squared else phi_MF) * values_MF).sum(1)
            beat()
        return total_N

    def _fit(
        self, batch: DomainBatch, columns: Columns, base_N: Tensor, steps: int, weight_N: Tensor | None
    ) -> Posterior:
        shape = batch.rows_GM.shape
        rows = batch.rows_GM.flatten()
        phi_GMF = self._design.rows(columns, rows).view(*shape, len(self._design))
        labels_GM, base_GM = columns.labels[rows].cpu().view(shape), base_N[rows].view(shape)
        prior = self._prior_of(batch)
        start_GF = (self.weights_DF[batch.places_G] - prior.mean_F) / prior.tau_F
        real_GM = batch.real_GM.to(phi_GMF.dtype)
        if weight_N is not None:
            real_GM *= weight_N[rows].view(shape)
        return fit_domains(phi_GMF, labels_GM, base_GM, real_GM, prior, start_GF, steps)

    def _prior_of(self, batch: DomainBatch) -> Prior:
        own = self.own_prior_DF
        return self.prior if own is None else Prior(own.mean_F[batch.places_G], own.tau_F[batch.places_G])

    def _batches(self, columns: Columns) -> Iterator[DomainBatch]:
        offsets = columns.offsets.numpy()
        domains_D = self.domains_D.numpy()
        counts_D = offsets[domains_D + 1] - offsets[domains_D]
        by_size_D = np.argsort(counts_D, kind="stable")
        by_size_D = by_size_D[counts_D[by_size_D] > 0]  # domains of a parent may have no rows in this run
        for first, last in _cut_batches(counts_D[by_size_D], len(self._design)):
            places_G = by_size_D[first:last]
            within_M = np.arange(counts_D[places_G[-1]])
            real_GM = within_M < counts_D[places_G][:, None]
            rows_GM = np.where(real_GM, offsets[domains_D[places_G]][:, None] + within_M, 0)
            yield DomainBatch(torch.from_numpy(places_G), torch.from_numpy(rows_GM), torch.from_numpy(real_GM))

    def change_units(self, before: tuple[Tensor, Tensor]) -> None:
        """Convert prior, modes and variances to the current units of the design; `own_prior_DF` is dropped.

        Args:
            before: means and scales of phi in their current units.
        """
        mean_F, scale_F = before
        known_F = self._design.scale_F > 0
        ratio_F = torch.where(known_F, scale_F / self._design.scale_F.where(known_F, torch.ones(())), 0)
        shift_F = scale_F * (self._design.mean_F - mean_F)  # 0 for the bias, which is the first entry
        self.own_prior_DF = None

        def convert(weights_F: Tensor) -> Tensor:
            converted_F = weights_F * ratio_F
            converted_F[..., 0] += (weights_F * shift_F).sum(-1)
            return converted_F.float()

        self.weights_DF = convert(self.weights_DF)
        self.variances_DF = (self.variances_DF * ratio_F.square()).float()
        tau_F = torch.where(ratio_F > 0, self.prior.tau_F * ratio_F, self.prior.tau_F)
        self.prior = Prior(convert(self.prior.mean_F), tau_F.float().clamp_min(LEAST_TAU))

    def use_posterior_as_prior(self) -> None:
        """Make the current mode and variances of every domain its prior."""
        tau_DF = self.variances_DF.sqrt().clamp_min(LEAST_TAU)
        self.own_prior_DF = Prior(self.weights_DF.clone(), tau_DF)

    def state_dict(self) -> State:
        """The prior, and the modes and variances of this rank's domains."""
        values = {"weights": self.weights_DF, "variances": self.variances_DF}
        if self.own_prior_DF:
            values |= {"prior_mean": self.own_prior_DF.mean_F, "prior_tau": self.own_prior_DF.tau_F}
        return State(
            same={"mean": self.prior.mean_F, "tau": self.prior.tau_F},
            domains={name: DomainRows(self.domains_D, values_DF) for name, values_DF in values.items()},
        )

    def load_state_dict(self, state: State) -> None:
        """Load the prior, and the modes and variances of this rank's domains; those without have the prior's."""
        like_F = self.prior.mean_F
        self.prior = Prior(*(state.tensor(state.same, name, like_F) for name in ("mean", "tau")))
        self.weights_DF = self.prior.mean_F.repeat(len(self.domains_D), 1)
        self.variances_DF = self.prior.tau_F.square().repeat(len(self.domains_D), 1)
        loaded = {"weights": self.weights_DF, "variances": self.variances_DF}
        if "prior_mean" in state.domains:
            self.use_posterior_as_prior()
            assert self.own_prior_DF
            loaded |= {"prior_mean": self.own_prior_DF.mean_F, "prior_tau": self.own_prior_DF.tau_F}
        for name, own_DF in loaded.items():
            saved = state.domain_rows(name, like_F)
            place_R = torch.searchsorted(self.domains_D, saved.domain_R)
            known_R = torch.isin(saved.domain_R, self.domains_D)
            own_DF[place_R[known_R]] = saved.values[known_R]


def _fit_prior(prior: Prior, sums_4F: Tensor, observed_FF: Tensor) -> Prior:
    """One step from `prior` towards the maximum of the approximate marginal likelihood.

    Args:
        prior: the prior of the posteriors.
        sums_4F: sums over domains, in the prior's units, of the modes a, of a^2, of o a and of o^2. o is 1 minus the
            posterior variance: the degree to which the rows of the domain determine an entry.
        observed_FF: the sum over domains of I minus the posterior covariance.
    """
    sum_F, squares_F, observed_sum_F, observed_squares_F = sums_4F
    tau_F = prior.tau_F.double()
    ridge_FF = 1e-6 * observed_FF.diagonal().clamp_min(1e-6).diag()
    shift_F = torch.linalg.solve(observed_FF + ridge_FF, sum_F)
    # Under the new mean the modes are a - o m, and their squares measure the variance between domains.
    centred_F = squares_F - 2 * shift_F * observed_sum_F + observed_squares_F * shift_F.square()
    factor_F = variance_factor(centred_F.clamp_min(0), observed_FF.diagonal())
    mean_F = prior.mean_F.double() + tau_F * shift_F
    return Prior(mean_F.to(prior.mean_F), (tau_F * factor_F.sqrt()).clamp(LEAST_TAU, MOST_TAU).to(prior.tau_F))


def _cut_batches(counts_D: NDArray[np.int64], features: int) -> Iterator[tuple[int, int]]:
    """First and end of each batch of domains that are padded to one size.

    A batch has at most `BATCH_VALUES` values of phi, and at most that number of values of Hessians, whose side is F or
    the number of rows, if that is smaller.

    Args:
        counts_D: rows of the domains, ascending.
        features: number F of entries of phi.
    """
    first = 0
    real = np.concatenate([[0], counts_D.cumsum()])
    while first < len(counts_D):
        max_domains = max(1, BATCH_VALUES // (features * int(counts_D[first])))
        longest = counts_D[first : first + max_domains]
        size = np.arange(1, len(longest) + 1)
        rows = real[first + 1 : first + 1 + len(longest)] - real[first]
        fits = size * longest * features <= BATCH_VALUES
        fits &= size * longest <= PADDING * rows + PADDED_ROWS * size
        fits &= (longest < features) == (longest[0] < features)
        last = first + max(1, int(np.argmin(fits)) if not fits.all() else len(fits))
        yield first, last
        first = last


def _in_threads(task: Callable[[DomainBatch], T], batches: Iterator[DomainBatch], threads: int) -> Iterator[T]:
    """Results in order, with batches in parallel and one thread for each, since products are too small for more."""
    with one_thread(), ThreadPoolExecutor(threads) as pool:
        waiting = []
        for batch in batches:
            waiting.append(pool.submit(task, batch))
            if len(waiting) > threads:
                yield waiting.pop(0).result()
                beat()
        for future in waiting:
            yield future.result()
            beat()
