"""Random effects of ids: one number for each user, item, or user within a domain, by empirical Bayes.

Shape suffixes: N rows, U distinct keys that this rank's rows have, K keys whose values this rank holds.
"""

import torch
from torch import Tensor

from mamdr_core.engine.columns import Columns
from mamdr_core.errors import MamdrError
from mamdr_core.mixed.newton import variance_factor
from mamdr_core.mixed.settings import Effect
from mamdr_core.parallel.collective import Collective, SingleProcess
from mamdr_core.parallel.sharded import by_owner
from mamdr_core.stateful import DomainRows, State

LARGEST_STEP = 2.0
"""Largest change of an effect in a sweep, in logits."""
LEAST_VARIANCE = 1e-6
"""Smallest variance: effects are then 0 as far as matters."""


class RandomIntercepts:
    """b_k ~ N(0, variance) for every key k, fitted with the logits of everything else fixed.

    A row of the unknown id has effect 0. Effects of users and items are sharded as embedding tables are: rank r holds
    keys r, r + W, ... of W ranks, and rows' sums travel to the owners and effects back. A user in a domain belongs to
    the rank that has the domain.

    Args:
        name: user, item or user_in_domain.
        size: number of keys: ids of the vocabulary and the unknown id; for user_in_domain, ids of users.
        collective: the ranks.
        variance: before the first sweep.

    Attributes:
        size: number of keys, see above.
        variance: of the effects, learned; the same on all ranks.
        keys_K: for user_in_domain, the keys domain * size + user that are held, ascending; else nothing.
        values_K, variances_K: effects and their posterior variances, float32.
    """

    def __init__(self, name: Effect, size: int, collective: Collective, variance: float) -> None:
        self.name, self.variance = name, variance
        self.size = size
        self._collective = collective
        self._is_pair = name == "user_in_domain"
        held = 0 if self._is_pair else len(range(collective.rank, size, collective.size))
        self.keys_K = torch.zeros(0, dtype=torch.long)
        self.values_K = torch.zeros(held)
        self.variances_K = torch.full((held,), variance)
        self._prior_mean_K = torch.zeros(())
        self._prior_precision_K: Tensor | None = None
        self._prepared: tuple[Tensor, Tensor, _Exchange] | None = None

    def prepare(self, columns: Columns, posterior_is_prior: bool = False) -> None:
        """Find the keys of the training rows, before sweeps; every rank takes part.

        An inherited effect of a user within a domain is dropped if the domain has rows and none is of this user.

        Args:
            columns: this rank's training rows.
            posterior_is_prior: whether the effects and variances that are held are the prior; nothing is forgotten.
        """
        keys_U, place_N = self._keys_of(columns).unique(return_inverse=True)
        if self._is_pair:
            stays_K = torch.ones_like(self.keys_K, dtype=torch.bool)
            if not posterior_is_prior:
                stays_K = ~torch.isin(self.keys_K // self.size, (columns.counts > 0).nonzero().squeeze(1) + 1)
            keys_K = torch.cat([self.keys_K[stays_K], keys_U]).unique()
            known_K, values_K = self._find(keys_K)
            variances_K = torch.where(known_K, self._find(keys_K, self.variances_K)[1], self.variance)
            self.keys_K, self.values_K, self.variances_K = keys_K, torch.where(known_K, values_K, 0), variances_K
        if posterior_is_prior:
            self._prior_mean_K = self.values_K.double()
            self._prior_precision_K = 1 / self.variances_K.double().clamp_min(LEAST_VARIANCE)
        self._prepared = keys_U, place_N, self._exchange(keys_U)

    def sweep(self, residual_N: Tensor, curvature_N: Tensor, learns_variance: bool = True) -> Tensor:
        """One Newton step of every effect, then the variance; every rank takes part.

        Args:
            residual_N: label less probability of the training rows, at all effects as they are, float64.
            curvature_N: p (1 - p), float64.
            learns_variance: whether to fit the variance too.

        Returns:
            By how much the rows' logits have moved, float64 [N].
        """
        assert self._prepared, "prepare comes first"
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
        # Inherited effects of users within domains that have no rows now stay; those of users and items fade to 0.
        fitted_K = rows_K > 0 if self._is_pair else torch.ones_like(rows_K, dtype=torch.bool)
        values_K = torch.where(fitted_K, before_K + step_K.clamp(-LARGEST_STEP, LARGEST_STEP), before_K)
        self.values_K = values_K.float()
        self.variances_K = torch.where(fitted_K, 1 / (curvature_K + precision_K), self.variances_K.double()).float()
        if learns_variance and self._prior_precision_K is None:
            self._fit_variance(rows_K > 0)
        moved_K = self.values_K.double() - before_K
        return exchange.read(moved_K)[place_N]

    def predict(self, columns: Columns) -> tuple[Tensor, Tensor]:
        """Effects of any rows and their variances, float32 [N]; every rank takes part.

        An id without training rows has effect 0 and the variance of all.
        """
        keys_U, place_N = self._keys_of(columns).unique(return_inverse=True)
        if self._is_pair:
            known_U, values_U = self._find(keys_U)
            values_U = torch.where(known_U, values_U, 0)
            variances_U = torch.where(known_U, self._find(keys_U, self.variances_K)[1], self.variance)
        else:
            exchange = self._exchange(keys_U)
            values_U, variances_U = exchange.read(self.values_K), exchange.read(self.variances_K)
        return values_U[place_N], variances_U[place_N]

    def is_known(self, columns: Columns) -> Tensor:
        """Whether rows have an effect to learn: not those of the unknown id, bool [N]."""
        return self._keys_of(columns) % self.size != 0

    def _fit_variance(self, has_rows_K: Tensor) -> None:
        """MacKay's update of the variance, over the keys that have rows; see `DomainWeights`."""
        squares = self.values_K.double().square()[has_rows_K].sum()
        observed = (1 - self.variances_K.double() / self.variance)[has_rows_K].sum()
        squares, observed = self._collective.all_reduce(torch.stack([squares, observed]))
        self.variance = max(LEAST_VARIANCE, self.variance * float(variance_factor(squares / self.variance, observed)))

    def _keys_of(self, columns: Columns) -> Tensor:
        ids = {name: columns.ids[name].long().cpu() for name in ("user", "item", "domain")}
        return ids["domain"] * self.size + ids["user"] if self._is_pair else ids[self.name]

    def _find(self, keys_U: Tensor, values_K: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Whether keys are held, and their values where they are."""
        values_K = self.values_K if values_K is None else values_K
        if not len(self.keys_K):
            return torch.zeros_like(keys_U, dtype=torch.bool), torch.zeros(len(keys_U))
        place_U = torch.searchsorted(self.keys_K, keys_U).clamp(max=len(self.keys_K) - 1)
        return self.keys_K[place_U] == keys_U, values_K[place_U]

    def _exchange(self, keys_U: Tensor) -> "_Exchange":
        if self._is_pair:
            return _Exchange(torch.searchsorted(self.keys_K, keys_U), SingleProcess())
        return _Exchange(keys_U, self._collective)

    def state_dict(self) -> State:
        """The variance, and the effects that are held."""
        same = {"variance": torch.tensor(self.variance, dtype=torch.float64)}
        if not self._is_pair:
            return State(same=same, rows={"effects": torch.stack([self.values_K, self.variances_K], 1)})
        domain_K, user_K = self.keys_K // self.size - 1, self.keys_K % self.size
        values = {"user": user_K, "value": self.values_K, "variance": self.variances_K}
        return State(same=same, domains={name: DomainRows(domain_K, values_K) for name, values_K in values.items()})

    def load_state_dict(self, state: State) -> None:
        """Take over the variance, and the effects that this rank holds.

        Raises:
            MamdrError: they are of another model, or do not fit together.
        """
        self.variance = float(state.tensor(state.same, "variance", torch.tensor(0.0, dtype=torch.float64)))
        if not self._is_pair:
            like_K2 = torch.stack([self.values_K, self.variances_K], 1)
            like_K2[:, 1] = self.variance
            self.values_K, self.variances_K = _grown(state, like_K2).unbind(1)
            return
        user = state.domain_rows("user", torch.zeros((), dtype=torch.long))
        keys_K, order_K = ((user.domain_R + 1) * self.size + user.values).sort()
        self.keys_K = keys_K
        saved = [state.domain_rows(name, torch.zeros(())).values for name in ("value", "variance")]
        if any(len(values) != len(keys_K) for values in saved):
            raise MamdrError(f"the saved state is damaged: its {state.name}value and variance are not of as many users")
        self.values_K, self.variances_K = (values[order_K] for values in saved)


def _grown(state: State, like_K2: Tensor) -> Tensor:
    """Effects and variances of a vocabulary that may have grown since: the first keys' those of the state.

    Raises:
        MamdrError: they are of another model.
    """
    held = state.rows["effects"].shape[0] if "effects" in state.rows else 0
    like_K2[:held] = state.tensor(state.rows, "effects", like_K2[:held])
    return like_K2


class _Exchange:
    """Sums of distinct keys to the ranks that own them, and values back; made once for as many exchanges as needed.

    Args:
        keys_U: of this rank's rows, distinct; rank k mod W owns key k, at place k // W.
        collective: the W ranks, which all make one at the same time.
    """

    def __init__(self, keys_U: Tensor, collective: Collective) -> None:
        self._collective = collective
        self._order_U, self._counts = by_owner(keys_U, collective.size)
        asked, self._asked_counts = collective.all_to_all(keys_U[self._order_U], self._counts)
        self._places = asked // collective.size

    def sum_at_owner(self, values_UC: Tensor, size: int) -> Tensor:
        """Sums over ranks of values by key, [size, C], of the keys that this rank owns."""
        received, _ = self._collective.all_to_all(values_UC[self._order_U], self._counts)
        return values_UC.new_zeros(size, values_UC.shape[1]).index_add_(0, self._places, received)

    def read(self, values_K: Tensor) -> Tensor:
        """Values of this rank's keys [U] from their owners."""
        received, _ = self._collective.all_to_all(values_K[self._places], self._asked_counts)
        values_U = torch.empty_like(received)
        values_U[self._order_U] = received
        return values_U
