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
from mamdr_core.engine.fast import FastEngine
from mamdr_core.engine.hashing import derive_seed
from mamdr_core.engine.metrics import DomainMetrics, segmented_auc
from mamdr_core.engine.parameters import Theta
from mamdr_core.engine.plan import RoundPlan
from mamdr_core.errors import DivergedError, MamdrError
from mamdr_core.learning.learner import Learner
from mamdr_core.learning.methods import Method, find_method
from mamdr_core.learning.specific import finetune
from mamdr_core.parallel.collective import Collective
from mamdr_core.parallel.supports import exchange_supports
from mamdr_core.shards.arrays import Arrays
from mamdr_core.shards.loading import Share
from mamdr_core.shards.pinned import PinnedExamples
from mamdr_core.training.building import make_learner, make_store, place_columns
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
    skipped_steps: int
    specific_bytes: int
    specific_row_bytes: int
    inner_seconds: float
    data_wait_seconds: float | None
    engine: str
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
        columns = place_columns({split: share.columns(split) for split in SPLITS}, device)
        learner = make_learner(task.config, task.pinned, own, collective, share, columns["train"], device)
    logger.info("rank %d read %s", collective.rank, share.figures.told())
    with _domain_named(task.pinned):
        stop, rounds = _train(task, collective, learner, method, columns["val"], share.arrays, clock)
        assert stop.shared is not None
        learner.shared = stop.shared
        learner.specific.restore()
        if method.finetunes:
            learner.specific = make_store(settings, learner.shared.dense, np.flatnonzero(own).tolist())
            with clock.phase("inner"):
                finetune(learner, settings.finetune_epochs, columns["val"], partial(_val_auc, learner, columns["val"]))
    with clock.phase("evaluate"):
        metrics = {
            split: evaluate_columns(learner.engine, learner.shared, learner.specific, rows, collective)
            for split, rows in columns.items()
        }
    with clock.phase("save"):
        saved = save_rank(task.package, collective.rank, learner.shared, learner.specific)
    engine, store = learner.engine, learner.specific
    fast = isinstance(engine, FastEngine)
    counted = [learner.rows_descended, share.figures.read_bytes, engine.skipped, store.dense_bytes, store.row_bytes]
    sums = [int(total) for total in collective.all_reduce(torch.tensor(counted, dtype=torch.float64)).tolist()]
    waited = torch.tensor([[clock.seconds.get("inner", 0.0), engine.waited]], dtype=torch.float64)
    inner_seconds, data_wait_seconds = collective.all_gather(waited).max(0).values.tolist()
    return RankResult(
        metrics=metrics,
        epochs=-(-rounds // settings.rounds_per_epoch),
        rounds=rounds,
        best_round=stop.best_round,
        rows_descended=sums[0],
        read_bytes=sums[1],
        skipped_steps=sums[2],
        specific_bytes=sums[3],
        specific_row_bytes=sums[4],
        inner_seconds=inner_seconds,
        data_wait_seconds=data_wait_seconds if fast else None,
        engine="fast" if fast else "eager",
        seconds=clock.seconds,
        device=str(device),
        saved=saved,
    )


@contextmanager
def _domain_named(pinned: PinnedExamples) -> Iterator[None]:
    """Tell of a step that went wrong with the id of its domain, which the engine does not know."""
    try:
        yield
    except DivergedError as error:
        if error.domain is None:
            raise
        raise MamdrError(error.told(f"domain {pinned.domain_ids[error.domain]!r}")) from error


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
        if method.move_specific and learner.dr.k:
            with clock.phase("exchange"):
                seed = derive_seed(settings.seed, epoch, 7)
                learner.supports = exchange_supports(collective, learner.train, learner.dr.support_rows, seed)
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
            progress.say(done, rows, clock.seconds["inner"], learner.engine.waited, auc, stop)
            if stopping:
                return stop, done
    return stop, done


def _val_auc(learner: Learner, val: Columns, domain: int, theta: Theta) -> float:
    start, stop = val.offsets[domain : domain + 2].tolist()
    rows = torch.arange(start, stop, device=val.labels.device)
    logits = learner.engine.predict(theta, Visit(val, rows))
    return segmented_auc(logits, val.labels[rows].to(logits.device), torch.tensor([0, stop - start])).item()
