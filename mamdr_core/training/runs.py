"""A run from its id to its record: its identity, its place for the ranks' files, and how it ends."""

import contextlib
import hashlib
import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pyspark.sql import SparkSession

from mamdr_core.config import Config, dump_config, plain_config
from mamdr_core.errors import MamdrError, StoppedError
from mamdr_core.lake.core.tables import Lake
from mamdr_core.object_store import Place, is_remote, place_of
from mamdr_core.run_ids import make_run_id
from mamdr_core.shards.pinned import PinnedExamples
from mamdr_core.training.claims import claim
from mamdr_core.training.own_code import sources_of, try_structure
from mamdr_core.training.package import seal_package
from mamdr_core.training.parents import Parent, open_parent
from mamdr_core.training.rank import RankResult
from mamdr_core.training.records import code_version, known, overall_figures, record_curve, record_metrics, record_run
from mamdr_core.training.run_domains import RunDomains, domains_of
from mamdr_core.training.sealed import MANIFEST
from mamdr_core.training.storage import remove
from mamdr_core.training.tracking import Ended, track

_ELSEWHERE = (
    *("reader", "scratch", "host_memory", "specific_memory", "table_memory", "group_memory", "device"),
    *("launcher", "start_timeout", "stall_limit", "checkpoint", "resume", "restarts", "examples_version"),
    *("profile", "dry_run"),
)
"""Keys of `train` that say where and how safely a run happens, not what it computes; and one of the pinned versions."""


def cell_of(config: Config, pinned: PinnedExamples) -> str:
    """What a run computes, as 16 hexadecimal digits: the same for the same features, model, training and inputs."""
    facts = deciding(config) | {"versions": pinned.versions}
    if sources := sources_of(config):
        facts["plugins"] = sources
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


_OF_SOME = ("warm_start", "only_domains", "days", "options")
"""Settings that only some runs have."""


def deciding(config: Config) -> dict[str, Any]:
    """The settings that decide what a run computes on given examples.

    Paths, and where a run happens (device, memory, scratch), do not matter; what else decides the examples is in the
    pinned versions.
    """
    values = plain_config(config)
    train = {name: value for name, value in values["train"].items() if name not in _ELSEWHERE}
    train["epochs"] = config.train.most_epochs
    return {
        "features": [{**feature, "path": ""} for feature in values["features"]],
        "model": {name: value for name, value in values["model"].items() if value or name != "options"},
        # What only some runs have is left out of the others, which so stay the cells that they were.
        "train": {name: value for name, value in train.items() if value or name not in _OF_SOME},
    }


@dataclass(frozen=True)
class Run:
    """A run that is being made.

    Attributes:
        lake: where it is recorded.
        config: its resolved configuration.
        pinned: what it trains on.
        row: its row in training_runs, as far as it is known at the start.
        parent: the run that it starts from; None: it starts cold.
    """

    lake: Lake
    config: Config
    pinned: PinnedExamples
    row: dict[str, Any]
    parent: Parent | None = None

    @property
    def domains(self) -> RunDomains:
        """The domains of the run."""
        return domains_of(self.config, self.pinned)

    @property
    def id(self) -> str:
        """Names the run."""
        return str(self.row["run_id"])

    @property
    def package(self) -> Place:
        """The folder of its package."""
        return place_of(self.lake.path_of("packages", self.id))

    @property
    def scratch(self) -> Place:
        """The folder that ranks write to; an object store has no renames, and there it is the package's."""
        return self.package if is_remote(self.lake.root) else self.package.parent / f".{self.id}.part"

    @property
    def checkpoints(self) -> Place:
        """The folder of its checkpoints."""
        return place_of(self.lake.path_of("checkpoints", self.id))

    def begin(self, spark: SparkSession) -> None:
        """Record that it runs, once more where it is resumed."""
        claim(self.checkpoints)
        self.row["attempts"] = (self.row.get("attempts") or 0) + 1
        record_run(spark, self.lake, {**self.row, "status": "running"})

    def lost(self, spark: SparkSession, error: BaseException, is_last: bool) -> None:
        """Record that ranks were lost, and are started again unless that was the last attempt.

        A run of a comparison is recorded when it ends.
        """
        self.row["causes"] = [*(self.row.get("causes") or []), str(error)[:10_000]]
        self.row["attempts"] = (self.row.get("attempts") or 1) + (0 if is_last else 1)
        if self.row["experiment"]:
            return
        with contextlib.suppress(Exception):  # going on matters more than the record of it
            record_run(spark, self.lake, {**self.row, "status": "running"})

    def fail(self, spark: SparkSession, error: BaseException | str) -> None:
        """Record why it ended, and remove what its ranks wrote of its package; checkpoints stay, to be resumed.

        What ends the process after a run has ended well, while trackers are told of it, changes nothing.
        """
        if self.row.get("status") == "ok":
            return
        status = "stopped" if isinstance(error, StoppedError) else "failed"
        ended = {"status": status, "error": str(error)[:10_000], "finished_at": datetime.now(UTC)}
        with contextlib.suppress(Exception):  # the cause of the failure matters more than its record
            record_run(spark, self.lake, {**self.row, **ended})
        track(Ended({**self.row, **ended}, self.config, self.pinned.domain_ids))
        with contextlib.suppress(OSError):  # the store, or the disk, may be what failed
            if self.scratch != self.package or not (self.package / MANIFEST).exists():
                remove(self.scratch)
            if self.row["experiment"] or not any(child.is_dir() for child in self.checkpoints.iterdir()):
                remove(self.checkpoints)

    def finish(self, spark: SparkSession, results: list[RankResult], seconds: dict[str, float]) -> dict[str, Any]:
        """Seal the package, then record the figures by domain, then the run: nothing names what is not complete.

        Args:
            spark: the session.
            results: of the ranks.
            seconds: by phase, so far.

        Returns:
            The run's figures, see `mamdr_core.training.run.train_mamdr`.

        Raises:
            MamdrError: the ranks' files are not where the driver sees them.
        """
        saved = {name: facts for ended in results for name, facts in ended.saved.items()}
        missing = [name for name in saved if not (self.scratch / name).is_file()]
        if missing:
            raise MamdrError(
                f"ranks wrote {', '.join(missing)} where the driver cannot see: lake.root must be a shared folder"
            )
        result = results[0]
        figures = _figures(self, result, seconds | result.seconds)
        package = self.package
        facts = asdict(self.pinned)
        names = ["versions", "sizes", "numeric", *(["quantiles"] if self.pinned.quantiles else [])]
        texts = {
            "config.yaml": self.row["config"],
            "pinned.json": json.dumps({name: facts[name] for name in names}, indent=1),
            "metrics.json": json.dumps(figures, indent=1),
        }
        if package != self.scratch:
            remove(package)  # of an attempt that was lost before it could record the package
        seal_package(str(self.scratch), str(package), saved, texts)
        figures["package"] = str(package)
        record_metrics(spark, self.lake, self.id, self.pinned.domain_ids, result.metrics)
        record_curve(spark, self.lake, self.id, result.curve)
        recorded = {name: value for name, value in figures.items() if name not in ("examples_version", "uncalibrated")}
        row = {**self.row, **recorded, "status": "ok", "finished_at": datetime.now(UTC)}
        record_run(spark, self.lake, row)
        self.row["status"] = "ok"
        track(Ended(row, self.config, self.pinned.domain_ids, figures, result.metrics, result.curve))
        return figures


