"""A run: its fingerprint, its folders, and its records from start to end."""

import contextlib
import hashlib
import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from mamdr_core.config.job_config import Config, dump_config, plain_config
from mamdr_core.lake.core.tables import Lake
from mamdr_core.runtime.errors import MamdrError, StoppedError
from mamdr_core.runtime.object_store import AnyPath, as_path, is_remote
from mamdr_core.runtime.run_ids import make_run_id
from mamdr_core.shards.pinned import PinnedExamples
from mamdr_core.training.checkpoint.claims import claim, is_claimed
from mamdr_core.training.files.folders import remove
from mamdr_core.training.files.manifest import MANIFEST
from mamdr_core.training.own_code import sources_of, try_structure
from mamdr_core.training.package import publish_package
from mamdr_core.training.parents import Parent, open_parent
from mamdr_core.training.records import (
    code_version,
    none_if_nan,
    overall_figures,
    record_curve,
    record_metrics,
    record_run,
    uncalibrated_figures,
)
from mamdr_core.training.run_domains import RunDomains, domains_of
from mamdr_core.training.tracking.tracking import EndedRun, track_run
from mamdr_core.training.worker import RankResult

_EXECUTION_KEYS = (
    *("reader", "scratch", "host_memory", "specific_memory", "table_memory", "group_memory", "device"),
    *("launcher", "start_timeout", "stall_limit", "checkpoint", "resume", "restarts", "examples_version"),
    *("profile", "dry_run"),
)
"""Keys of `train` that do not change what a run computes, and `examples_version`, which is in the pinned versions."""


def fingerprint_of(config: Config, pinned: PinnedExamples) -> str:
    """Fingerprint of a run, 16 hexadecimal digits, of its features, model, training settings, inputs and plugins."""
    facts = fingerprint_settings(config) | {"versions": pinned.versions}
    if sources := sources_of(config):
        facts["plugins"] = sources
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


_OPTIONAL_KEYS = ("warm_start", "only_domains", "days", "options")
"""Settings that enter the fingerprint only if they are set."""


def fingerprint_settings(config: Config) -> dict[str, Any]:
    """The settings that decide what a run computes on given examples.

    Paths and settings of where a run is executed (device, memory, scratch) are left out. Settings that decide the
    examples are represented by the pinned versions.
    """
    values = plain_config(config)
    train = {name: value for name, value in values["train"].items() if name not in _EXECUTION_KEYS}
    train["epochs"] = config.train.most_epochs
    return {
        "features": [{**feature, "path": ""} for feature in values["features"]],
        "model": {name: value for name, value in values["model"].items() if value or name != "options"},
        # Settings that are not set are left out, so that the fingerprints of earlier runs remain valid.
        "train": {name: value for name, value in train.items() if value or name not in _OPTIONAL_KEYS},
    }


