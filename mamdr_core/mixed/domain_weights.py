"""Specific parameters w_i of every domain, with a prior that is learned from all domains (empirical Bayes).

Shape suffixes: n domains, D domains of this rank that have rows, N rows, G domains of a batch, M their rows (padded),
F entries of phi.
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
from mamdr_core.heartbeat import beat
from mamdr_core.mixed.design import Design
from mamdr_core.mixed.newton import Posterior, Prior, fit_domains, variance_factor
from mamdr_core.parallel.collective import Collective
from mamdr_core.stateful import DomainRows, State

BATCH_NUMBERS = 1 << 21
"""Numbers of phi in a batch of domains, unless one domain alone has more."""
PADDING = 1.25
"""Rows of a batch, padding included, over its real ones, at most; besides, each domain may have `PADDED_ROWS`."""
PADDED_ROWS = 2
LEAST_TAU = 1e-3
"""Smallest standard deviation of the prior: here w_i equals the prior's mean, whatever the rows of the domain."""
MOST_TAU = 10.0
"""Largest one: standardised entries with weights beyond it are all but separable."""
T = TypeVar("T")


@dataclass(frozen=True)
class DomainBatch:
    """Domains that are fitted together.

    Attributes:
        places_G: of the domains in this rank's list.
        rows_GM: positions of their rows, 0 for padding.
        real_GM: whether a row is real.
    """

    places_G: Tensor
    rows_GM: Tensor
    real_GM: Tensor