def new_run(lake: Lake, config: Config, pinned: PinnedExamples, experiment: str | None = None) -> Run:
    """A run that has not begun.

    Args:
        lake, config, pinned: see `Run`.
        experiment: the comparison or sweep that it belongs to.

    Raises:
        MamdrError: the run that it is to start from does not fit, or domains that it names cannot learn.
    """
    now = datetime.now(UTC)
    row = {
        "run_id": make_run_id(now, config.train.method),
        "method": config.train.method,
        "model": config.model.name,
        "parent_run_id": config.train.warm_start or None,
        "code_version": code_version(),
        "config": dump_config(config),
        "plugins": sources_of(config) or None,
        "input_versions": pinned.versions,
        "ds": config.examples.until,
        "ranks": config.train.ranks,
        "experiment": experiment,
        "cell": cell_of(config, pinned),
        "started_at": now,
    }
    return make_run(lake, config, pinned, row)


def make_run(lake: Lake, config: Config, pinned: PinnedExamples, row: dict[str, Any]) -> Run:
    """A run with its parent, found by its id.

    Where theta_S stays the parent's, numeric features keep the scale that it learned with, and the run is by default of
    the parent's day, whose place it takes where it is promoted.
    """
    parent = open_parent(lake, config, pinned)
    if parent and (config.train.only_domains or config.train.mixed.prior == "parent"):
        pinned = replace(pinned, numeric=parent.numeric)
    if parent and config.train.only_domains:
        row = {**row, "ds": row["ds"] or parent.ds}
    run = Run(lake, config, pinned, row, parent)
    # Domains that cannot learn, and a structure that cannot be trained, are reported before anything begins.
    _ = run.domains
    try_structure(config, pinned)
    return run


def _figures(run: Run, result: RankResult, seconds: dict[str, float]) -> dict[str, Any]:
    config, pinned, test = run.config, run.pinned, result.metrics["test"]
    calibrated = {}
    if result.uncalibrated:
        before = overall_figures(result.uncalibrated)
        calibrated = {"uncalibrated": {name: before[name] for name in ("pcoc", "calibration_error")}}
    return {
        "run_id": run.id,
        "method": config.train.method,
        "model": config.model.name,
        "ranks": config.train.ranks,
        "device": result.device,
        "engine": result.engine,
        "precision": config.train.precision if result.engine == "fast" else "fp32",
        "epochs": result.epochs,
        "rounds": result.rounds,
        "best_round": result.best_round,
        "dr_passes": result.dr_passes,
        "parent_run_id": run.row["parent_run_id"],
        "plugins": run.row.get("plugins"),
        "domains": int((run.domains.rows(pinned) > 0).sum()),
        "domains_measured": int((~test.auc.isnan()).sum()),
        "train_rows": int(run.domains.rows(pinned).sum()),
        "val_auc": known(result.metrics["val"].mean_auc()),
        "test_auc": known(test.mean_auc()),
        "weighted_test_auc": known(test.weighted_auc()),
        **overall_figures(test, "test_"),
        "oracle_test_auc": known(_mean_oracle(result)),
        "samples_per_second": round(result.rows_descended / max(result.inner_seconds, 1e-9), 1),
        "data_wait_seconds": None if result.data_wait_seconds is None else round(result.data_wait_seconds, 3),
        "skipped_steps": result.skipped_steps,
        "specific_kind": result.specific_kind,
        "specific_bytes": result.specific_bytes,
        "specific_row_bytes": result.specific_row_bytes,
        "variances": {name: float(f"{value:.4g}") for name, value in result.variances.items()},
        "read_bytes": result.read_bytes,
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "examples_version": pinned.versions["examples"],
        "attempts": run.row.get("attempts") or 1,
        **calibrated,
        "profile": result.profile or None,
    }


def _mean_oracle(result: RankResult) -> float:
    oracle = result.metrics["test"].oracle_auc
    return float(oracle[~oracle.isnan()].mean())
