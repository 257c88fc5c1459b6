"""One run of bench_ranks.py: the product's Trainer on simulated ranks, with static or reshuffled placement."""

import heapq
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from ranks_worlds import Log

from mamdr_core.config.job_config import Config
from mamdr_core.engine.columns import Columns
from mamdr_core.engine.drawing import initial_shared
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.parameters import Change
from mamdr_core.engine.plan import RoundPlan
from mamdr_core.learning.learner import Learner, Round
from mamdr_core.learning.method import Method, Update
from mamdr_core.learning.methods import find_method
from mamdr_core.models.structures import build_model
from mamdr_core.parallel.averaging import mean_change
from mamdr_core.parallel.collective import Collective, SingleProcess, all_reduce_max, gather_numbers, run_simulated
from mamdr_core.parallel.placement import place_domains
from mamdr_core.runtime.clock import Clock
from mamdr_core.runtime.stateful import State
from mamdr_core.runtime.stop_request import StopRequest
from mamdr_core.shards.arrays import Arrays
from mamdr_core.training.building import make_store
from mamdr_core.training.checkpoint.checkpoints import Checkpoints
from mamdr_core.training.evaluation import evaluate_columns
from mamdr_core.training.rounds import make_rounds
from mamdr_core.training.trainer import Trainer

Ints = NDArray[np.int64]
Placement = Callable[[int], Ints]
"""The rank of each domain, int64 [n], in an epoch."""


@dataclass(frozen=True)
class Trained:
    """Figures of a run; AUCs are means over domains.

    Attributes:
        val_auc, test_auc: of the best validation's theta_S.
        best: share of all rounds after which it was found; 1: AUC may still have been rising.
        rows: that all ranks together descended on.
        seconds: of this process, for all ranks.
    """

    val_auc: float
    test_auc: float
    best: float
    rows: int
    seconds: float


def placement_of(counts_n: Ints, ranks: int, seed: int, reshuffles: bool) -> Placement:
    """The product's placement in the first epoch, and afterwards with `reshuffles` a random one in every epoch.

    Args:
        counts_n: training rows by domain.
        ranks: W.
        seed: decides the random placements, together with the epoch.
        reshuffles: place anew in every epoch after the first.
    """

    def place(epoch: int) -> Ints:
        if not reshuffles or not epoch:
            return place_domains(counts_n, ranks)
        return place_at_random(counts_n, ranks, np.random.default_rng([seed, epoch]))

    return place


def place_at_random(counts_n: Ints, ranks: int, random: np.random.Generator) -> Ints:
    """Domains in a random order in which larger ones tend to come first, each to the rank with fewest rows so far."""
    owner_n = np.zeros(len(counts_n), dtype=np.int64)
    load = [(0, order, rank) for order, rank in enumerate(random.permutation(ranks))]
    for domain in np.argsort(-counts_n * random.uniform(0.5, 1.0, len(counts_n))):
        rows, order, owner_n[domain] = load[0]
        heapq.heapreplace(load, (rows + int(counts_n[domain]), order, owner_n[domain]))
    return owner_n


def held_by(columns: Columns, owner_n: Ints, rank: int) -> Columns:
    """The rows of a rank's domains."""
    own_N = (owner_n == rank)[columns.ids["domain"].numpy() - 1]
    return columns.take(torch.from_numpy(np.flatnonzero(own_N)))


class Reshuffled:
    """An update whose rank holds other domains in every epoch.

    Args:
        update: the method's.
        learner: that it moves; its rows are replaced when an epoch begins.
        deal: the rank's rows of an epoch, and its rounds.
    """

    def __init__(
        self, update: Update, learner: Learner, deal: Callable[[int], tuple[Columns, Iterator[Round]]]
    ) -> None:
        self._update, self._learner, self._deal = update, learner, deal
        self._epoch = -1
        self._rounds: Iterator[Round] = iter(())

    def __call__(self, round_: Round) -> None:
        """Do the round of this number with the epoch's own domains."""
        if round_.epoch != self._epoch:
            self._epoch = round_.epoch
            self._learner.train, self._rounds = self._deal(round_.epoch)
        self._update(next(self._rounds))

    def state_dict(self) -> State:
        """The method's."""
        return self._update.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Take over the method's state."""
        self._update.load_state_dict(state)


