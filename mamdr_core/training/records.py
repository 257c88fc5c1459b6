"""Records of runs in the lake: training_runs, domain_metrics and training_curves."""

import math
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql.pandas.types import to_arrow_schema
from torch import Tensor

from mamdr_core.engine.metrics import DomainMetrics
from mamdr_core.lake.core.few import declared_frame
from mamdr_core.lake.core.sql import literal
from mamdr_core.lake.core.tables import Lake
from mamdr_core.training.curve import Validation
from schemas import TABLES, DeclaredTable
from schemas.spark import spark_schema


def record_run(lake: Lake, run: Mapping[str, Any], is_new: bool = False) -> None:
    """Write the row of a run in training_runs; columns missing in `run` become null, and its other keys are left out.

    Args:
        is_new: the run has no row yet; otherwise it is replaced, which takes more Spark jobs.
    """
    frame = declared_frame(lake.spark, "training_runs", [run])
    _record(lake, TABLES["training_runs"], frame, f"run_id = {literal(run['run_id'])}", is_new)


def record_metrics(
    lake: Lake,
    run_id: str,
    domain_ids: tuple[str, ...],
    metrics: Mapping[str, DomainMetrics],
    is_new: bool = False,
) -> None:
    """Write the metrics of a run by domain and split, replacing earlier ones of the same splits unless it is new."""
    table = TABLES["domain_metrics"]
    struct = spark_schema(table)
    schema = to_arrow_schema(struct)
    measured_rows = pa.concat_tables(
        pa.Table.from_pydict(_by_domain(run_id, split, domain_ids, measured), schema)
        for split, measured in metrics.items()
    )
    frame = lake.spark.createDataFrame(measured_rows, struct)
    splits = ", ".join(literal(split) for split in metrics)
    _record(lake, table, frame, f"run_id = {literal(run_id)} AND split IN ({splits})", is_new)


def record_curve(lake: Lake, run_id: str, curve: Sequence[Validation], is_new: bool = False) -> None:
    """Write the validations of a run, replacing earlier ones unless it is new."""
    rows = ({"run_id": run_id, **asdict(validation)} for validation in curve)
    frame = declared_frame(lake.spark, "training_curves", rows)
    _record(lake, TABLES["training_curves"], frame, f"run_id = {literal(run_id)}", is_new)


def _record(lake: Lake, table: DeclaredTable, rows: DataFrame, replaced: str, is_new: bool) -> None:
    if is_new:
        lake.append(table, rows)
    else:
        lake.overwrite_where(table, rows, replaced)


def _by_domain(
    run_id: str, split: str, domain_ids: tuple[str, ...], measured: DomainMetrics
) -> dict[str, Sequence[Any] | pa.Array]:
    """Columns of domain_metrics, for the domains that have rows."""
    domains = measured.rows.nonzero().flatten()

    def number(figure: Tensor) -> pa.Array:
        return pa.array(figure[domains].numpy(), from_pandas=True)  # NaN becomes null

    def count(figure: Tensor) -> pa.Array:
        return pa.array(figure[domains].long().numpy())

    columns: dict[str, Sequence[Any] | pa.Array] = {
        "run_id": [run_id] * len(domains),
        "domain": domains.numpy(),
        "domain_id": [domain_ids[domain] for domain in domains.tolist()],
        "split": [split] * len(domains),
        "rows": count(measured.rows),
        "clicks": count(measured.clicks),
    }
    columns |= {
        name: number(getattr(measured, name)) for name in ("auc", "logloss", "mean_prediction", "oracle_auc", "pcoc")
    }
    detail = measured.detail
    if detail is None:
        unknown = ("calibration_error", "gauc", "gauc_rows", "groups", "ndcg", "hit_rate")
        return columns | dict.fromkeys(unknown, [None] * len(domains))
    names = [str(k) for k in detail.settings.cutoffs]

    def by_cutoff(figures: Tensor) -> list[list[tuple[str, float]] | None]:
        groups, values = detail.groups[domains].tolist(), figures[:, domains].T.tolist()
        return [list(zip(names, own, strict=True)) if some else None for some, own in zip(groups, values, strict=True)]

    return columns | {
        "calibration_error": number(detail.calibration_error),
        "gauc": number(detail.gauc),
        "gauc_rows": count(detail.gauc_rows),
        "groups": count(detail.groups),
        "ndcg": by_cutoff(detail.ndcg),
        "hit_rate": by_cutoff(detail.hit_rate),
    }


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
