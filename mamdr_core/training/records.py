"""Records of runs in the lake: training_runs, domain_metrics and training_curves."""

import math
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from mamdr_core.engine.metrics import DetailedMetrics, DomainMetrics
from mamdr_core.lake.champion import resolve_run
from mamdr_core.lake.core.few import local_frame
from mamdr_core.lake.core.sql import literal
from mamdr_core.lake.core.tables import Lake
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.object_store import place_of
from mamdr_core.training.curve import Validation
from schemas import TABLES
from schemas.spark import spark_schema


def record_run(spark: SparkSession, lake: Lake, run: Mapping[str, Any]) -> None:
    """Write the row of a run in training_runs, replacing an earlier one; columns missing in `run` become null."""
    table = TABLES["training_runs"]
    row = tuple(run.get(name) for name in table.column_names)
    frame = local_frame(spark, [row], spark_schema(table))
    lake.overwrite_where(table, frame, f"run_id = {literal(run['run_id'])}")


def record_metrics(
    spark: SparkSession, lake: Lake, run_id: str, domain_ids: tuple[str, ...], metrics: Mapping[str, DomainMetrics]
) -> None:
    """Write the metrics of a run by domain and split, replacing earlier ones of the same splits."""
    if not re.fullmatch(r"[\w-]+", run_id):
        raise MamdrError(f"{run_id!r} is not the id of a run (letters, digits, _ and -)")
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
    """Write the validations of a run, replacing earlier ones."""
    table = TABLES["training_curves"]
    rows = [{"run_id": run_id, **validation.plain()} for validation in curve]
    frame = spark.createDataFrame([tuple(map(row.get, table.column_names)) for row in rows], spark_schema(table))
    lake.overwrite_where(table, frame, f"run_id = {literal(run_id)}")


def _figures(measured: DomainMetrics, domain: int) -> tuple[Any, ...]:
    named = (measured.auc, measured.logloss, measured.mean_prediction, measured.oracle_auc, measured.pcoc)
    values = (none_if_nan(float(figure[domain])) for figure in named)
    return int(measured.rows[domain]), int(measured.clicks[domain]), *values, *_details(measured.detail, domain)


def _details(detail: DetailedMetrics | None, domain: int) -> tuple[Any, ...]:
    """calibration_error, gauc, gauc_rows, groups, ndcg and hit_rate of a domain; None where undefined."""
    if detail is None:
        return (None,) * 6
    gauc, rows, groups, error, *by_cutoff = detail.figures[:, domain].tolist()
    names = [str(k) for k in detail.settings.cutoffs]
    maps: list[dict[str, float] | None] = [None, None]
    if groups:
        maps = [dict(zip(names, each, strict=True)) for each in (by_cutoff[: len(names)], by_cutoff[len(names) :])]
    return none_if_nan(error), none_if_nan(gauc), int(rows), int(groups), *maps


def overall_figures(measured: DomainMetrics, prefix: str = "") -> dict[str, Any]:
    """`DomainMetrics.overall` with a prefix for each name, and None instead of NaN."""
    return {
        prefix + name: {k: none_if_nan(each) for k, each in value.items()}
        if isinstance(value, dict)
        else none_if_nan(value)
        for name, value in measured.overall().items()
    }


def uncalibrated_figures(measured: DomainMetrics | None) -> dict[str, Any]:
    """Entry `uncalibrated` of a calibrated run's figures, from its metrics without calibration; None: no entry."""
    if measured is None:
        return {}
    figures = overall_figures(measured)
    return {"uncalibrated": {name: figures[name] for name in ("pcoc", "calibration_error")}}


def none_if_nan(value: float) -> float | None:
    """The value, or None instead of NaN, which JSON and SQL lack."""
    return None if math.isnan(value) else value


def find_run(lake: Lake, run_id: str) -> dict[str, Any]:
    """The row of a run in training_runs, with the folder of its package in `package`.

    Args:
        lake: the lake in which it is recorded.
        run_id: an id; champion, or champion@2026-01-02, see `resolve_run`; empty: the newest successful run.

    Raises:
        MamdrError: there is no such run, or it has no package.
    """
    found = resolve_run(lake, run_id)
    row = lake.read("training_runs").where(F.col("run_id") == found).first()
    if row is None:
        raise MamdrError(f"training_runs of {lake.root} has no run {found}")
    if not row["package"]:
        raise MamdrError(f"run {row['run_id']} has no package: its status is {row['status']}")
    return {**row.asDict(), "package": package_of(lake, row)}


def package_of(lake: Lake, row: Row) -> str:
    """The folder of a run's package: in this lake, which may be a copy, or otherwise the recorded one."""
    own = lake.path_of("packages", row["run_id"])
    return own if place_of(own).exists() else str(row["package"])


def code_version() -> str | None:
    """Git commit of this code, with + if files were changed; None outside a checkout."""
    folder = Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git(folder, "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()
