"""The registry of learning methods."""

from mamdr_core.learning import (
    alternate,
    domain_negotiation,
    domain_regularization,
    finetune,
    joint,
    joint_data_parallel,
    mamdr,
    maml,
    mixed,
    mldg,
    pcgrad,
    reptile,
    separate,
    weighted_loss,
)
from mamdr_core.learning.method import Method
from mamdr_core.runtime.plugins import Plugin, is_plugin

METHODS: dict[str, Method] = {
    "joint": joint.METHOD,
    "alternate": alternate.METHOD,
    "separate": separate.METHOD,
    "weighted": weighted_loss.METHOD,
    "pcgrad": pcgrad.METHOD,
    "maml": maml.METHOD,
    "reptile": reptile.METHOD,
    "mldg": mldg.METHOD,
    "dn": domain_negotiation.METHOD,
    "dr": domain_regularization.METHOD,
    "mamdr": mamdr.METHOD,
    "finetune": finetune.METHOD,
    "mixed": mixed.METHOD,
    "joint_data_parallel": joint_data_parallel.METHOD,
}


def find_method(name: str) -> Method:
    """The registered method of that name, or the user's own method.

    Raises:
        ValueError: the name is unknown; the message lists the known ones.
        MamdrError: the user's own method cannot be imported, or is not a `Method`.
    """
    if is_plugin(name):
        found: Method = Plugin("train.method", name).load_instance(Method)
        return found
    if name not in METHODS:
        raise ValueError(f"train.method is {name!r}; known: {', '.join(METHODS)}")
    return METHODS[name]