def mean_of_ranks(collective: Collective, dense_scale: float, change: Change, weight: float) -> Change:
    """The product's mean over ranks of changes, its dense parameters multiplied by a number.

    The mean over W ranks of changes of dense parameters is W times as short as their sum; that of an embedding row is
    over the ranks that touched it.
    """
    mean = mean_change(collective, change, weight)
    return Change(mean.dense * dense_scale, mean.rows)


def without_stop(config: Config) -> Config:
    """All epochs are run, so that every run descends on as many rows; four validations an epoch; ranks lend nothing."""
    train = config.train
    every = max(1, train.rounds_per_epoch // 4)
    validations = train.most_epochs * train.rounds_per_epoch // every
    lasting = replace(train, validate_every=every, patience=validations + 1, balance_ranks=False)
    return replace(config, train=lasting)


def train_ranks(log: Log, config: Config, ranks: int, reshuffles: bool = False, dense_scale: float = 1.0) -> Trained:
    """Train on simulated ranks; one rank is one process.

    Args:
        log: rows.
        config: of the run, `log.config` with other settings of `train`.
        ranks: W.
        reshuffles: place domains anew in every epoch.
        dense_scale: see `mean_of_ranks`.
    """
    started = time.perf_counter()
    config = without_stop(config)
    counts_n = log.columns["train"].counts.numpy()
    place = placement_of(counts_n, ranks, config.train.seed, reshuffles)
    module = build_model(config.model, log.inputs, config.train.seed)
    # Ranks take turns, so that one engine serves them all.
    engine = EagerEngine(module, log.inputs.tables, log.frozen, config.train.batch_size)
    task = partial(_train_rank, log, config, engine, place, reshuffles, dense_scale)
    val_auc, test_auc, best, rows = (run_simulated(task, ranks) if ranks > 1 else [task(SingleProcess())])[0]
    return Trained(val_auc, test_auc, best, rows, time.perf_counter() - started)


def _train_rank(
    log: Log,
    config: Config,
    engine: EagerEngine,
    place: Placement,
    reshuffles: bool,
    dense_scale: float,
    collective: Collective,
) -> tuple[float, float, float, int]:
    settings, rank = config.train, collective.rank
    owner_n = place(0)
    columns = {split: held_by(own, owner_n, rank) for split, own in log.columns.items()}
    module = build_model(config.model, log.inputs, settings.seed)
    shared = initial_shared(module, log.inputs.tables, settings.seed)
    method = find_method(settings.method)
    learner = Learner(
        engine=engine,
        train=columns["train"],
        supports=None,
        shared=shared,
        specific=make_store(settings, shared.dense, []),
        average=partial(mean_of_ranks, collective, dense_scale),
        average_gradient=partial(mean_change, collective, touched_only=False),
        gather=partial(gather_numbers, collective),
        all_reduce_max=partial(all_reduce_max, collective),
        settings=method.settle(settings.learning),
        seed=settings.seed,
        rank=rank,
    )
    counts_n = log.columns["train"].counts.numpy()
    trainer = Trainer(
        settings=settings,
        learner=learner,
        method=_reshuffled(method, log, config, place, rank) if reshuffles else method,
        counts_n=counts_n,
        owned_n=owner_n == rank,
        collective=collective,
        val=columns["val"],
        arrays=Arrays(),
        clock=Clock(),
        checkpoints=Checkpoints(None, settings.checkpoint, collective, StopRequest()),
    )
    outcome = trainer.train()
    val_auc, test_auc = (
        evaluate_columns(engine, learner.shared, {}, columns[split], collective).mean_auc() for split in ("val", "test")
    )
    rows = collective.all_reduce(torch.tensor(learner.rows_descended))
    return val_auc, test_auc, outcome.best_round / outcome.rounds, int(rows)


def _reshuffled(method: Method, log: Log, config: Config, place: Placement, rank: int) -> Method:
    """The method on a rank whose domains change from epoch to epoch."""
    settings, whole = config.train, log.columns["train"]
    plan = RoundPlan(whole.counts.numpy(), settings.rounds_per_epoch, settings.smallest_slice, settings.seed)

    def deal(epoch: int) -> tuple[Columns, Iterator[Round]]:
        own = held_by(whole, place(epoch), rank)
        return own, make_rounds(plan, epoch, own, rank, Arrays(), mixes=method.mixes)

    def make(learner: Learner) -> Update:
        assert method.shared
        return Reshuffled(method.shared(learner), learner, deal)

    return replace(method, shared=make)
