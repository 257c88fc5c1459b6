"""The figures behind a decision of the gate, as its tables record them."""

import math
from typing import Any

import numpy as np

from mamdr_core.lake.core.few import local_frame
from mamdr_core.lake.core.sql import literal
from mamdr_core.lake.core.tables import Lake
from mamdr_core.promotion.judging import Verdict, calibration, gauc, mean_auc, weighted_auc
from mamdr_core.promotion.measuring import PairedFigures
from schemas import TABLES
from schemas.spark import spark_schema


def figures_of(paired: PairedFigures, verdict: Verdict, unseen: dict[str, float]) -> dict[str, Any]:
    """The measured columns of gate_decisions; null, or missing, where a figure is undefined."""
    figures: dict[str, float] = {}
    for prefix, model, lead in (
        ("", paired.challenger, verdict.challenger_lead),
        ("champion_", paired.champion, verdict.champion_lead),
    ):
        if model:
            figures |= {f"{prefix}auc": mean_auc(model), f"{prefix}weighted_auc": weighted_auc(model)}
            figures |= {f"{prefix}calibration": calibration(model), f"{prefix}gauc": gauc(paired, model)}
            figures[f"{prefix}calibration_error"] = model.calibration_error
        if lead:
            figures |= {f"{prefix}day_auc": lead.day, f"{prefix}earlier_auc": lead.earlier}
    for name, difference in (("auc", verdict.mean), ("gauc", verdict.gauc)):
        if difference:
            figures |= {f"{name}_difference": difference.value}
            figures |= {f"{name}_low": difference.low, f"{name}_high": difference.high}
    return {name: _finite(value) for name, value in figures.items()} | {
        "domains": int((~np.isnan(paired.challenger.auc)).sum()),
        "domains_judged": int(verdict.judged_n.sum()),
        "domains_worse": int(verdict.worse_n.sum()),
        "unseen_users": unseen["user"],
        "unseen_items": unseen["item"],
        "rows": int(paired.challenger.rows.sum()),
    }


def record_domains(
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
    frame = local_frame(lake.spark, rows, spark_schema(table)).coalesce(1)
    lake.overwrite_where(table, frame, f"run_id = {literal(run_id)}")


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
