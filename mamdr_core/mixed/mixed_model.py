"""The mixed-effects model: specific parameters of domains and random effects of ids, fitted alternately.

A generalised linear mixed model as in GLMix (Zhang et al., KDD 2016), with variances learned by empirical Bayes. Shape
suffixes: N rows, F entries of phi, V variances.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mamdr_core.config.mixed import MixedSettings
from mamdr_core.engine.columns import Columns, FrozenTables
from mamdr_core.engine.threads import one_thread
from mamdr_core.mixed.design import Design
from mamdr_core.mixed.domain_weights import DomainWeights
from mamdr_core.mixed.intercepts import RandomIntercepts
from mamdr_core.models.tables import Table
from mamdr_core.parallel.collective import Collective, SingleProcess
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.stateful import State

logger = logging.getLogger(__name__)

FIRST_STEPS = 5
"""Newton steps of the first sweep; later sweeps make one step, from the previous result."""
LOGIT_TOLERANCE = 0.01
"""Largest mean change of the logits in the last sweep."""
MOST_LEVERAGE = 0.9
"""Leverages of rows are limited to this value, above which the approximation of leaving a row out is inaccurate."""


class MixedModel:
    """logit = w_i . phi(x) + sum of random effects.

    Args:
        settings: settings of the model.
        tables, frozen, numeric: the network's tables, fixed vectors and number of numeric features; see `Design`.
        sizes: vocabulary size by id column.
        domains: indices of this rank's domains with training rows, ascending.
        collective: the ranks.

    Attributes:
        design: computes phi.
        weights: w_i of this rank's domains.
        effects: this rank's part of the random effects.
    """

    def __init__(
        self,
        settings: MixedSettings,
        tables: Sequence[Table],
        frozen: FrozenTables,
        numeric: int,
        sizes: Mapping[str, int],
        domains: Sequence[int],
        collective: Collective,
    ) -> None:
        self._settings, self._collective = settings, collective
        self._inherited = False
        self.design = Design(tables, frozen, numeric, settings.factors if settings.products else 0)
        self.weights = DomainWeights(self.design, domains, settings.variance)
        self.effects = [
            RandomIntercepts(name, sizes["item" if name == "item" else "user"] + 1, collective, settings.variance)
            for name in settings.effects
        ]

    @classmethod
    def from_state(
        cls,
        settings: MixedSettings,
        tables: Sequence[Table],
        frozen: FrozenTables,
        numeric: int,
        sizes: Mapping[str, int],
        state: State,
    ) -> "MixedModel":
        """A fitted model in one process, with all domains of its state.

        Raises:
            MamdrError: the state belongs to another model.
        """
        domains = state.part("weights").domains_of("weights")
        if domains and not 0 <= domains[0] <= domains[-1] < sizes["domain"]:
            raise MamdrError(f"the mixed model is damaged: it has a domain beyond {sizes['domain']}")
        model = cls(settings, tables, frozen, numeric, sizes, domains, SingleProcess())
        model.load_state_dict(state)
        return model

    @one_thread()
    def fit(self, train: Columns) -> int:
        """Fit all parameters by EM, starting from the current ones; a collective call.

        A sweep fits w_i with the effects fixed, then each kind of effect with all other parts fixed. Each fit is
        followed by an update of the variances.

        Args:
            train: this rank's training rows.

        Returns:
            Number of sweeps.
        """
        posterior_is_prior = self._inherited and self._settings.prior == "parent"
        if posterior_is_prior:
            self.weights.use_posterior_as_prior()
        else:
            before = self.design.mean_F, self.design.scale_F
            if not self._inherited:  # inherited weights belong to the parent's products
                self.design.learn_products(train, self._collective)
            self.design.standardise(train, self._collective)
            if self._inherited:  # initial values are in standardised units already
                self.weights.change_units(before)
        for effect in self.effects:
            effect.prepare(train, posterior_is_prior)
        weight_N = self._weights(train)
        logits_N = effects_N = self._effects(train)[0].double()
        for number in range(1, self._settings.sweeps + 1):
            before_V, before_N = self._deviations(), logits_N
            steps = FIRST_STEPS if number == 1 else 1
            logits_N, effects_N = self._sweep(train, weight_N, effects_N, self.effects, steps)
            change = float((self._deviations() - before_V).abs().max())
            logit_change = self._mean((logits_N - before_N).abs())
            if self._collective.rank == 0:
                named = ", ".join(f"{effect.name} {effect.variance:.3g}" for effect in self.effects)
                logger.info("mixed model, sweep %d: variances %s; deviations changed by %.3f", number, named, change)
            if change <= self._settings.tolerance and logit_change <= LOGIT_TOLERANCE:
                break
        # Fit w_i under the prior of the last sweep.
        self.weights.sweep(train, effects_N.float(), self._collective, learns_prior=False, weight_N=weight_N)
        return number

    @one_thread()
    def refit(self, train: Columns) -> None:
        """Fit w_i, and effects of users within the domain, of some domains; other parameters and priors are unchanged.

        Args:
            train: rows of these domains only.
        """
        pairs = [effect for effect in self.effects if effect.name == "user_in_domain"]
        for effect in pairs:
            effect.prepare(train)
        weight_N = self._weights(train)
        logits_N = effects_N = self._effects(train)[0].double()
        for _ in range(self._settings.sweeps):
            before_N = logits_N
            logits_N, effects_N = self._sweep(train, weight_N, effects_N, pairs, FIRST_STEPS, learns=False)
            if self._mean((logits_N - before_N).abs()) <= LOGIT_TOLERANCE:
                break
        self.weights.sweep(train, effects_N.float(), self._collective, learns_prior=False, weight_N=weight_N)

    def _sweep(
        self,
        train: Columns,
        weight_N: Tensor | None,
        effects_N: Tensor,
        effects: Sequence[RandomIntercepts],
        steps: int,
        learns: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Fit w_i, then each kind of effect; returns the logits of the rows and the effects' part, float64 [N].

        Args:
            train, weight_N: training rows and their weights, see `_weights`.
            effects_N: the effects' part before the sweep, float64.
            effects: the kinds of effects to fit.
            steps: number of Newton steps for w_i.
            learns: whether priors and variances are learned too.
        """
        own_N = self.weights.sweep(train, effects_N.float(), self._collective, steps, learns, weight_N)
        logits_N, labels_N = effects_N + own_N.double(), train.labels.cpu().double()
        for effect in effects:
            probability_N = logits_N.sigmoid()
            residual_N, curvature_N = labels_N - probability_N, probability_N * (1 - probability_N)
            if weight_N is not None:
                residual_N, curvature_N = weight_N * residual_N, weight_N * curvature_N
            change_N = effect.sweep(residual_N, curvature_N, learns)
            logits_N, effects_N = logits_N + change_N, effects_N + change_N
        return logits_N, effects_N

    def _weights(self, train: Columns) -> Tensor | None:
        """Sample weights scaled to 1 on average over all ranks, float64 [N]; None if there are none.

        With this scaling the amount of evidence depends only on the number of rows. A collective call.
        """
        if train.weights is None:
            return None
        weight_N = train.weights.cpu().double()
        sums = torch.tensor([float(weight_N.sum()), float(len(weight_N))], dtype=torch.float64)
        total, rows = self._collective.all_reduce(sums).tolist()
        return weight_N * (rows / total) if total else weight_N

    @one_thread()
    def leave_one_out(self, train: Columns) -> Tensor:
        """Logits of the training rows, each approximating a fit without the row, float32 [N]; a collective call.

        They are z + l (p - y) / (1 - l p (1 - p)), a Newton step that removes the row, where l is the posterior
        variance of the row's logit times the row's weight. A network trained on top of the plain logits would overfit,
        because these were fitted to the same rows.
        """
        effects_N, variances_N = self._effects(train, only_learned=True)
        weight_N = self._weights(train)
        own_N, leverages_N = self.weights.leverages(train, effects_N, weight_N)
        logits_N, variance_N = (effects_N + own_N).double(), (variances_N + leverages_N).double()
        probability_N = logits_N.sigmoid()
        if weight_N is not None:
            variance_N *= weight_N
        share_N = (variance_N * probability_N * (1 - probability_N)).clamp_max(MOST_LEVERAGE)
        return (logits_N + variance_N * (probability_N - train.labels.cpu().double()) / (1 - share_N)).float()

    @one_thread()
    def predict(self, columns: Columns) -> Tensor:
        """Logits of any rows, float32 [N]; a collective call."""
        return self.weights.predict(columns) + self._effects(columns)[0]

    @one_thread()
    def variance(self, columns: Columns) -> Tensor:
        """Variance of the logits of any rows, without covariances, float32 [N]; a collective call."""
        return self.weights.variance(columns) + self._effects(columns)[1]

    def with_base_logits(self, columns: Columns) -> Columns:
        """Columns whose base logits are this model's predictions."""
        return replace(columns, base_logits=self.predict(columns).to(columns.labels.device))

    def with_left_out_logits(self, train: Columns) -> Columns:
        """Training columns whose base logits are this model's leave-one-out predictions."""
        return replace(train, base_logits=self.leave_one_out(train).to(train.labels.device))

    def variances(self) -> dict[str, float]:
        """Learned variances by name, of every entry of w_i (`w.` and its name in `Design.names`) and kind of effect."""
        tau_F = self.weights.prior.tau_F.double()
        of_weights = {f"w.{name}": tau**2 for name, tau in zip(self.design.names, tau_F.tolist(), strict=True)}
        return of_weights | {effect.name: effect.variance for effect in self.effects}

    @property
    def nbytes(self) -> int:
        """Size of this rank's parameters in bytes, posterior variances included."""
        tensors = [self.weights.weights_DF, self.weights.variances_DF]
        tensors += [each for effect in self.effects for each in (effect.keys_K, effect.values_K, effect.variances_K)]
        return sum(tensor.nbytes for tensor in tensors)

    def _effects(self, columns: Columns, only_learned: bool = False) -> tuple[Tensor, Tensor]:
        """Sums over effects of values and of variances, float32 [N].

        Args:
            columns: any rows.
            only_learned: leave out the variances for rows of the unknown id, whose effect is not fitted.
        """
        total_N, variance_N = torch.zeros(len(columns)), torch.zeros(len(columns))
        for effect in self.effects:
            values_N, variances_N = effect.predict(columns)
            if only_learned:
                variances_N = torch.where(effect.is_known(columns), variances_N, 0)
            total_N, variance_N = total_N + values_N, variance_N + variances_N
        return total_N, variance_N

    def _mean(self, values_N: Tensor) -> float:
        """Mean over the rows of all ranks."""
        sums = torch.tensor([float(values_N.sum()), float(len(values_N))], dtype=torch.float64)
        total, rows = self._collective.all_reduce(sums).tolist()
        return float(total) / max(float(rows), 1.0)

    def _deviations(self) -> Tensor:
        """Standard deviations of all priors, in logits."""
        tau_F = self.weights.prior.tau_F[self.design.scale_F > 0].double()
        return torch.cat([tau_F, torch.tensor([effect.variance for effect in self.effects]).sqrt()])

    def state_dict(self) -> State:
        """State of the design, the weights and the effects."""
        parts = {"design": self.design.state_dict(), "weights": self.weights.state_dict()}
        return State.join(parts | {effect.name: effect.state_dict() for effect in self.effects})

    def inherit(self, state: State) -> None:
        """Start from the posterior of another run; kinds of effects that it does not have start from zero.

        Raises:
            MamdrError: the state belongs to another model.
        """
        self._inherited = True
        self._load(state, [effect for effect in self.effects if not state.part(effect.name).is_empty()])

    def load_state_dict(self, state: State) -> None:
        """Load the state of the design, the weights and the effects."""
        self._load(state, self.effects)

    def _load(self, state: State, effects: Sequence[RandomIntercepts]) -> None:
        self.design.load_state_dict(state.part("design"))
        self.weights.load_state_dict(state.part("weights"))
        for effect in effects:
            effect.load_state_dict(state.part(effect.name))
