"""Builds the engine, the learner, the mixed model and the store of theta_i of a rank."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mamdr_core.config.job_config import Config
from mamdr_core.config.training import TrainSettings
from mamdr_core.engine.columns import Columns
from mamdr_core.engine.drawing import initial_shared, start_rows
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.fast import FastEngine
from mamdr_core.engine.hashing import derive_seed
from mamdr_core.engine.parameters import Change, Rows, Shared
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.engine.state_memory import IN_MEMORY
from mamdr_core.engine.step_options import StepOptions
from mamdr_core.engine.vector_buffers import buffer_for
from mamdr_core.learning.learner import Learner
from mamdr_core.learning.methods import find_method
from mamdr_core.mixed.mixed_model import MixedModel
from mamdr_core.models.structures import build_model, declare_inputs
from mamdr_core.models.tables import Table
from mamdr_core.parallel.averaging import mean_change
from mamdr_core.parallel.collective import Collective, all_reduce_max, gather_numbers
from mamdr_core.parallel.sharded import initial_sharded
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.host_memory import available_memory, ranks_here
from mamdr_core.runtime.stateful import State
from mamdr_core.shards.arrays import warn_if_in_memory
from mamdr_core.shards.loading import Share
from mamdr_core.shards.mapped_state import MappedState
from mamdr_core.shards.pinned import PinnedExamples
from mamdr_core.training.choices import Choices, EngineName
from mamdr_core.training.machine_vectors import machine_vectors
from mamdr_core.training.run_domains import domains_of

logger = logging.getLogger(__name__)


def make_engine(
    config: Config,
    pinned: PinnedExamples,
    share: Share,
    device: torch.device,
    name: EngineName = "eager",
    vectors: Mapping[str, Tensor] | None = None,
) -> EagerEngine:
    """The engine of a config over a version of the examples; the model has its initial parameters.

    Args:
        name: name of the engine; the eager one is enough for predictions.
        vectors: fixed vectors by feature; None: they are read.
    """
    train = config.train
    module, tables = _initial_model(config, pinned)
    frozen = share.vectors(trainable=False) if vectors is None else vectors
    made = (module, tables, frozen, train.batch_size, device, train.on_nan)
    options = StepOptions.of(find_method(train.method).settle(train.learning).inner)
    if name == "fast":
        return FastEngine(*made, train.precision, train.group_memory, options=options)
    return EagerEngine(*made, options)


def rows_planned(config: Config, train_rows: int) -> int:
    """Maximum number of row-descents of a rank over all epochs; DR descends on each row k times, and on supports."""
    method = find_method(config.train.method)
    dr = method.settle(config.train.learning).dr
    passes = float(config.train.most_epochs if method.shared else 0)
    if method.specific:
        epochs = dr.epochs if dr.schedule == "settled" else config.train.most_epochs
        passes += epochs * (dr.k * (1 + dr.support_ratio) if dr.k else 1)
    return round(passes * train_rows)


def load_of(train: TrainSettings, rows_n: NDArray[np.int64]) -> NDArray[np.int64]:
    """Work of each domain for placement, in rows [n]: its training rows `rows_n`, or those that DR visits.

    Ranks that lend rows share the work on theta_S. Only the work of DR then depends on the placement, and
    `dr.target_rows` bounds it.
    """
    if find_method(train.method).specific and train.balance_ranks and train.dr.target_rows:
        return np.minimum(rows_n, train.dr.target_rows)
    return rows_n


def make_learner(
    config: Config,
    pinned: PinnedExamples,
    own: NDArray[np.bool_],
    collective: Collective,
    share: Share,
    train: Columns,
    choices: Choices,
    inherited: NDArray[np.bool_] | None = None,
    maps_state: bool = False,
) -> Learner:
    """The learner of a rank at the start of a run.

    Args:
        own: mask of the rank's domains, bool [n].
        inherited: mask of the domains whose theta_i the rank takes from a parent, bool [n]; None: no domain.
        maps_state: whether moments, momenta and the best theta_S are memory-mapped; see `memory_check.maps_state`.
    """
    vectors = machine_vectors(share, collective, config.train.scratch)
    engine = make_engine(config, pinned, share, choices.device, choices.engine, vectors)
    method = find_method(config.train.method)
    settings = method.settle(config.train.learning)
    if config.train.only_domains:  # theta_S has settled
        settings = replace(settings, dr=replace(settings.dr, schedule="settled", every=1))
    sharded = config.train.tables == "sharded"
    if sharded and method.combines_gradients:
        raise MamdrError(
            f"train.method {config.train.method} keeps Adam's moments of whole tables: set train.tables to replicated"
        )
    shared = initial_theta(config, pinned, choices.device, collective, share)
    with_specific = own & (domains_of(config, pinned).rows(pinned) > 0)
    if inherited is not None:
        with_specific |= inherited
    learner = Learner(
        engine=engine,
        train=train,
        supports=None,
        shared=shared,
        specific=make_store(config.train, shared.dense, with_specific.nonzero()[0].tolist() if method.specific else []),
        average=partial(mean_change, collective, sharded=sharded),
        average_gradient=partial(mean_change, collective, touched_only=False),
        gather=partial(gather_numbers, collective),
        all_reduce_max=partial(all_reduce_max, collective),
        settings=settings,
        seed=config.train.seed,
        rank=collective.rank,
        state_memory=MappedState(config.train.scratch) if maps_state else IN_MEMORY,
    )
    if config.train.dr.start == "random":
        for domain in learner.specific:
            learner.specific[domain] = random_start(learner, config, pinned, domain)
    return learner


def initial_theta(
    config: Config, pinned: PinnedExamples, device: torch.device, collective: Collective, share: Share
) -> Shared:
    """theta_S before training, equal in every call; `share` has the initial values of trainable vectors."""
    drawn = (*_initial_model(config, pinned), config.train.seed, device)
    starts = share.vectors(trainable=True)
    if config.train.tables == "sharded":
        return initial_sharded(*drawn, collective, starts)
    return initial_shared(*drawn, vectors=starts)


def _initial_model(config: Config, pinned: PinnedExamples) -> tuple[nn.Module, tuple[Table, ...]]:
    """The structure with its initial parameters, and its tables."""
    inputs = declare_inputs(config.model, config.features, pinned.sizes)
    return build_model(config.model, inputs, config.train.seed), inputs.tables


def make_mixed(
    config: Config,
    engine: EagerEngine,
    pinned: PinnedExamples,
    train: Columns,
    collective: Collective,
    inherited: State | None = None,
) -> MixedModel:
    """The mixed model of a run before it is fitted.

    Args:
        engine: has the tables and the fixed vectors.
        inherited: this rank's part of the mixed model of a parent, from which the fit starts.
    """
    known = inherited.part("weights").domains_of("weights") if inherited else []
    domains = sorted({*train.occupied.tolist(), *known})
    numeric = len(pinned.numeric)
    mixed = MixedModel(config.train.mixed, engine.tables, engine.frozen, numeric, pinned.sizes, domains, collective)
    if inherited:
        mixed.inherit(inherited)
    return mixed


def make_store(settings: TrainSettings, like: Tensor, domains: Sequence[int]) -> SpecificStore:
    """A store with theta_i of zeros, in memory if the current and the best values fit, otherwise in a file.

    Args:
        like: dense parameters [P] of theta_S.
        domains: the rank's domains with theta_i.
    """
    memory = settings.specific_memory * 1e9 or available_memory() / 2 / ranks_here()
    vectors = len(domains) * (4 if settings.checkpoint.is_regular else 2)
    buffer = buffer_for(like, vectors, memory, settings.scratch)
    if buffer.where == "file":
        logger.info(
            "theta_i of %d domains takes up to %.3g GB, including best values and checkpoints: stored in a file",
            len(domains), vectors * like.nbytes / 1e9,
        )  # fmt: skip
        warn_if_in_memory(settings.scratch, "train.specific_memory")
    return SpecificStore(domains, buffer, like)


def random_start(learner: Learner, config: Config, pinned: PinnedExamples, domain: int) -> Change:
    """theta_i before training as in the released reference code: a random initialisation for each domain.

    It covers the dense parameters, and the domain's row of every table that is looked up by domain.
    """
    seed = derive_seed(config.train.seed, domain, 1)
    inputs = declare_inputs(config.model, config.features, pinned.sizes)
    module = build_model(config.model, inputs, seed)
    dense = torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])
    device = learner.shared.dense.device
    row = torch.tensor([domain + 1], device=device)
    generator = torch.Generator().manual_seed(seed)
    own = [replace(table, rows=1) for table in learner.engine.trained_tables if table.column == "domain"]
    return Change(dense.to(device), {table.name: Rows(row, start_rows(table, generator).to(device)) for table in own})
