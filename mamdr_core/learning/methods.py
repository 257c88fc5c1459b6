"""The learning methods by name."""

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
from mamdr_core.plugins import Plugin, is_plugin

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
    """The method of that name, registered here or of the user's own.

    Raises:
        ValueError: there is none; the known ones are listed.
        MamdrError: one of the user's own cannot be imported, or is no `Method`.
    """
    if is_plugin(name):
        found: Method = Plugin("train.method", name).load_instance(Method)
        return found
    if name not in METHODS:
        raise ValueError(f"train.method is {name!r}; known: {', '.join(METHODS)}")
    return METHODS[name]
