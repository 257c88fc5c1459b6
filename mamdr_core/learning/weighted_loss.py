"""Losses of domains weighted by learned uncertainties (Kendall et al. 2018, the paper's [16]).

Shape suffixes: n domains, R domains with a state.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mamdr_core.engine.columns import Visit
from mamdr_core.engine.optimizers import AdamMoments, adam_change
from mamdr_core.engine.parameters import Change, Theta
from mamdr_core.engine.stacked_changes import ChangeSum
from mamdr_core.learning.combined_steps import CombinedSteps
from mamdr_core.learning.learner import Learner
from mamdr_core.learning.method import JOINT_LR, Method
from mamdr_core.runtime.stateful import DomainRows, State


class Uncertainty:
    """s_i = log sigma_i^2 of every domain, updated by Adam in the steps with rows of the domain.

    Args:
        values_n: initial values.

    Attributes:
        values_n: current values.
        moments: Adam's moments.
        counts_n: number of steps of each domain so far.
    """

    def __init__(self, values_n: Tensor) -> None:
        self.values_n = values_n
        self.moments = AdamMoments.zeros_like(values_n)
        self.counts_n = torch.zeros(len(values_n), dtype=torch.long)

    def step(self, domain: int, gradient: float, lr: float) -> None:
        """Make a step of Adam on s_i of a domain."""
        self.counts_n[domain] += 1
        own = slice(domain, domain + 1)
        first, second = self.moments.first[own], self.moments.second[own]
        along = torch.full_like(first, gradient)
        self.values_n[own] -= adam_change(along, first, second, int(self.counts_n[domain]), lr)

    def state_dict(self) -> State:
        """Values, moments and counts of the domains with at least one step, all of them domains of this rank."""
        domain_R = self.counts_n.nonzero().squeeze(1)
        values = {name: tensor_n[domain_R.to(tensor_n.device)] for name, tensor_n in self._tensors().items()}
        return State(domains={name: DomainRows(domain_R, values_R) for name, values_R in values.items()})

    def load_state_dict(self, state: State) -> None:
        """Load values, moments and counts of this rank's domains."""
        for name, tensor_n in self._tensors().items():
            saved = state.domain_rows(name, tensor_n.new_zeros(()))
            tensor_n[saved.domain_R.to(tensor_n.device)] = saved.values

    def _tensors(self) -> dict[str, Tensor]:
        return {"values": self.values_n, "counts": self.counts_n, **self.moments.named()}


class WeightedLoss(CombinedSteps):
    """Minimises the mean over a step's domains of exp(-s_i) L_i + s_i / 2, with s_i trained together with theta_S.

    Kendall et al. 2018, eq. 10 with the factor for classification.

    Args:
        learner: the learner with theta_S.

    Attributes:
        uncertainty: the s_i.
    """

    def __init__(self, learner: Learner) -> None:
        super().__init__(learner)
        self.uncertainty = Uncertainty(torch.zeros(len(learner.train.offsets) - 1).to(learner.shared.dense))

    def direction(self, theta: Theta, visits: Sequence[Visit], seeds: Sequence[int]) -> Change:
        """The weighted mean of gradients; also updates the s_i of the step's domains."""
        learner, total = self.learner, ChangeSum()
        for visit, seed in zip(visits, seeds, strict=True):
            loss, gradient = learner.engine.loss_and_gradient(theta, visit, seed)
            domain = int(visit.ids("domain")[0]) - 1
            weight = math.exp(-float(self.uncertainty.values_n[domain]))
            if math.isfinite(loss) and visit.total_weight:  # not if the engine skips the step, or all weights are 0
                self.uncertainty.step(domain, 0.5 - weight * loss, learner.settings.alpha)
            total.add(gradient, weight / len(visits))
        return total.total()

    def state_dict(self) -> State:
        """State of the inner optimizer and of the uncertainties."""
        return State.join({"inner": self.inner.state_dict(), "uncertainty": self.uncertainty.state_dict()})

    def load_state_dict(self, state: State) -> None:
        """Load the state of the inner optimizer and of the uncertainties."""
        super().load_state_dict(state)
        self.uncertainty.load_state_dict(state.part("uncertainty"))


METHOD = Method(WeightedLoss, lr=JOINT_LR, combines_gradients=True)
