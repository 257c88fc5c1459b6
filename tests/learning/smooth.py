"""A learner with a twice differentiable loss, and its loss as a function of theta_S."""

import torch
from torch.func import functional_call
from torch.nn.functional import binary_cross_entropy_with_logits

from mamdr_core.config.engine import InnerSettings, OuterSettings
from mamdr_core.config.learning import LearningSettings
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.engine.vector_buffers import MemoryBuffer
from mamdr_core.learning.learner import Learner, Round
from tests.engine.small_models import as_double, random_columns, small_engine

COUNTS = [6, 10, 8]
ALPHA, META = 0.1, 0.05


def smooth_learner() -> Learner:
    """Three domains in one step, with gradient descent, and tanh, so that the loss has second derivatives."""
    engine, shared = small_engine(3, batch_size=64)
    engine.flat.module.layers[1] = torch.nn.Tanh()
    return Learner(
        engine=engine,
        train=as_double(random_columns(COUNTS)),
        supports=None,
        shared=shared,
        specific=SpecificStore([], MemoryBuffer(shared.dense), shared.dense),
        average=lambda change, weight: change,
        settings=LearningSettings(
            inner=InnerSettings(optimizer="sgd", lr=ALPHA),
            outer=OuterSettings(optimizer="sgd", beta=0.5),
            meta_lr=META,
        ),
        seed=3,
    )


def round_of(learner, order=(2, 0, 1)):
    offsets = learner.train.offsets.tolist()
    return Round(0, 0, {d: torch.arange(offsets[d], offsets[d + 1]) for d in order}, torch.arange(len(learner.train)))


def parameters_of(learner):
    """theta_S as leaf tensors: dense parameters, then the tables in order."""
    leaves = [learner.shared.dense, *learner.shared.tables.values()]
    return [leaf.clone().requires_grad_() for leaf in leaves]


def loss_at(learner, parameters, rows):
    dense, *tables = parameters
    columns = learner.train
    fields = {
        name: table[columns.ids[name][rows].long()] for name, table in zip(learner.shared.tables, tables, strict=True)
    }
    fields["numeric"] = columns.numeric[rows]
    logits = functional_call(learner.engine.flat.module, learner.engine.flat.named(dense), (fields,))
    return binary_cross_entropy_with_logits(logits, columns.labels[rows])


def gradients(loss, parameters, **options):
    return torch.autograd.grad(loss, parameters, **options)
