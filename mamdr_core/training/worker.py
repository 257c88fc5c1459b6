"""A training run on one rank: read, train, evaluate, save."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from mamdr_core.config.job_config import Config
from mamdr_core.engine.columns import Columns
from mamdr_core.engine.metrics import DomainMetrics
from mamdr_core.engine.platt import Calibration
from mamdr_core.learning.learner import Learner
from mamdr_core.learning.methods import find_method
from mamdr_core.mixed.mixed_model import MixedModel
from mamdr_core.parallel.collective import Collective
from mamdr_core.runtime.clock import Clock
from mamdr_core.runtime.errors import DivergedError, MamdrError
from mamdr_core.runtime.garbage import rare_collection
from mamdr_core.runtime.object_store import as_path
from mamdr_core.runtime.stop_request import StopRequest, on_sigterm
from mamdr_core.shards.loading import Share
from mamdr_core.shards.pinned import PinnedExamples
from mamdr_core.training.building import initial_theta, make_learner, make_mixed, rows_planned
from mamdr_core.training.checkpoint.checkpoints import STOP, CheckpointLocation, Checkpoints
from mamdr_core.training.choices import Choices, choose_together, place_columns
from mamdr_core.training.evaluation import calibrate, evaluate_calibrated
from mamdr_core.training.files.manifest import FileHashes
from mamdr_core.training.last_layer import refit_last_layer
from mamdr_core.training.memory_check import check_memory, shape_of
from mamdr_core.training.network_on_mixed import NetworkOnMixed
from mamdr_core.training.own_code import check_on_ranks, try_structure
from mamdr_core.training.package import load_calibration, save_rank
from mamdr_core.training.profiling import Profiler
from mamdr_core.training.run_domains import domains_of
from mamdr_core.training.statistics import measure_statistics
from mamdr_core.training.trainer import Trainer, TrainingOutcome
from mamdr_core.training.warm_start import ParentParameters
from schemas import SPLITS

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RankTask:
    """The task that the driver sends to all ranks.

    Attributes:
        owner: rank of each domain, int64 [n].
        package: folder to which the ranks write their parameters.
        checkpoints: where checkpoints are stored; None: none are written.
        parent: package of the parent; empty: a cold start.
        plugins: SHA-256 of the source on the driver, by name of the plugin.
        profile: folder to which rank 0 writes a profile; empty: no profile.
    """

    config: Config
    pinned: PinnedExamples
    owner: NDArray[np.int64]
    package: str
    checkpoints: CheckpointLocation | None = None
    parent: str = ""
    plugins: Mapping[str, str] = field(default_factory=dict)
    profile: str = ""


@dataclass(frozen=True)
class RankResult(TrainingOutcome):
    """Result of a rank: the outcome of training, and figures of all ranks together, except `seconds` and `saved`.

    Only rank 0 returns values whose size grows with domains or validations: the driver collects the results of all
    ranks, and Spark bounds their total size (`spark.driver.maxResultSize`).

    Attributes:
        metrics: metrics of all domains by split; empty except on rank 0.
        saved: hashes of the files that this rank wrote: one per half GB of its theta_i, and a few others.
        uncalibrated: metrics of the test split without calibration; None without calibration, and except on rank 0.
        profile: files of the profile; empty except on rank 0.
    """

    metrics: dict[str, DomainMetrics]
    rows_descended: int
    read_bytes: int
    skipped_steps: int
    specific_bytes: int
    specific_row_bytes: int
    specific_kind: str
    variances: dict[str, float]
    inner_seconds: float
    data_wait_seconds: float | None
    engine: str
    seconds: dict[str, float]
    device: str
    saved: FileHashes
    uncalibrated: DomainMetrics | None = None
    profile: list[str] = field(default_factory=list)


def train_rank(task: RankTask, collective: Collective) -> RankResult:
    """Train on this rank; all ranks must call this with the same task. See `mamdr_core.training.driver` for the driver.

    Raises:
        StoppedError: a rank was asked to stop.
    """
    profiler = Profiler(task.profile) if task.profile and collective.rank == 0 else None
    clock = Clock(profiler.mark if profiler else None)
    settings = task.config.train
    check_on_ranks(task.config, task.plugins, collective)
    method = find_method(settings.method)
    own, domains = task.owner == collective.rank, domains_of(task.config, task.pinned)
    choices = choices_of(task, collective)
    device = choices.device
    with clock.phase("read"):
        share = share_of(task, own & domains.reads)
        measured = share if domains.is_whole else share_of(task, own & domains.learns)  # without support domains
        columns = {split: measured.columns(split) for split in SPLITS}
        all_train = {} if domains.is_whole else {"with_supports": share.columns("train")}
        columns = place_columns(columns | all_train, device, collective)
        train = columns.pop("with_supports", columns["train"])
        parent = ParentParameters(task.parent, device, settings.scratch) if task.parent else None
        inherited = parent.has_specific(len(own)) & own if parent else np.zeros_like(own)
        shape = shape_of(task.config, task.pinned, own & domains.learns, inherited, columns, train, collective)
        maps_state = check_memory(task.config, shape, device, collective, share.arrays.mapped)
        built_of = (own, collective, share, train, choices, inherited, maps_state)
        learner = make_learner(task.config, task.pinned, *built_of)
        if parent and not (task.checkpoints and task.checkpoints.newest):
            parent.copy_to(learner, collective, method.mixed)
    logger.info("rank %d read %s", collective.rank, share.figures.summary())
    request = StopRequest(as_path(task.checkpoints.folder) / STOP if task.checkpoints and not collective.rank else None)
    mixed = on_mixed = None
    if method.mixed:
        inherited_mixed = parent.mixed_state(collective, own) if parent else None
        mixed = make_mixed(task.config, learner.engine, task.pinned, train, collective, inherited_mixed)
        initial = partial(initial_theta, task.config, task.pinned, device, collective, share)
        on_mixed = NetworkOnMixed(mixed, learner, initial, settings.mixed.alone_above)
    trainer = Trainer(
        settings=settings,
        learner=learner,
        method=method,
        owned_n=own,
        counts_n=domains.rows(task.pinned),
        collective=collective,
        val=columns["val"],
        measured=columns["train"],
        arrays=share.arrays,
        clock=clock,
        checkpoints=Checkpoints(task.checkpoints, settings.checkpoint, collective, request),
        warm=parent is not None and parent.has_mixed == method.mixed,
        mixed=on_mixed,
        profiler=profiler,
    )
    with on_sigterm(request.set), domain_named(task.pinned), rare_collection():
        outcome = trainer.train()
    if on_mixed and not on_mixed.is_kept:
        mixed = None
    with clock.phase("evaluate"):
        if mixed:
            columns = {split: mixed.with_base_logits(rows) for split, rows in columns.items()}
        metrics, uncalibrated, calibration = _measure(task, learner, columns, collective)
    with clock.phase("save"):
        written = (learner.shared, learner.specific, mixed, settings.scratch, calibration)
        saved = save_rank(task.package, collective.rank, *written)
    read_bytes = share.figures.read_bytes + (0 if domains.is_whole else measured.figures.read_bytes)
    specific_kind = "mixed" if mixed else "dense" if method.specific else "none"
    result = _result(learner, mixed, specific_kind, outcome, choices, read_bytes, clock, collective, metrics, saved)
    if collective.rank:
        return result
    return replace(result, uncalibrated=uncalibrated, profile=profiler.finish(clock.seconds) if profiler else [])


def choices_of(task: RankTask, collective: Collective) -> Choices:
    """The device and the engine of a task, the same on all ranks; all ranks must call this."""
    reads, config = domains_of(task.config, task.pinned).reads, task.config
    rows_by_rank = np.bincount(task.owner[reads], task.pinned.counts["train"][reads])
    trouble = try_structure(config, task.pinned)
    return choose_together(config.train, rows_planned(config, int(rows_by_rank.max())), collective, trouble)


def _result(
    learner: Learner,
    mixed: MixedModel | None,
    specific_kind: str,
    outcome: TrainingOutcome,
    choices: Choices,
    read_bytes: int,
    clock: Clock,
    collective: Collective,
    metrics: dict[str, DomainMetrics],
    saved: FileHashes,
) -> RankResult:
    """Result of this rank, with sums and maxima over all ranks; all ranks must call this."""
    engine, store = learner.engine, learner.specific
    specific_bytes = store.dense_bytes + (mixed.nbytes if mixed else 0)
    counted = [learner.rows_descended, read_bytes, engine.skipped, specific_bytes, store.row_bytes]
    sums = [int(total) for total in collective.all_reduce(torch.tensor(counted, dtype=torch.float64)).tolist()]
    waited = torch.tensor([[clock.seconds.get("inner", 0.0), engine.waited]], dtype=torch.float64)
    inner_seconds, data_wait_seconds = collective.all_gather(waited).max(0).values.tolist()
    return RankResult(
        **vars(outcome),
        metrics=metrics if collective.rank == 0 else {},
        rows_descended=sums[0],
        read_bytes=sums[1],
        skipped_steps=sums[2],
        specific_bytes=sums[3],
        specific_row_bytes=sums[4],
        specific_kind=specific_kind,
        variances=mixed.variances() if mixed else {},
        inner_seconds=inner_seconds,
        data_wait_seconds=data_wait_seconds if choices.engine == "fast" else None,
        engine=choices.engine,
        seconds=clock.seconds,
        device=str(choices.device),
        saved=saved,
    )


def _measure(
    task: RankTask, learner: Learner, columns: Mapping[str, Columns], collective: Collective
) -> tuple[dict[str, DomainMetrics], DomainMetrics | None, Calibration | None]:
    """Metrics by split (`val` before anything is fitted to it), those of `test` uncalibrated, and the calibration."""
    settings, detail = task.config.train, task.config.metrics
    model = learner.engine, learner.shared, learner.specific
    if find_method(settings.method).specific or settings.only_domains:  # otherwise the best validation measured them
        measure_statistics(*model, columns["train"], collective)

    def measure(split: str, *calibrations: Calibration | None) -> list[DomainMetrics]:
        return evaluate_calibrated(*model, columns[split], calibrations, collective, detail=detail)

    metrics = {"val": measure("val", None)[0]}
    if settings.refit_last_layer and not settings.only_domains:  # this changes the inputs of no layer, so no statistics
        refit_last_layer(learner.engine, learner.shared, columns["val"], collective, learner.seed)
    calibration = None
    if settings.calibration != "none":
        prior = None
        if settings.only_domains:  # other domains, and the shared curve, keep the parent's calibration
            prior = load_calibration(task.parent, settings.scratch) if task.parent else None
            prior = prior or Calibration.identity(len(task.pinned.domain_ids))
        calibration = calibrate(*model, columns["val"], collective, prior, settings.calibration)
    (metrics["train"],) = measure("train", calibration)
    metrics["test"], *uncalibrated = measure("test", calibration, *([None] if calibration else []))
    return metrics, uncalibrated[0] if uncalibrated else None, calibration


def share_of(task: RankTask, own: NDArray[np.bool_]) -> Share:
    """Loader of the rows of the domains of a mask, bool [n]."""
    train = task.config.train
    read = (train.host_memory, train.scratch, train.reader)
    return Share(task.pinned, task.config.features, own, *read, holds_fixed=False)


@contextmanager
def domain_named(pinned: PinnedExamples) -> Iterator[None]:
    """Add the id of the domain to errors of the engine, which only knows its index."""
    try:
        yield
    except DivergedError as error:
        if error.domain is None:
            raise
        raise MamdrError(error.message(f"domain {pinned.domain_ids[error.domain]!r}")) from error
