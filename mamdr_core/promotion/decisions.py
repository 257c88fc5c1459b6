"""Reading and writing the decisions of the gate, with their figures by domain."""

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from mamdr_core.lake.core.few import local_frame
from mamdr_core.lake.core.sql import literal
from mamdr_core.lake.core.tables import Lake
from mamdr_core.promotion.judging import Verdict, calibration, gauc, mean_auc, weighted_auc
from mamdr_core.promotion.measuring import PairedFigures
from schemas import TABLES
from schemas.spark import spark_schema

_DECISION = ("run_id", "champion_run_id", "ds", "passed", "reasons", "decided_at")
_MEASURED = [name for name in TABLES["gate_decisions"].column_names if name not in _DECISION]


@dataclass(frozen=True)
class Decision:
    """A decision about a run.

    Attributes:
        run_id: the challenger.
        champion: the champion at the time of the decision; None if there was none.
        ds: the challenger's logical day.
        passed: whether the run may be promoted.
        reasons: one sentence per reason.
        figures: the other columns of gate_decisions; columns that were not measured are missing.
    """

    run_id: str
    champion: str | None
    ds: date | None
    passed: bool
    reasons: list[str]
    figures: dict[str, Any]

    def summary(self) -> dict[str, Any]:
        """The decision as in the JSON output of the job."""
        head = {"run_id": self.run_id, "champion": self.champion, "passed": self.passed, "reasons": self.reasons}
        return head | {name: self.figures.get(name) for name in _MEASURED}


def find_decision(lake: Lake, run_id: str) -> Decision | None:
    """The decision about a run; None if there is none."""
    if not lake.exists("gate_decisions"):
        return None
    row: Row | None = lake.read("gate_decisions").where(F.col("run_id") == run_id).first()
    if row is None:
        return None
    return Decision(
        run_id=row["run_id"],
        champion=row["champion_run_id"],
        ds=row["ds"],
        passed=row["passed"],
        reasons=row["reasons"],
        figures={name: row.asDict().get(name) for name in _MEASURED},  # tables of older versions lack columns
    )


def record_decision(spark: SparkSession, lake: Lake, decision: Decision) -> None:
    """Write a decision; it replaces an earlier decision about the same run."""
    table = TABLES["gate_decisions"]
    values = decision.figures | {
        "run_id": decision.run_id,
        "champion_run_id": decision.champion,
        "ds": decision.ds,
        "passed": decision.passed,
        "reasons": decision.reasons,
        "decided_at": datetime.now(UTC),
    }
    row = tuple(values.get(name) for name in table.column_names)
    update = {name: f"new.{name}" for name in table.column_names}
    lake.merge(table, local_frame(spark, [row], spark_schema(table)), "old.run_id = new.run_id", update)


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