class DomainWeights:
    """w_i ~ N(mean, diag(tau^2)) for every domain i, by EM over domains.

    The M-step maximises the Laplace approximation of the marginal likelihood as MacKay (1992) does, with the effective
    number of observed domains: plain EM moves a variance by the share that the rows explain, which is little if domains
    are small.

    Args:
        design: gives phi.
        domains: index of every domain of this rank that has training rows, ascending.
        variance: of every entry of w_i before the first sweep.

    Attributes:
        domains_D: the domains.
        prior: mean and standard deviations, the same on all ranks.
        weights_DF: modes.
        variances_DF: diagonals of the inverse Hessians.
        own_prior_DF: where the posterior of a parent is the prior, each domain's; else None.
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
        """Fit every w_i under the prior, then the prior to them.

        Args:
            columns: this rank's training rows.
            base_N: logits of the rows without w_i . phi, float32.
            collective: the ranks.
            steps: of Newton's method.
            learns_prior: whether to fit the prior too.
            weight_N: of the rows, 1 on average; None: all 1.

        Returns:
            w_i . phi of the rows, float32 [N], under the prior before this call's.
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
            self.prior = _fitted(self.prior, total[:4], total[4:])
        return logits_N

    def leverages(self, columns: Columns, base_N: Tensor, weight_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """w_i . phi of the training rows, and the variance of it by the posterior of w_i, both float32 [N].

        Args:
            columns: this rank's training rows.
            base_N: logits of the rows without w_i . phi, float32.
            weight_N: of the rows; see `sweep`.
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
        """w_i . phi of any rows, float32 [N]; a domain without training rows has the prior's mean."""
        return self._weigh(columns, self.weights_DF, self.prior.mean_F, squared=False)

    def variance(self, columns: Columns) -> Tensor:
        """The variance of it, by the diagonal of the posterior alone, float32 [N]; else the prior's variance."""
        return self._weigh(columns, self.variances_DF, self.prior.tau_F.square(), squared=True)

    def _weigh(self, columns: Columns, values_DF: Tensor, otherwise_F: Tensor, squared: bool) -> Tensor:
        """phi, or its squares, of any rows times the values of their domains."""
        total_N = torch.empty(len(columns))
        for rows in torch.arange(len(columns)).split(max(1, BATCH_NUMBERS // len(self._design))):
            phi_MF = self._design.rows(columns, rows)
            domain_M = columns.ids["domain"][rows].long().cpu() - 1
            values_MF = otherwise_F
            if len(self.domains_D):
                place_M = torch.searchsorted(self.domains_D, domain_M).clamp(max=len(self.domains_D) - 1)
                known_M = self.domains_D[place_M] == domain_M
                values_MF = torch.where(known_M[:, None], values_DF[place_M], otherwise_F)
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
        by_size_D = by_size_D[counts_D[by_size_D] > 0]  # domains of a parent may have no rows now
        for first, last in _cut(counts_D[by_size_D], len(self._design)):
            places_G = by_size_D[first:last]
            within_M = np.arange(counts_D[places_G[-1]])
            real_GM = within_M < counts_D[places_G][:, None]
            rows_GM = np.where(real_GM, offsets[domains_D[places_G]][:, None] + within_M, 0)
            yield DomainBatch(torch.from_numpy(places_G), torch.from_numpy(rows_GM), torch.from_numpy(real_GM))

    def change_units(self, before: tuple[Tensor, Tensor]) -> None:
        """Express prior, modes and variances in the units that the design has now; a prior of each domain is dropped.

        Args:
            before: means and scales of phi that they are expressed in.
        """
        mean_F, scale_F = before
        known_F = self._design.scale_F > 0
        ratio_F = torch.where(known_F, scale_F / self._design.scale_F.where(known_F, torch.ones(())), 0)
        shift_F = scale_F * (self._design.mean_F - mean_F)  # the bias, which is first, has none
        self.own_prior_DF = None

        def changed(weights_F: Tensor) -> Tensor:
            made_F = weights_F * ratio_F
            made_F[..., 0] += (weights_F * shift_F).sum(-1)
            return made_F.float()

        self.weights_DF = changed(self.weights_DF)
        self.variances_DF = (self.variances_DF * ratio_F.square()).float()
        tau_F = torch.where(ratio_F > 0, self.prior.tau_F * ratio_F, self.prior.tau_F)
        self.prior = Prior(changed(self.prior.mean_F), tau_F.float().clamp_min(LEAST_TAU))

    def take_posterior_as_prior(self) -> None:
        """Make the present mode and variances of every domain its prior."""
        tau_DF = self.variances_DF.sqrt().clamp_min(LEAST_TAU)
        self.own_prior_DF = Prior(self.weights_DF.clone(), tau_DF)

    def state_dict(self) -> State:
        """The prior, and mode and variances of this rank's domains."""
        values = {"weights": self.weights_DF, "variances": self.variances_DF}
        if self.own_prior_DF:
            values |= {"prior_mean": self.own_prior_DF.mean_F, "prior_tau": self.own_prior_DF.tau_F}
        return State(
            same={"mean": self.prior.mean_F, "tau": self.prior.tau_F},
            domains={name: DomainRows(self.domains_D, values_DF) for name, values_DF in values.items()},
        )

    def load_state_dict(self, state: State) -> None:
        """Take over the prior, and mode and variances of the domains that are this rank's; others have the prior's.

        Raises:
            MamdrError: they are of another model.
        """
        like_F = self.prior.mean_F
        self.prior = Prior(*(state.tensor(state.same, name, like_F) for name in ("mean", "tau")))
        self.weights_DF = self.prior.mean_F.repeat(len(self.domains_D), 1)
        self.variances_DF = self.prior.tau_F.square().repeat(len(self.domains_D), 1)
        loaded = {"weights": self.weights_DF, "variances": self.variances_DF}
        if "prior_mean" in state.domains:
            self.take_posterior_as_prior()
            assert self.own_prior_DF
            loaded |= {"prior_mean": self.own_prior_DF.mean_F, "prior_tau": self.own_prior_DF.tau_F}
        for name, own_DF in loaded.items():
            saved = state.domain_rows(name, like_F)
            place_R = torch.searchsorted(self.domains_D, saved.domain_R)
            known_R = torch.isin(saved.domain_R, self.domains_D)
            own_DF[place_R[known_R]] = saved.values[known_R]


def _fitted(prior: Prior, sums_4F: Tensor, observed_FF: Tensor) -> Prior:
    """The prior that maximises the approximate marginal likelihood, by one step from `prior`.

    Args:
        prior: under which the posteriors were found.
        sums_4F: sums over domains, in the prior's units, of the modes a, of a^2, of o a and of o^2, where o = 1 less
            the posterior's variance: how much of an entry the rows of the domain determine.
        observed_FF: the sum over domains of I less the posterior's covariance.
    """
    sum_F, squares_F, observed_sum_F, observed_squares_F = sums_4F
    tau_F = prior.tau_F.double()
    ridge_FF = 1e-6 * observed_FF.diagonal().clamp_min(1e-6).diag()
    shift_F = torch.linalg.solve(observed_FF + ridge_FF, sum_F)
    # Under the new mean the modes are a - o m: what is left of them is the variance between domains.
    centred_F = squares_F - 2 * shift_F * observed_sum_F + observed_squares_F * shift_F.square()
    factor_F = variance_factor(centred_F.clamp_min(0), observed_FF.diagonal())
    mean_F = prior.mean_F.double() + tau_F * shift_F
    return Prior(mean_F.to(prior.mean_F), (tau_F * factor_F.sqrt()).clamp(LEAST_TAU, MOST_TAU).to(prior.tau_F))


def _cut(counts_D: NDArray[np.int64], features: int) -> Iterator[tuple[int, int]]:
    """First and last + 1 of neighbours that are padded to one size, from counts in ascending order.

    A batch has at most `BATCH_NUMBERS` numbers of phi, and as many of its Hessians, which have a side of F or, where
    that is fewer, of the rows.
    """
    first = 0
    real = np.concatenate([[0], counts_D.cumsum()])
    while first < len(counts_D):
        most = max(1, BATCH_NUMBERS // (features * int(counts_D[first])))
        widest = counts_D[first : first + most]
        size = np.arange(1, len(widest) + 1)
        rows = real[first + 1 : first + 1 + len(widest)] - real[first]
        fits = size * widest * features <= BATCH_NUMBERS
        fits &= size * widest <= PADDING * rows + PADDED_ROWS * size
        fits &= (widest < features) == (widest[0] < features)
        last = first + max(1, int(np.argmin(fits)) if not fits.all() else len(fits))
        yield first, last
        first = last


def _in_threads(task: Callable[[DomainBatch], T], batches: Iterator[DomainBatch], threads: int) -> Iterator[T]:
    """Results in order, some batches at a time; each batch on one thread, since small products gain nothing by two."""
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
