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
        dr: the settings of DR that the method is, from those that are set.
        needs_whole_tables: whether it cannot do with sharded embedding tables.
    """

    move_shared: Callable[[Learner, Round], None] | None
    move_specific: Callable[[Learner, Round], None] | None = None
    dr: Callable[[DRSettings, InnerSettings], DRSettings] = lambda dr, inner: dr
    needs_whole_tables: bool = False


def _alone(dr: DRSettings, inner: InnerSettings) -> DRSettings:
    """theta_i, embeddings included, learns on T^i by itself as theta_S would."""
    own = replace(dr, k=0, gamma=1.0, rows="touched", optimizer=inner.optimizer, lr=inner.lr)
    return replace(own, schedule="settled", every=1)


def _afterwards(dr: DRSettings, inner: InnerSettings) -> DRSettings:
    """theta_i learns on T^i by itself once theta_S is trained."""
    return replace(dr, k=0, schedule="settled", every=1)


METHODS = {
    "joint": Method(joint),
    "alternate": Method(alternate),
    "separate": Method(None, regularize, dr=_alone),
    "weighted": Method(weigh_losses, needs_whole_tables=True),
    "pcgrad": Method(project_conflicts, needs_whole_tables=True),
    "maml": Method(adapt_quickly, needs_whole_tables=True),
    "reptile": Method(reptile),
    "mldg": Method(generalize, needs_whole_tables=True),
    "dn": Method(negotiate),
    "dr": Method(alternate, regularize),  # MAMDR without DN: the paper's ablation
    "mamdr": Method(negotiate, regularize),
    "finetune": Method(joint, regularize, dr=_afterwards),
}


def find_method(name: str) -> Method:
    """The method of that name.

    Raises:
        ValueError: there is none; the known ones are listed.
    """
    if name not in METHODS:
        raise ValueError(f"train.method is {name!r}; known: {', '.join(METHODS)}")
    return METHODS[name]
