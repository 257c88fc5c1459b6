"""Random effects of ids: one value for each user, item, or user within a domain, by empirical Bayes.

Shape suffixes: N rows, U distinct keys of this rank's rows, K keys whose values this rank stores, C values of a key.
"""

import torch
from torch import Tensor

from mamdr_core.config.mixed import Effect
from mamdr_core.engine.columns import Columns
from mamdr_core.engine.striping import Stripe
from mamdr_core.mixed.newton import variance_factor
from mamdr_core.parallel.collective import Collective, SingleProcess
from mamdr_core.parallel.owner_exchange import OwnerExchange
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.stateful import DomainRows, State

LARGEST_STEP = 2.0
"""Largest change of an effect in a sweep, in logits."""
LEAST_VARIANCE = 1e-6
"""Smallest variance, with which effects are practically 0."""


class RandomIntercepts:
    """b_k ~ N(0, variance) for every key k, fitted with the other parts of the logits fixed.

    A row of the unknown id has effect 0. Effects of users and items are sharded like embedding tables: rank r stores
    keys r, r + W, ... of W ranks, receives sums over other ranks' rows, and sends effects back. The rank of a domain
    stores the effects of users within it.

    Args:
        name: user, item or user_in_domain.
        size: number of keys: ids of the vocabulary and the unknown id; for user_in_domain, ids of users.
        collective: the ranks.
        variance: initial variance.

    Attributes:
        size: the argument `size`.
        variance: learned variance of the effects, equal on all ranks.
        keys_K: for user_in_domain, the stored keys domain * size + user, ascending; else empty.
        values_K, variances_K: effects and their posterior variances, float32.
    """

    def __init__(self, name: Effect, size: int, collective: Collective, variance: float) -> None:
        self.name, self.variance = name, variance
        self.size = size
        self._collective = collective
        self._is_pair = name == "user_in_domain"
        count = 0 if self._is_pair else Stripe(collective.rank, collective.size).count(size)
        self.keys_K = torch.zeros(0, dtype=torch.long)
        self.values_K = torch.zeros(count)
        self.variances_K = torch.full((count,), variance)
        self._prior_mean_K = torch.zeros(())
        self._prior_precision_K: Tensor | None = None
        self._prepared: tuple[Tensor, Tensor, OwnerExchange] | None = None

    def prepare(self, columns: Columns, posterior_is_prior: bool = False) -> None:
        """Find the keys of the training rows before sweeps; a collective call.

        An inherited effect of a user within a domain is dropped if the domain has rows but none of this user.

        Args:
            columns: this rank's training rows.
            posterior_is_prior: whether the current effects and variances are the prior; then none is dropped.
        """
        keys_U, place_N = self._keys_of(columns).unique(return_inverse=True)
        if self._is_pair:
            kept_K = torch.ones_like(self.keys_K, dtype=torch.bool)
            if not posterior_is_prior:
                kept_K = ~torch.isin(self.keys_K // self.size, (columns.counts > 0).nonzero().squeeze(1) + 1)
            keys_K = torch.cat([self.keys_K[kept_K], keys_U]).unique()
            self.values_K, self.variances_K = self._stored(keys_K)
            self.keys_K = keys_K
        if posterior_is_prior:
            self._prior_mean_K = self.values_K.double()
            self._prior_precision_K = 1 / self.variances_K.double().clamp_min(LEAST_VARIANCE)
        self._prepared = keys_U, place_N, self._exchange(keys_U)

    def sweep(self, residual_N: Tensor, curvature_N: Tensor, learns_variance: bool = True) -> Tensor:
        """Make one Newton step of every effect, then fit the variance; a collective call.

        Args:
            residual_N: label minus probability of the training rows, with the current effects, float64.
            curvature_N: p (1 - p), float64.
            learns_variance: whether to fit the variance too.

        Returns:
            The changes of the rows' logits, float64 [N].
        """
        assert self._prepared, "call prepare first"
        keys_U, place_N, exchange = self._prepared
        sums = [torch.bincount(place_N, weights, minlength=len(keys_U)) for weights in (residual_N, curvature_N)]
        known_U = (keys_U % self.size != 0).double()
        sums_U3 = torch.stack([sums[0] * known_U, sums[1] * known_U, known_U], 1)
        slope_K, curvature_K, rows_K = exchange.sum_at_owner(sums_U3, len(self.values_K)).unbind(1)
        before_K = self.values_K.double()
        precision_K = self._prior_precision_K
        if precision_K is None:
            precision_K = torch.full_like(before_K, 1 / self.variance)
        step_K = (slope_K - (before_K - self._prior_mean_K) * precision_K) / (curvature_K + precision_K)
        # Without rows, inherited effects of users within a domain are unchanged; those of users and items move to 0.
        fitted_K = rows_K > 0 if self._is_pair else torch.ones_like(rows_K, dtype=torch.bool)
        values_K = torch.where(fitted_K, before_K + step_K.clamp(-LARGEST_STEP, LARGEST_STEP), before_K)
        self.values_K = values_K.float()
        self.variances_K = torch.where(fitted_K, 1 / (curvature_K + precision_K), self.variances_K.double()).float()
        if learns_variance and self._prior_precision_K is None:
            self._fit_variance(rows_K > 0)
        change_K = self.values_K.double() - before_K
        return exchange.read(change_K)[place_N]

    def predict(self, columns: Columns) -> tuple[Tensor, Tensor]:
        """Effects of any rows and their variances, float32 [N]; a collective call.

        An id without training rows has effect 0 and the variance of the prior.
        """
        keys_U, place_N = self._keys_of(columns).unique(return_inverse=True)
        if self._is_pair:
            values_U, variances_U = self._stored(keys_U)
        else:
            exchange = self._exchange(keys_U)
            values_U, variances_U = exchange.read(self.values_K), exchange.read(self.variances_K)
        return values_U[place_N], variances_U[place_N]

    def is_known(self, columns: Columns) -> Tensor:
        """Whether the rows' ids are known, so that they have an effect, bool [N]."""
        return self._keys_of(columns) % self.size != 0

    def _fit_variance(self, has_rows_K: Tensor) -> None:
        """MacKay's update of the variance, over the keys with rows; see `DomainWeights`."""
        squares = self.values_K.double().square()[has_rows_K].sum()
        observed = (1 - self.variances_K.double() / self.variance)[has_rows_K].sum()
        squares, observed = self._collective.all_reduce(torch.stack([squares, observed]))
        self.variance = max(LEAST_VARIANCE, self.variance * float(variance_factor(squares / self.variance, observed)))

    def _keys_of(self, columns: Columns) -> Tensor:
        ids = {name: columns.ids[name].long().cpu() for name in ("user", "item", "domain")}
        return ids["domain"] * self.size + ids["user"] if self._is_pair else ids[self.name]

    def _stored(self, keys_U: Tensor) -> tuple[Tensor, Tensor]:
        """Effects of keys and their variances; 0 and the variance of the prior for keys that are not stored."""
        if not len(self.keys_K):
            return torch.zeros(len(keys_U)), torch.full((len(keys_U),), self.variance)
        place_U = torch.searchsorted(self.keys_K, keys_U).clamp(max=len(self.keys_K) - 1)
        known_U = self.keys_K[place_U] == keys_U
        values_U, variances_U = self.values_K[place_U], self.variances_K[place_U]
        return torch.where(known_U, values_U, 0), torch.where(known_U, variances_U, self.variance)

    def _exchange(self, keys_U: Tensor) -> OwnerExchange:
        if self._is_pair:
            return OwnerExchange(torch.searchsorted(self.keys_K, keys_U), SingleProcess())
        return OwnerExchange(keys_U, self._collective)

    def state_dict(self) -> State:
        """The variance, and the stored effects."""
        same = {"variance": torch.tensor(self.variance, dtype=torch.float64)}
        if not self._is_pair:
            return State(same=same, rows={"effects": torch.stack([self.values_K, self.variances_K], 1)})
        domain_K, user_K = self.keys_K // self.size - 1, self.keys_K % self.size
        values = {"user": user_K, "value": self.values_K, "variance": self.variances_K}
        return State(same=same, domains={name: DomainRows(domain_K, values_K) for name, values_K in values.items()})

    def load_state_dict(self, state: State) -> None:
        """Load the variance, and the effects that this rank stores.

        Raises:
            MamdrError: the state belongs to another model, or its parts have different lengths.
        """
        self.variance = float(state.tensor(state.same, "variance", torch.tensor(0.0, dtype=torch.float64)))
        if not self._is_pair:
            like_K2 = torch.stack([self.values_K, self.variances_K], 1)
            like_K2[:, 1] = self.variance
            self.values_K, self.variances_K = _load_rows(state, like_K2).unbind(1)
            return
        user = state.domain_rows("user", torch.zeros((), dtype=torch.long))
        keys_K, order_K = ((user.domain_R + 1) * self.size + user.values).sort()
        self.keys_K = keys_K
        saved = [state.domain_rows(name, torch.zeros(())).values for name in ("value", "variance")]
        if any(len(values) != len(keys_K) for values in saved):
            raise MamdrError(
                f"the saved state is damaged: its {state.name}value and variance have another length than its users"
            )
        self.values_K, self.variances_K = (values[order_K] for values in saved)


def _load_rows(state: State, like_K2: Tensor) -> Tensor:
    """Effects and variances of a vocabulary that may have grown: saved ones for the first keys, `like_K2` for others.

    Raises:
        MamdrError: the state belongs to another model.
    """
    count = state.rows["effects"].shape[0] if "effects" in state.rows else 0
    like_K2[:count] = state.tensor(state.rows, "effects", like_K2[:count])
    return like_K2