@dataclass(frozen=True)
class Run:
    """A run in progress.

    Attributes:
        row: its row in training_runs so far.
        parent: the run from which it starts; None: a cold start.
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
        """Id of the run."""
        return str(self.row["run_id"])

    @property
    def package(self) -> AnyPath:
        """Folder of the package."""
        return as_path(self.lake.path_of("packages", self.id))

    @property
    def scratch(self) -> AnyPath:
        """Folder to which ranks write: the package itself in an object store, which has no renames."""
        return self.package if is_remote(self.lake.root) else self.package.parent / f".{self.id}.part"

    @property
    def checkpoints(self) -> AnyPath:
        """Folder of the checkpoints."""
        return as_path(self.lake.path_of("checkpoints", self.id))

    @property
    def _is_first_attempt(self) -> bool:
        """Whether no earlier attempt can have recorded anything of the run."""
        return int(self.row.get("attempts") or 1) == 1

    def record_start(self) -> None:
        """Record that the run is running, as another attempt if it is resumed."""
        claim(self.checkpoints)
        self.row["attempts"] = (self.row.get("attempts") or 0) + 1
        record_run(self.lake, {**self.row, "status": "running"}, self._is_first_attempt)

    def record_loss(self, error: BaseException, is_last: bool) -> None:
        """Record that ranks were lost, and that they are restarted unless this was the last attempt.

        A run of an experiment is only recorded when it ends.
        """
        self.row["causes"] = [*(self.row.get("causes") or []), str(error)[:10_000]]
        self.row["attempts"] = (self.row.get("attempts") or 1) + (0 if is_last else 1)
        if self.row["experiment"]:
            return
        with contextlib.suppress(Exception):  # restarting matters more than the record
            record_run(self.lake, {**self.row, "status": "running"})

    def record_failure(self, error: BaseException | str) -> None:
        """Record the error, and remove the parts of the package that were written; checkpoints are kept for a resume.

        After a run has succeeded this does nothing: an error of a tracker, for instance, does not fail the run.
        """
        if self.row.get("status") == "ok":
            return
        status = "stopped" if isinstance(error, StoppedError) else "failed"
        ended = {"status": status, "error": str(error)[:10_000], "finished_at": datetime.now(UTC)}
        with contextlib.suppress(Exception):  # the cause of the failure matters more than its record
            record_run(self.lake, {**self.row, **ended})
        track_run(EndedRun({**self.row, **ended}, self.config, self.pinned.domain_ids))
        with contextlib.suppress(OSError):  # the store or the disk may be the cause
            if self.scratch != self.package or not (self.package / MANIFEST).exists():
                remove(self.scratch)
            if self.row["experiment"] or not any(child.is_dir() for child in self.checkpoints.iterdir()):
                remove(self.checkpoints)

    def finish(self, results: list[RankResult], seconds: dict[str, float]) -> dict[str, Any]:
        """Complete the package, then record the metrics by domain, and then the run, so that records are never partial.

        Returns:
            The figures of the run, see `mamdr_core.training.driver.train_mamdr`.

        Raises:
            MamdrError: the driver does not find the files of the ranks.
        """
        saved = {name: facts for ended in results for name, facts in ended.saved.items()}
        missing = [name for name in saved if not (self.scratch / name).is_file()]
        if missing:
            raise MamdrError(
                f"the driver does not find {', '.join(missing)}, which ranks wrote: lake.root must be a shared folder"
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
            remove(package)  # of an attempt that failed before it could record the package
        publish_package(str(self.scratch), str(package), saved, texts)
        figures["package"] = str(package)
        # Meanwhile, a driver on another machine may have resumed the run and recorded it. Trials are not resumed.
        is_new = self._is_first_attempt and (bool(self.row["experiment"]) or is_claimed(self.checkpoints))
        record_metrics(self.lake, self.id, self.pinned.domain_ids, result.metrics, is_new)
        record_curve(self.lake, self.id, result.curve, is_new)
        recorded = {name: value for name, value in figures.items() if name not in ("examples_version", "uncalibrated")}
        row = {**self.row, **recorded, "status": "ok", "finished_at": datetime.now(UTC)}
        record_run(self.lake, row, is_new and bool(self.row["experiment"]))
        self.row["status"] = "ok"
        track_run(EndedRun(row, self.config, self.pinned.domain_ids, figures, result.metrics, result.curve))
        return figures


def new_run(lake: Lake, config: Config, pinned: PinnedExamples, experiment: str | None = None) -> Run:
    """Create a run that has not started.

    Raises:
        MamdrError: the parent is not compatible, or named domains cannot be trained.
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
        "cell": fingerprint_of(config, pinned),
        "started_at": now,
    }
    return make_run(lake, config, pinned, row)


def make_run(lake: Lake, config: Config, pinned: PinnedExamples, row: dict[str, Any]) -> Run:
    """Create a run, with its parent if `train.warm_start` is set.

    If theta_S is that of the parent, numeric features keep the parent's scale. With `train.only_domains`, the logical
    date of the run is by default that of the parent, which it replaces if it is promoted.
    """
    parent = open_parent(lake, config, pinned)
    if parent and (config.train.only_domains or config.train.mixed.prior == "parent"):
        pinned = replace(pinned, numeric=parent.numeric)
    if parent and config.train.only_domains:
        row = {**row, "ds": row["ds"] or parent.ds}
    run = Run(lake, config, pinned, row, parent)
    # Domains and structures that cannot be trained are reported before the run starts.
    _ = run.domains
    try_structure(config, pinned)
    return run


def _figures(run: Run, result: RankResult, seconds: dict[str, float]) -> dict[str, Any]:
    config, pinned, test = run.config, run.pinned, result.metrics["test"]
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
        "val_auc": none_if_nan(result.metrics["val"].mean_auc()),
        "test_auc": none_if_nan(test.mean_auc()),
        "weighted_test_auc": none_if_nan(test.weighted_auc()),
        **overall_figures(test, "test_"),
        "oracle_test_auc": none_if_nan(test.oracle_auc.nanmean().item()),
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
        **uncalibrated_figures(result.uncalibrated),
        "profile": result.profile or None,
    }
