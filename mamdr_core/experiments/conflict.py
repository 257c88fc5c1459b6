"""conflict on the driver: agreement of domain gradients at theta_S of a run, before and after rounds of DN."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from pyspark.sql import SparkSession

from mamdr_core.config.experiments import ConflictSettings
from mamdr_core.config.job_config import Config, with_values
from mamdr_core.engine.columns import Columns
from mamdr_core.engine.plan import RoundPlan
from mamdr_core.experiments.gradients import (
    Agreement,
    Pairs,
    cosine_matrix,
    domain_gradients,
    draw_pairs,
    measure_pairs,
)
from mamdr_core.experiments.plots import plot_conflict
from mamdr_core.lake.core.few import local_frame
from mamdr_core.lake.core.sql import literal
from mamdr_core.learning.domain_negotiation import DomainNegotiation
from mamdr_core.learning.learner import Learner
from mamdr_core.parallel.collective import SingleProcess
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.object_store import as_path
from mamdr_core.training.building import make_learner
from mamdr_core.training.choices import Choices, choose_engine, place_columns
from mamdr_core.training.files.folders import staged
from mamdr_core.training.rounds import make_rounds
from mamdr_core.training.statistics import measure_statistics
from mamdr_core.training.trained_run import TrainedRun, open_trained
from schemas import TABLES
from schemas.spark import spark_schema

logger = logging.getLogger(__name__)

KEPT_BYTES = 1e9
"""Approximate size of the gradients that are kept in memory."""
MOST_SHOWN = 500
"""Largest number of domains in a heat map."""


def measure_conflict(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Measure gradient conflict of a run and replace its rows in conflicts and domain_conflicts.

    Returns:
        run_id, domains, pairs, pairs_total, dn_rounds, figures (files), and for the stages `before` and `after`
        mean_cosine, std_error, negative_share, mean_inner_product.

    Raises:
        MamdrError: unknown run, missing package, or fewer than two domains with nonzero gradients.
    """
    settings = config.conflict
    trained = open_trained(spark, config, settings.run_id, ["train"])
    train = place_columns({"train": trained.share.columns("train")}, trained.device, SingleProcess())["train"]
    domains = np.flatnonzero(trained.pinned.counts["train"])
    pairs = draw_pairs(domains, settings.max_pairs, settings.seed)
    plan = _plan(trained, settings)
    learner = _dn_learner(trained, train, settings, _choose(config, trained, plan))
    train = trained.package.with_mixed_logits(train, learner.engine, trained.config.train.mixed, left_out=True)
    learner.train = train
    stages = {"before": _measure(learner, train, pairs, settings)}
    if settings.dn_rounds:
        _negotiate(learner, trained, plan, settings)
        stages["after"] = _measure(learner, train, pairs, settings)
    for stage, agreement in stages.items():
        if not agreement.known.any():
            raise MamdrError(f"run {trained.run_id}: fewer than two domains have a nonzero gradient")
        logger.info(
            "%s: mean cosine %.4f (standard error %.4f), %.1f %% of %d pairs in conflict",
            stage, *agreement.mean_cosine(), 100 * agreement.negative_share()[0], int(agreement.known.sum()),
        )  # fmt: skip
    _record(trained, settings, stages)
    by_stage = {
        stage: {
            "mean_cosine": agreement.mean_cosine()[0],
            "std_error": agreement.mean_cosine()[1],
            "negative_share": agreement.negative_share()[0],
            "mean_inner_product": agreement.mean_inner_product(),
        }
        for stage, agreement in stages.items()
    }
    return {
        "run_id": trained.run_id,
        "domains": len(domains),
        "pairs": len(pairs.first),
        "pairs_total": pairs.total,
        "dn_rounds": settings.dn_rounds,
        "figures": _draw(trained, stages),
        **by_stage,
    }


def _plan(trained: TrainedRun, settings: ConflictSettings) -> RoundPlan:
    """Rounds of DN with the same slices as in the run."""
    train = trained.config.train
    return RoundPlan(trained.pinned.counts["train"], train.rounds_per_epoch, train.smallest_slice, settings.seed)


