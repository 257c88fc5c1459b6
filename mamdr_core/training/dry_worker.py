"""A rank of a dry run: reads a few rows, checks the memory, and takes one step with the run's model and method."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import binary_cross_entropy_with_logits

from mamdr_core.config.job_config import Config
from mamdr_core.engine.columns import Visit
from mamdr_core.engine.hashing import derive_seed
from mamdr_core.engine.parameters import Theta
from mamdr_core.learning.learner import Learner, Round
from mamdr_core.learning.methods import find_method
from mamdr_core.models.tables import Table
from mamdr_core.parallel.collective import Collective
from mamdr_core.parallel.supports import SupportSample
from mamdr_core.runtime.clock import Clock
from mamdr_core.runtime.host_memory import available_memory, ranks_here
from mamdr_core.shards.arrays import Arrays
from mamdr_core.training.building import make_learner, make_mixed
from mamdr_core.training.choices import place_columns
from mamdr_core.training.memory_check import GB, check_memory, shape_of
from mamdr_core.training.own_code import check_on_ranks
from mamdr_core.training.rank_memory import RankMemory, RankShape, rank_memory
from mamdr_core.training.rounds import shuffle_rows
from mamdr_core.training.run_domains import domains_of
from mamdr_core.training.statistics import measure_statistics
from mamdr_core.training.warm_start import ParentParameters
from mamdr_core.training.worker import RankTask, choices_of, domain_named, share_of
from schemas import SPLITS

FEW_DOMAINS, FEW_ROWS = 4, 100_000
"""Maximum number of domains that a rank reads, and of their training rows; at least one domain is read."""


@dataclass(frozen=True)
class DryRankResult:
    """Result of a dry run on one rank.

    Attributes:
        device, engine: what the run would use.
        domains, rows: number of domains and rows that were read.
        memory: memory that the whole run needs on this rank, by the formula.
        available: bytes available to this rank before it allocated any: its share of the memory of its machine.
        dense: number of dense parameters.
        losses: mean loss of the step's rows before and after it, and the number of these rows; zeros without rows.
    """

    device: str
    engine: str
    domains: int
    rows: int
    memory: RankMemory
    available: int
    tables: tuple[Table, ...]
    dense: int
    losses: tuple[float, float, int]
    seconds: dict[str, float]


def dry_run_rank(task: RankTask, collective: Collective) -> DryRankResult:
    """Run a rank of a dry run: the steps of `train_rank` up to the first round, on fewer rows."""
    clock = Clock()
    available = available_memory() // ranks_here()  # before this rank allocates what the formula counts
    config, train, pinned = task.config, task.config.train, task.pinned
    check_on_ranks(config, task.plugins, collective)
    own, domains = task.owner == collective.rank, domains_of(config, pinned)
    choices = choices_of(task, collective)
    few = few_domains(pinned.counts["train"], own & domains.learns)
    with clock.phase("read"):
        share = share_of(task, few)
        columns = {split: share.columns(split) for split in SPLITS}
        columns = place_columns(columns, choices.device, collective)
        parent = ParentParameters(task.parent, choices.device, train.scratch) if task.parent else None
        inherited = parent.has_specific(len(own)) & own if parent else np.zeros_like(own)
        sample = shape_of(config, pinned, few, inherited, columns, columns["train"], collective)
        shape = _whole_shape(task, sample, own, inherited)
        mapped = share_of(task, own & domains.reads).arrays.mapped
        # The number of distinct ids of a domain is unknown until all of its rows are read.
        maps_state = check_memory(config, replace(shape, touched={}), choices.device, collective, mapped)
    with clock.phase("build"):
        built_of = (few, collective, share, columns["train"], choices, inherited & few, maps_state)
        learner = make_learner(config, pinned, *built_of)
        method = find_method(train.method)
        if parent:
            parent.copy_to(learner, collective, method.mixed)
        if method.mixed:
            inherited_mixed = parent.mixed_state(collective, few) if parent else None
            mixed = make_mixed(config, learner.engine, pinned, learner.train, collective, inherited_mixed)
            fit = mixed.refit if train.only_domains else mixed.fit
            fit(learner.train)
            learner.train = mixed.with_left_out_logits(learner.train)
    with clock.phase("step"), domain_named(pinned):
        losses = _step(config, learner, collective, share.arrays)
    room = train.specific_memory * GB or available / 2
    return DryRankResult(
        device=str(choices.device),
        engine=choices.engine,
        domains=len(columns["train"].occupied),
        rows=sum(len(split) for split in columns.values()),
        memory=rank_memory(train, shape, room, mapped, maps_state, choices.device.type == "cuda"),
        available=available,
        tables=learner.engine.tables,
        dense=shape.dense,
        losses=losses,
        seconds=clock.seconds,
    )


def few_domains(rows_n: NDArray[np.int64], own_n: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mask of a few domains of a rank, of about median size, bool [n]."""
    few_n = np.zeros_like(own_n)
    occupied = np.flatnonzero(own_n & (rows_n > 0))
    ordered = occupied[np.argsort(rows_n[occupied], kind="stable")]
    middle = ordered[max(0, (len(ordered) - FEW_DOMAINS) // 2) :][:FEW_DOMAINS]
    fit = rows_n[middle].cumsum() <= FEW_ROWS
    fit[:1] = True
    few_n[middle[fit]] = True
    return few_n


def _whole_shape(task: RankTask, sample: RankShape, own: NDArray[np.bool_], inherited: NDArray[np.bool_]) -> RankShape:
    """Shape of all rows of a rank, from the shape of a few and the row counts of the pinned version.

    The number of distinct ids of a domain is unknown until its rows are read; its upper bound is used: the number of
    rows of the domain, or of the table.
    """
    config, counts = task.config, task.pinned.counts
    domains, method = domains_of(config, task.pinned), find_method(config.train.method)
    dr = method.settle(config.train.learning).dr
    reads_n, learns_n = own & domains.reads, own & domains.learns
    train_n = np.where(reads_n, counts["train"], 0)
    others = sum(int(counts[split][learns_n].sum()) for split in SPLITS if split != "train")
    learned_n = train_n[learns_n]
    rows_of = {table.name: table.rows for table in sample.tables}
    return replace(
        sample,
        train_rows=int(train_n.sum()),
        rows=others + int(train_n.sum()),
        domains=int((learns_n & (train_n > 0) | inherited).sum()) if method.specific else 0,
        sampled_rows=int(np.minimum(train_n, dr.support_rows).sum()) if method.specific and dr.k else 0,
        touched={name: int(np.minimum(learned_n, rows_of[name]).sum()) for name in sample.touched},
    )


def _step(config: Config, learner: Learner, collective: Collective, arrays: Arrays) -> tuple[float, float, int]:
    """One round with a visit to the first domain of the rank; returns its losses. All ranks must call this."""
    method, train = find_method(config.train.method), learner.train
    learner.settings = replace(learner.settings, dr=replace(learner.settings.dr, every=1))  # a pass in every round
    order = shuffle_rows(train, derive_seed(config.train.seed, 0, 3), arrays)
    visited = [int(domain) for domain in train.occupied[:1]]
    slices = {}
    for domain in visited:
        start, stop = train.offsets[[domain, domain + 1]].tolist()
        slices[domain] = order[start : min(stop, start + config.train.batch_size)]
    rows = next(iter(slices.values()), order[:0])
    round_ = Round(epoch=0, number=0, slices=slices, shuffled=rows if method.mixes else None)
    measure_statistics(learner.engine, learner.shared, learner.specific, train, collective)
    before = _loss(learner, visited, rows)
    if method.shared and not config.train.only_domains:
        method.shared(learner)(round_)
    if method.specific:
        if learner.settings.dr.k > 0:
            learner.supports = SupportSample(collective, train, learner.settings.dr.support_rows, order)
        method.specific(learner)(round_)
    return before, _loss(learner, visited, rows), len(rows)


@torch.no_grad()
def _loss(learner: Learner, visited: list[int], rows: torch.Tensor) -> float:
    """Mean loss of the step's rows at theta_S + theta_i; all ranks must call this."""
    visit = Visit(learner.train, rows)
    learner.prefetch([visit] if visited else [])
    if not visited:
        return 0.0
    theta = Theta(learner.shared, learner.specific.get(visited[0]))
    logits = learner.engine.predict(theta, visit)
    labels = learner.train.labels[rows].to(logits)
    return float(binary_cross_entropy_with_logits(logits, labels))
