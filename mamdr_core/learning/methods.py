"""The learning methods by name: how theta_S moves in a round, and how theta_i does. MAMDR is one line here (Alg. 3)."""

from collections.abc import Callable
from dataclasses import dataclass

from mamdr_core.learning.learner import Learner, Round
from mamdr_core.learning.shared import alternate, joint, negotiate
from mamdr_core.learning.specific import regularize


@dataclass(frozen=True)
class Method:
    """A learning method.

    Attributes:
        move_shared: what a round does to theta_S.
        move_specific: what it then does to every theta_i; None: there is no theta_i while theta_S trains.
        finetunes: whether theta_i is finetuned once theta_S is trained.
    """

    move_shared: Callable[[Learner, Round], None]
    move_specific: Callable[[Learner, Round], None] | None = None
    finetunes: bool = False


METHODS = {
    "joint": Method(joint),
    "alternate": Method(alternate),
    "dn": Method(negotiate),
    "dr": Method(alternate, regularize),  # MAMDR without DN: the paper's ablation
    "mamdr": Method(negotiate, regularize),
    "finetune": Method(joint, finetunes=True),
}


def find_method(name: str) -> Method:
    """The method of that name.

    Raises:
        ValueError: there is none; the known ones are listed.
    """
    if name not in METHODS:
        raise ValueError(f"train.method is {name!r}; known: {', '.join(METHODS)}")
    return METHODS[name]