def _choose(config: Config, trained: TrainedRun, plan: RoundPlan) -> Choices:
    """The device of the run, and an engine that suits the number of steps in the rounds of DN."""
    rows = steps = 0
    for number in range(config.conflict.dn_rounds):
        start_n, stop_n = plan.slices(*divmod(number, plan.rounds))
        rows += int((stop_n - start_n).sum())
        steps += int(-(-(stop_n - start_n) // trained.config.train.batch_size).sum())
    name = config.train.engine if steps else "eager"
    return Choices(trained.device, choose_engine(name, trained.device, rows, SingleProcess(), steps))


def _dn_learner(trained: TrainedRun, train: Columns, settings: ConflictSettings, choices: Choices) -> Learner:
    """A DN learner that starts from theta_S of the run and takes small SGD steps."""
    config = with_values(
        trained.config,
        {
            "train.method": "dn",
            "train.options": {},
            "train.warm_start": "",
            "train.only_domains": (),
            "train.seed": settings.seed,
            "train.tables": "replicated",
            "train.precision": "fp32",
            "train.inner": {"optimizer": "sgd", "lr": settings.lr},
            "train.outer": {"optimizer": "sgd", "beta": settings.beta},
        },
    )
    everything = np.ones(len(trained.pinned.domain_ids), dtype=np.bool_)
    learner = make_learner(config, trained.pinned, everything, SingleProcess(), trained.share, train, choices)
    learner.shared = trained.package.shared
    return learner


def _negotiate(learner: Learner, trained: TrainedRun, plan: RoundPlan, settings: ConflictSettings) -> None:
    """Run the rounds of DN (Alg. 1)."""
    epochs = range(-(-settings.dn_rounds // plan.rounds))
    rounds = (round_ for epoch in epochs for round_ in make_rounds(plan, epoch, learner.train, 0, trained.share.arrays))
    negotiate = DomainNegotiation(learner)
    for round_ in islice(rounds, settings.dn_rounds):
        negotiate(round_)


def _measure(learner: Learner, train: Columns, pairs: Pairs, settings: ConflictSettings) -> Agreement:
    measure_statistics(learner.engine, learner.shared, {}, train, SingleProcess())  # at theta_S, and after DN's rounds
    gradients = partial(domain_gradients, learner.engine, learner.shared, train, settings.rows, settings.seed)
    keep = max(2, int(KEPT_BYTES / learner.shared.dense.nbytes))
    return measure_pairs(gradients, pairs, keep)


def _record(trained: TrainedRun, settings: ConflictSettings, stages: Mapping[str, Agreement]) -> None:
    made_at = datetime.now(UTC)
    ids = trained.pinned.domain_ids
    summaries, found = [], []
    for stage, agreement in stages.items():
        known_K, pairs = agreement.known, agreement.pairs
        (cosine, error), (share, share_error) = agreement.mean_cosine(), agreement.negative_share()
        counted = len(np.unique(np.concatenate([pairs.first[known_K], pairs.second[known_K]])))
        measured, left_out = int(known_K.sum()), int((~known_K).sum())
        summaries.append(
            (trained.run_id, stage, counted, measured, pairs.total, left_out, cosine, error, share, share_error,
             agreement.mean_inner_product(), agreement.quantiles(), settings.rows, settings.dn_rounds, settings.lr,
             settings.beta, settings.seed, made_at)
        )  # fmt: skip
        columns = (pairs.first, pairs.second, agreement.cosine_K, agreement.inner_K)
        each = zip(*(column[known_K].tolist() for column in columns), strict=True)
        found += [
            (trained.run_id, stage, one, other, ids[one], ids[other], value, inner) for one, other, value, inner in each
        ]
    for name, rows in (("conflicts", summaries), ("domain_conflicts", found)):
        frame = local_frame(trained.lake.spark, rows, spark_schema(TABLES[name]))
        trained.lake.overwrite_where(name, frame, f"run_id = {literal(trained.run_id)}")


def _draw(trained: TrainedRun, stages: Mapping[str, Agreement]) -> list[str]:
    """Draw heat maps ordered by the clusters of the first stage; none for a sample of pairs or for many domains."""
    pairs = stages["before"].pairs
    domains = np.unique(np.concatenate([pairs.first, pairs.second])).tolist()
    if len(pairs.first) < pairs.total or len(domains) > MOST_SHOWN:
        return []
    names = [trained.pinned.domain_ids[domain] for domain in domains]
    matrices = {stage: cosine_matrix(agreement, domains) for stage, agreement in stages.items()}
    with staged(as_path(trained.lake.path_of("reports", trained.run_id))) as folder:
        plot_conflict(matrices, names, folder / "conflict.svg")
    return [trained.lake.path_of("reports", trained.run_id, "conflict.svg")]
