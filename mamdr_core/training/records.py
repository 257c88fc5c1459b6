"""A run's record in the lake: its row in training_runs and its rows in domain_metrics."""

import math
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F

from mamdr_core.engine.metrics import DetailedMetrics, DomainMetrics
from mamdr_core.errors import MamdrError
from mamdr_core.lake.champion import resolve_run
from mamdr_core.lake.core.sql import literal
from mamdr_core.lake.core.tables import Lake
from mamdr_core.object_store import place_of
from mamdr_core.training.curve import Validation
from schemas import TABLES
from schemas.spark import spark_schema


def record_run(spark: SparkSession, lake: Lake, run: Mapping[str, Any]) -> None:
    """Write a run's row, replacing the one that it has; columns that `run` lacks become null."""
    table = TABLES["training_runs"]
    row = tuple(run.get(name) for name in table.column_names)
    frame = spark.createDataFrame([row], spark_schema(table))
    lake.merge(table, frame, "old.run_id = new.run_id", {name: f"new.{name}" for name in table.column_names})


def record_metrics(
    spark: SparkSession, lake: Lake, run_id: str, domain_ids: tuple[str, ...], metrics: Mapping[str, DomainMetrics]
) -> None:
    """Write a run's figures by domain and split, replacing those of the same splits that it has."""
    if not re.fullmatch(r"[\w-]+", run_id):
        raise MamdrError(f"{run_id!r} is not a run's id (letters, digits, _ and -)")
    rows = [
        (run_id, domain, domain_ids[domain], split, *_figures(measured, domain))
        for split, measured in metrics.items()
        for domain in measured.rows.nonzero().flatten().tolist()
    ]
    table = TABLES["domain_metrics"]
    frame = spark.createDataFrame(rows, spark_schema(table))
    splits = ", ".join(literal(split) for split in metrics)
    lake.overwrite_where(table, frame, f"run_id = {literal(run_id)} AND split IN ({splits})")


def record_curve(spark: SparkSession, lake: Lake, run_id: str, curve: Sequence[Validation]) -> None:
    """Write a run's validations, replacing those that it has."""
    table = TABLES["training_curves"]
    rows = [{"run_id": run_id, **validation.plain()} for validation in curve]
    frame = spark.createDataFrame([tuple(map(row.get, table.column_names)) for row in rows], spark_schema(table))
    lake.overwrite_where(table, frame, f"run_id = {literal(run_id)}")


def _figures(measured: DomainMetrics, domain: int) -> tuple[Any, ...]:
    named = (measured.auc, measured.logloss, measured.mean_prediction, measured.oracle_auc, measured.pcoc)
    values = (known(float(figure[domain])) for figure in named)
    return int(measured.rows[domain]), int(measured.clicks[domain]), *values, *_details(measured.detail, domain)


def _details(detail: DetailedMetrics | None, domain: int) -> tuple[Any, ...]:
    """calibration_error, gauc, gauc_rows, groups, ndcg and hit_rate; null where there are none."""
    if detail is None:
        return (None,) * 6
    gauc, rows, groups, error, *by_cutoff = detail.figures[:, domain].tolist()
    names = [str(k) for k in detail.settings.cutoffs]
    maps: list[dict[str, float] | None] = [None, None]
    if groups:
        maps = [dict(zip(names, each, strict=True)) for each in (by_cutoff[: len(names)], by_cutoff[len(names) :])]
    return known(error), known(gauc), int(rows), int(groups), *maps


def overall_figures(measured: DomainMetrics, prefix: str = "") -> dict[str, Any]:
    """`DomainMetrics.overall` as JSON and SQL have it, None for NaN, each name with a prefix."""
    return {
        prefix + name: {k: known(each) for k, each in value.items()} if isinstance(value, dict) else known(value)
        for name, value in measured.overall().items()
    }


def known(value: float) -> float | None:
    """JSON and SQL have no NaN."""
    return None if math.isnan(value) else value


def find_run(lake: Lake, run_id: str) -> dict[str, Any]:
    """The row in training_runs of a run that has a package, which is in `package`.

    Args:
        lake: has its record.
        run_id: an id; champion, or champion@2026-01-02, see `resolve_run`; empty: the newest that ended well.

    Raises:
        MamdrError: there is none, or it has no package.
    """
    runs: DataFrame = lake.read("training_runs")
    is_it = F.col("run_id") == resolve_run(lake, run_id) if run_id else F.col("status") == "ok"
    row = runs.where(is_it).orderBy(F.desc("started_at")).first()
    if row is None:
        raise MamdrError(f"training_runs of {lake.root} has no run {run_id or 'that ended well'}")
    if not row["package"]:
        raise MamdrError(f"run {row['run_id']} has no package: its status is {row['status']}")
    return {**row.asDict(), "package": package_of(lake, row)}


def package_of(lake: Lake, row: Row) -> str:
    """The folder of a run's package: this lake's, which may be a copy, or else the one that was recorded."""
    own = lake.path_of("packages", row["run_id"])
    return own if place_of(own).exists() else str(row["package"])


def code_version() -> str | None:
    """Git version of this code, with + where files were changed; None outside a checkout."""
    folder = Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git(folder, "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()
