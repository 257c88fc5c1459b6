"""The learning methods by name: how theta_S moves in a round, and how theta_i does. MAMDR is one line here (Alg. 3)."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from mamdr_core.engine.settings import InnerSettings
from mamdr_core.learning.gradients import adapt_quickly, generalize, project_conflicts, weigh_losses
from mamdr_core.learning.learner import Learner, Round
from mamdr_core.learning.settings import DRSettings
from mamdr_core.learning.shared import alternate, joint, negotiate, reptile
from mamdr_core.learning.specific import regularize


@dataclass(frozen=True)
class Method:
    """A learning method.

    Attributes:
        move_shared: what a round does to theta_S; None: it keeps its initial values.
        move_specific: what a round, or a pass once theta_S has settled, does to every theta_i; None: there is none.
        dr: the settings of DR that the method is, from those that are set and the inner rate alpha.
        lr: inner learning rate alpha where none is set.
        combines_gradients: whether its steps combine gradients: by the eager engine, on whole embedding tables.
    """

    move_shared: Callable[[Learner, Round], None] | None
    move_specific: Callable[[Learner, Round], None] | None = None
    dr: Callable[[DRSettings, float], DRSettings] = lambda dr, alpha: dr
    lr: float = 3e-4
    combines_gradients: bool = False


MIXED_LR = 1e-3
"""Inner rate of steps that mix domains, the paper's; domain-pure steps are smaller and more."""


def _alone(dr: DRSettings, alpha: float) -> DRSettings:
    """theta_i, embeddings included, learns on T^i by itself; Adam's moments are fresh in each pass."""
    return replace(dr, k=0, gamma=1.0, rows="touched", lr=alpha, schedule="settled", every=1)


def _afterwards(dr: DRSettings, alpha: float) -> DRSettings:
    """theta_i learns on T^i by itself once theta_S is trained; a pass moves it as far as k moves by gamma would."""
    gamma = 1 - (1 - dr.gamma) ** max(dr.k, 1)
    return replace(dr, k=0, gamma=gamma, schedule="settled", every=1)


METHODS = {
    "joint": Method(joint, lr=MIXED_LR),
    "alternate": Method(alternate),
    "separate": Method(None, regularize, dr=_alone, lr=MIXED_LR),
    "weighted": Method(weigh_losses, lr=MIXED_LR, combines_gradients=True),
    "pcgrad": Method(project_conflicts, lr=MIXED_LR, combines_gradients=True),
    "maml": Method(adapt_quickly, lr=MIXED_LR, combines_gradients=True),
    "reptile": Method(reptile),
    "mldg": Method(generalize, lr=MIXED_LR, combines_gradients=True),
    "dn": Method(negotiate),
    "dr": Method(alternate, regularize),  # MAMDR without DN: the paper's ablation
    "mamdr": Method(negotiate, regularize),
    "finetune": Method(joint, regularize, dr=_afterwards, lr=MIXED_LR),
}


def settle(method: Method, inner: InnerSettings, dr: DRSettings) -> tuple[InnerSettings, DRSettings]:
    """The settings that a method runs with: its inner rate where none is set, and DR as the method has it."""
    alpha = method.lr if inner.lr is None else inner.lr
    return replace(inner, lr=alpha), method.dr(dr, alpha)


def find_method(name: str) -> Method:
    """The method of that name.

    Raises:
        ValueError: there is none; the known ones are listed.
    """
    if name not in METHODS:
        raise ValueError(f"train.method is {name!r}; known: {', '.join(METHODS)}")
    return METHODS[name]
