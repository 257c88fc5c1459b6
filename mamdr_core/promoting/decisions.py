"""The gate's decisions in the lake: written with their figures by domain, and read back."""

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from mamdr_core.lake.core.sql import literal
from mamdr_core.lake.core.tables import Lake
from mamdr_core.promoting.intervals import Floats
from mamdr_core.promoting.judging import Judged, calibration, gauc, mean_auc, weighted_auc
from mamdr_core.promoting.measuring import Measured
from schemas import TABLES
from schemas.spark import spark_schema

_HEAD = ("run_id", "champion_run_id", "ds", "passed", "reasons", "decided_at")
_MEASURED = [name for name in TABLES["gate_decisions"].column_names if name not in _HEAD]


@dataclass(frozen=True)
class Decision:
    """What was decided about a run.

    Attributes:
        run_id: the challenger.
        champion: the champion then; None: there was none.
        ds: the challenger's logical day.
        passed: whether it may be promoted.
        reasons: a sentence each.
        figures: the other columns of gate_decisions; those that are missing were not measured.
    """

    run_id: str
    champion: str | None
    ds: date | None
    passed: bool
    reasons: list[str]
    figures: dict[str, Any]

    def told(self) -> dict[str, Any]:
        """For a job's JSON line."""
        head = {"run_id": self.run_id, "champion": self.champion, "passed": self.passed, "reasons": self.reasons}
        return head | {name: self.figures.get(name) for name in _MEASURED}


def find_decision(lake: Lake, run_id: str) -> Decision | None:
    """The decision about a run; None: there is none."""
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
        figures={name: row.asDict().get(name) for name in _MEASURED},  # a table may be older than some columns
    )


def record_decision(spark: SparkSession, lake: Lake, decision: Decision) -> None:
    """Write a decision, replacing the one about the same run."""
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
    lake.merge(table, spark.createDataFrame([row], spark_schema(table)), "old.run_id = new.run_id", update)


def figures_of(measured: Measured, judged: Judged, unseen: dict[str, float]) -> dict[str, Any]:
    """The columns of gate_decisions that are measured, null where a figure is not defined."""
    own, other = measured.challenger, measured.champion
    lead, other_lead = judged.challenger_lead, judged.champion_lead
    figures: dict[str, float | None] = {
        "auc": mean_auc(own),
        "champion_auc": mean_auc(other) if other else None,
        "auc_difference": judged.mean.value if judged.mean else None,
        "auc_low": judged.mean.low if judged.mean else None,
        "auc_high": judged.mean.high if judged.mean else None,
        "weighted_auc": weighted_auc(own),
        "champion_weighted_auc": weighted_auc(other) if other else None,
        "calibration": calibration(own),
        "champion_calibration": calibration(other) if other else None,
        "calibration_error": own.calibration_error,
        "champion_calibration_error": other.calibration_error if other else None,
        "gauc": gauc(measured, own),
        "champion_gauc": gauc(measured, other) if other else None,
        "gauc_difference": judged.gauc.value if judged.gauc else None,
        "gauc_low": judged.gauc.low if judged.gauc else None,
        "gauc_high": judged.gauc.high if judged.gauc else None,
        "day_auc": lead.day if lead else None,
        "earlier_auc": lead.earlier if lead else None,
        "champion_day_auc": other_lead.day if other_lead else None,
        "champion_earlier_auc": other_lead.earlier if other_lead else None,
    }
    known = {name: value if value is not None and math.isfinite(value) else None for name, value in figures.items()}
    return known | {
        "domains": int((~np.isnan(own.auc)).sum()),
        "domains_judged": int(judged.judged_n.sum()),
        "domains_worse": int(judged.worse_n.sum()),
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
    measured: Measured,
    judged: Judged,
) -> None:
    """Write a challenger's figures by domain, replacing those that it has."""
    own, other = measured.challenger, measured.champion
    nothing = np.full(len(own.rows), np.nan)
    columns = (own.auc, other.auc if other else nothing, measured.difference, judged.low_n, judged.high_n)
    rows = [
        (
            *(run_id, champion, domain, domain_ids[domain], int(own.rows[domain]), int(own.clicks[domain])),
            *(_known(column, domain) for column in columns),
            bool(judged.worse_n[domain]),
        )
        for domain in np.flatnonzero(own.rows).tolist()
    ]
    table = TABLES["gate_domains"]
    frame = spark.createDataFrame(rows, spark_schema(table)).coalesce(1)
    lake.overwrite_where(table, frame, f"run_id = {literal(run_id)}")


def _known(column: Floats, domain: int) -> float | None:
    value = float(column[domain])
    return value if math.isfinite(value) else None
