"""The decisions of the gate, as the table gate_decisions records them; read by promote, which must start quickly."""

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from pyspark.sql import Row
from pyspark.sql import functions as F

from mamdr_core.lake.core.few import declared_frame
from mamdr_core.lake.core.sql import literal
from mamdr_core.lake.core.tables import Lake
from schemas import TABLES

_DECISION = ("run_id", "champion_run_id", "ds", "passed", "reasons", "decided_at")
_MEASURED = [name for name in TABLES["gate_decisions"].column_names if name not in _DECISION]


@dataclass(frozen=True)
class Decision:
    """A decision about a run.

    Attributes:
        run_id: the challenger.
        champion: the champion at the time of the decision; None if there was none.
        ds: the challenger's logical date.
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


def record_decision(lake: Lake, decision: Decision) -> None:
    """Write a decision; it replaces an earlier decision about the same run."""
    values = decision.figures | {
        "run_id": decision.run_id,
        "champion_run_id": decision.champion,
        "ds": decision.ds,
        "passed": decision.passed,
        "reasons": decision.reasons,
        "decided_at": datetime.now(UTC),
    }
    frame = declared_frame(lake.spark, "gate_decisions", [values])
    lake.overwrite_where("gate_decisions", frame, f"run_id = {literal(decision.run_id)}")


def is_older(run: dict[str, Any], champion: Row) -> bool:
    """Whether the day of a run precedes that of the champion; false where a day is unknown."""
    return run["ds"] is not None and champion["ds"] is not None and run["ds"] < champion["ds"]


def newer_day_serves(run: dict[str, Any], champion: Row) -> str:
    """The reason to reject a run of an earlier day than the champion."""
    champion_id, run_id = champion["run_id"], run["run_id"]
    return f"a newer day serves: the champion {champion_id} is of {champion['ds']}, run {run_id} of {run['ds']}"
