"""The figures behind a decision of the gate, as its tables record them."""

import math
from typing import Any

import numpy as np
from pyspark.sql import SparkSession

from mamdr_core.lake.core.few import local_frame
from mamdr_core.lake.core.sql import literal
from mamdr_core.lake.core.tables import Lake
from mamdr_core.promotion.judging import Verdict, calibration, gauc, mean_auc, weighted_auc
from mamdr_core.promotion.measuring import PairedFigures
from schemas import TABLES
from schemas.spark import spark_schema


def figures_of(paired: PairedFigures, verdict: Verdict, unseen: dict[str, float]) -> dict[str, Any]:
    """The measured columns of gate_decisions, null where a figure is undefined."""
    own, other = paired.challenger, paired.champion
    lead, other_lead = verdict.challenger_lead, verdict.champion_lead
    figures: dict[str, float | None] = {
        "auc": mean_auc(own),
        "champion_auc": mean_auc(other) if other else None,
        "auc_difference": verdict.mean.value if verdict.mean else None,
        "auc_low": verdict.mean.low if verdict.mean else None,
        "auc_high": verdict.mean.high if verdict.mean else None,
        "weighted_auc": weighted_auc(own),
        "champion_weighted_auc": weighted_auc(other) if other else None,
        "calibration": calibration(own),
        "champion_calibration": calibration(other) if other else None,
        "calibration_error": own.calibration_error,
        "champion_calibration_error": other.calibration_error if other else None,
        "gauc": gauc(paired, own),
        "champion_gauc": gauc(paired, other) if other else None,
        "gauc_difference": verdict.gauc.value if verdict.gauc else None,
        "gauc_low": verdict.gauc.low if verdict.gauc else None,
        "gauc_high": verdict.gauc.high if verdict.gauc else None,
        "day_auc": lead.day if lead else None,
        "earlier_auc": lead.earlier if lead else None,
        "champion_day_auc": other_lead.day if other_lead else None,
        "champion_earlier_auc": other_lead.earlier if other_lead else None,
    }
    return {name: _finite(value) for name, value in figures.items()} | {
        "domains": int((~np.isnan(own.auc)).sum()),
        "domains_judged": int(verdict.judged_n.sum()),
        "domains_worse": int(verdict.worse_n.sum()),
        "unseen_users": unseen["user"],
        "unseen_items": unseen["item"],
        "rows": int(own.rows.sum()),
    }


def record_domains(
    spark: SparkSession,
    lake: Lake,
    run_id: str,
    champion: str | None,
    domain_ids: tuple[str, ...],
    paired: PairedFigures,
    verdict: Verdict,
) -> None:
    """Write the figures of a challenger by domain; they replace its earlier ones."""
    own, other = paired.challenger, paired.champion
    nothing = np.full(len(own.rows), np.nan)
    columns = (own.auc, other.auc if other else nothing, paired.difference, verdict.low_n, verdict.high_n)
    rows = [
        (
            *(run_id, champion, domain, domain_ids[domain], int(own.rows[domain]), int(own.clicks[domain])),
            *(_finite(column[domain]) for column in columns),
            bool(verdict.worse_n[domain]),
        )
        for domain in np.flatnonzero(own.rows).tolist()
    ]
    table = TABLES["gate_domains"]
    frame = local_frame(spark, rows, spark_schema(table)).coalesce(1)
    lake.overwrite_where(table, frame, f"run_id = {literal(run_id)}")


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
