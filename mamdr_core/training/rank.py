"""A training run as every rank does it: read, rounds with validation and early stop, measure, save."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from mamdr_core.config import Config
from mamdr_core.engine.columns import Columns, Visit
from mamdr_core.engine.device import choose_device
from mamdr_core.engine.eager import EagerEngine, initial_shared
from mamdr_core.engine.hashing import derive_seed
from mamdr_core.engine.metrics import DomainMetrics, segmented_auc
from mamdr_core.engine.optimizers import OuterOptimizer
from mamdr_core.engine.parameters import Change, Rows, Theta
from mamdr_core.engine.plan import RoundPlan
from mamdr_core.errors import MamdrError
from mamdr_core.learning.learner import Learner
from mamdr_core.learning.methods import Method, find_method
from mamdr_core.learning.specific import finetune
from mamdr_core.models import build_model
from mamdr_core.models.tables import declare_inputs
from mamdr_core.parallel.averaging import mean_change
from mamdr_core.parallel.collective import Collective, most
from mamdr_core.parallel.sharded import initial_sharded
from mamdr_core.parallel.supports import exchange_supports
from mamdr_core.shards.arrays import Arrays
from mamdr_core.shards.loading import Share
from mamdr_core.shards.pinned import PinnedExamples
from mamdr_core.training.early_stop import EarlyStop
from mamdr_core.training.evaluation import evaluate_columns
from mamdr_core.training.package import save_rank
from mamdr_core.training.progress import Progress
from mamdr_core.training.rounds import deal_rounds
from schemas import SPLITS

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RankTask:
    """What the driver tells every rank.

    Attributes:
        config: the resolved configuration.
        pinned: the version of the examples.
        owner: rank of each domain, int64 [n].
        package: folder that the ranks write their parameters to.
    """

    config: Config
    pinned: PinnedExamples
    owner: NDArray[np.int64]
    package: str


@dataclass(frozen=True)
class RankResult:
    """What a rank reports; the figures are of all ranks together, but for `seconds` and `saved`, the files it wrote."""

    metrics: dict[str, DomainMetrics]
    epochs: int
    rounds: int
    best_round: int
    rows_descended: int
    read_bytes: int
    inner_seconds: float
    seconds: dict[str, float]
    device: str
    saved: tuple[str, ...]


class _Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


def train_rank(task: RankTask, collective: Collective) -> RankResult:
    """Train on this rank; called on all ranks with the same task. See `mamdr_core.training.run` for the driver."""
    clock = _Clock()
    settings = task.config.train
    method = find_method(settings.method)
    device = choose_device(settings.device)
    with clock.phase("read"):
        own = task.owner == collective.rank
        share = Share(task.pinned, task.config.features, own, settings.host_memory, settings.scratch)
        columns = {split: share.columns(split).to(device) for split in SPLITS}
        learner = _make_learner(task, collective, share, columns["train"], device)
    logger.info("rank %d read %s", collective.rank, share.figures.told())
    stop, rounds = _train(task, collective, learner, method, columns["val"], share.arrays, clock)
    assert stop.shared is not None
    learner.shared, learner.specific = stop.shared, stop.specific
    if method.finetunes:
        learner.specific = {int(domain): _zeros(learner) for domain in np.flatnonzero(own)}
        with clock.phase("inner"):
            finetune(learner, settings.finetune_epochs, columns["val"], partial(_val_auc, learner, columns["val"]))
    with clock.phase("evaluate"):
        metrics = {
            split: evaluate_columns(learner.engine, learner.shared, learner.specific, rows, collective)
            for split, rows in columns.items()
        }
    with clock.phase("save"):
        saved = save_rank(task.package, collective.rank, learner.shared, learner.specific)
    counted = [float(learner.rows_descended), float(share.figures.read_bytes)]
    rows_descended, read_bytes = collective.all_reduce(torch.tensor(counted, dtype=torch.float64)).tolist()
    inner = collective.all_gather(torch.tensor([clock.seconds.get("inner", 0.0)], dtype=torch.float64)).max()
    return RankResult(
        metrics=metrics,
        epochs=-(-rounds // settings.rounds_per_epoch),
        rounds=rounds,
        best_round=stop.best_round,
        rows_descended=int(rows_descended),
        read_bytes=int(read_bytes),
        inner_seconds=float(inner),
        seconds=clock.seconds,
        device=str(device),
        saved=saved,
    )


def make_engine(config: Config, pinned: PinnedExamples, share: Share, device: torch.device) -> EagerEngine:
    """The engine of a config over a version of the examples; the model has its initial parameters."""
    inputs = declare_inputs(config.model, config.features, pinned.sizes)
    module = build_model(config.model, inputs, config.train.seed)
    return EagerEngine(module, inputs.tables, share.vectors(), config.train.batch_size, device)


def _make_learner(
    task: RankTask, collective: Collective, share: Share, train: Columns, device: torch.device
) -> Learner:
    config = task.config
    engine = make_engine(config, task.pinned, share, device)
    drawn = (engine.flat.module, engine.tables, config.train.seed, device)
    sharded = config.train.tables == "sharded"
    learner = Learner(
        engine=engine,
        train=train,
        supports=None,
        shared=initial_sharded(*drawn, collective) if sharded else initial_shared(*drawn),
        specific={},
        average=partial(mean_change, collective, sharded=sharded),
        most=partial(most, collective),
        outer=OuterOptimizer(config.train.outer),
        inner=config.train.inner,
        dr=config.train.dr,
        seed=config.train.seed,
        rank=collective.rank,
    )
    if find_method(config.train.method).move_specific:
        for domain in np.flatnonzero((task.owner == collective.rank) & (task.pinned.counts["train"] > 0)).tolist():
            learner.specific[domain] = _start(learner, config, task.pinned, domain)
    return learner


def _zeros(learner: Learner) -> Change:
    return Change(torch.zeros_like(learner.shared.dense))


def _start(learner: Learner, config: Config, pinned: PinnedExamples, domain: int) -> Change:
    """theta_i before training: zeros, or a fresh random initialisation of its own."""
    if config.train.dr.start == "zeros":
        return _zeros(learner)
    seed = derive_seed(config.train.seed, domain, 1)
    inputs = declare_inputs(config.model, config.features, pinned.sizes)
    module = build_model(config.model, inputs, seed)
    dense = torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])
    device = learner.shared.dense.device
    width = learner.shared.tables["domain"].shape[1]
    embedding = torch.randn(1, width, generator=torch.Generator().manual_seed(seed)) * 0.01
    return Change(dense.to(device), {"domain": Rows(torch.tensor([domain + 1], device=device), embedding.to(device))})


def _train(
    task: RankTask,
    collective: Collective,
    learner: Learner,
    method: Method,
    val: Columns,
    arrays: Arrays,
    clock: _Clock,
) -> tuple[EarlyStop, int]:
    """Rounds until early stop or the last epoch; returns the best parameters and the rounds done.

    Every rank takes part in the same collectives in every round, whatever rows it has.
    """
    settings = task.config.train
    plan = RoundPlan(task.pinned.counts["train"], settings.rounds_per_epoch, settings.smallest_slice, settings.seed)
    stop = EarlyStop(settings.patience)
    most = settings.epochs * settings.rounds_per_epoch
    progress = Progress(most, settings.rounds_per_epoch, collective.rank == 0)
    done = 0
    for epoch in range(settings.epochs):
        if method.move_specific and settings.dr.k:
            with clock.phase("exchange"):
                seed = derive_seed(settings.seed, epoch, 7)
                learner.supports = exchange_supports(collective, learner.train, settings.dr.support_rows, seed)
        for round_ in deal_rounds(plan, epoch, learner.train, collective.rank, arrays):
            with clock.phase("inner"):
                method.move_shared(learner, round_)
                if method.move_specific:
                    method.move_specific(learner, round_)
            done += 1
            if done % settings.validate_every and done < most:
                continue
            with clock.phase("validate"):
                auc = evaluate_columns(learner.engine, learner.shared, learner.specific, val, collective).mean_auc()
                if not learner.shared.dense.isfinite().all():
                    raise MamdrError(f"theta_S is not finite after round {done}: lower train.inner.lr")
                stopping = stop.validated(auc, done, learner.shared, learner.specific)
            rows = learner.rows_descended * collective.size  # an estimate: ranks are balanced by rows
            progress.say(done, rows, clock.seconds["inner"], auc, stop.best, stop.best_round)
            if stopping:
                return stop, done
    return stop, done


def _val_auc(learner: Learner, val: Columns, domain: int, theta: Theta) -> float:
    start, stop = val.offsets[domain : domain + 2].tolist()
    rows = torch.arange(start, stop, device=val.labels.device)
    logits = learner.engine.predict(theta, Visit(val, rows))
    return segmented_auc(logits.cpu(), val.labels[rows].cpu(), torch.tensor([0, stop - start])).item()
