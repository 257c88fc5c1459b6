"""Contents of a report, read from the lake. Missing data stay empty, and the page explains how to obtain them.

Arrays are by domain, [n], in the order of the domain indices of the run; NaN where a figure is unknown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from mamdr_core.config.reports import ReportSettings
from mamdr_core.lake.champion import find_champion, resolve_run
from mamdr_core.lake.core.tables import Lake
from mamdr_core.runtime.errors import MamdrError
from schemas import TABLES

Figures = Mapping[str, Any]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class ReferenceRun:
    """A run with which the run of the report is compared.

    Attributes:
        run: row of training_runs; only run_id if the run has been deleted.
        auc: its test AUC by domain, [n].
        own: AUC of the run of the report, [n].
        same_rows: whether both AUCs are of the same rows; otherwise each run was measured on its own test split.
    """

    run: Figures
    auc: Array
    own: Array
    same_rows: bool


@dataclass(frozen=True)
class Facts:
    """Contents of a report.

    Attributes:
        run: row of training_runs.
        ids: domain ids, [n].
        figures: by name, [n]: train_rows and, on the test split, rows, clicks, auc, logloss, mean_prediction,
            oracle_auc, gauc, calibration_error.
        joint: the newest run of method joint on the same examples, preferably with the same model.
        before: the run that served before, or the parent of the run.
        days: see `read_days`.
        drift: rows of domain_stats of the last day, largest change of CTR first.
        curve: rows of training_curves, in order.
        decision: row of gate_decisions.
        promotions: rows of promotions of the run, in order.
        judged: rows of gate_domains with both AUCs, largest loss first.
        conflicts: rows of conflicts by stage.
        pairs: rows of domain_conflicts by stage, among at most `report.heat` domains.
    """

    run: Figures
    ids: Sequence[str]
    figures: Mapping[str, Array]
    joint: ReferenceRun | None
    before: ReferenceRun | None
    days: Sequence[Figures]
    drift: Sequence[Figures]
    curve: Sequence[Figures]
    decision: Figures | None
    promotions: Sequence[Figures]
    judged: Sequence[Figures]
    conflicts: Mapping[str, Figures]
    pairs: Mapping[str, Sequence[Figures]]


def read_facts(lake: Lake, settings: ReportSettings) -> Facts:
    """Read the contents of a report.

    Raises:
        MamdrError: unknown run, no successful run, or no promoted run.
    """
    run_id = resolve_run(lake, settings.run_id)
    chosen = F.col("run_id") == run_id
    run = next(iter(declared_rows("training_runs", lake.read("training_runs").where(chosen))), None)
    if run is None:
        raise MamdrError(f"report.run_id: training_runs of {lake.root} has no run {settings.run_id}")
    decision = next(iter(rows_of(lake, "gate_decisions", chosen)), None)
    joint = _find_joint(lake, run)
    before = _find_before(lake, run, decision)
    ids, indices, figures, others = _domains(lake, run_id, [other for other in (joint, before) if other])
    judged = rows_of(lake, "gate_domains", chosen & F.col("difference").isNotNull(), F.asc("difference"))
    days, stats = read_days(lake, run["ds"], settings.days)

    def own_rows(other: Figures) -> ReferenceRun:
        return ReferenceRun(other, others[other["run_id"]], figures["auc"], same_rows=False)

    return Facts(
        run=run,
        ids=ids,
        figures=figures,
        joint=own_rows(joint) if joint else None,
        before=_judged_before(before, indices, judged) or own_rows(before) if before else None,
        days=days,
        drift=_drift(days, stats, settings.listed),
        curve=rows_of(lake, "training_curves", chosen, F.asc("rows"), F.asc("seconds")),
        decision=decision,
        promotions=rows_of(lake, "promotions", chosen, F.asc("number")),
        judged=judged,
        conflicts={row["stage"]: row for row in rows_of(lake, "conflicts", chosen)},
        pairs=_pairs(lake, chosen, settings.heat),
    )


def rows_of(lake: Lake, table: str, condition: Column, *order: Column) -> list[dict[str, Any]]:
    """Rows of a table, none if it does not exist; columns that a table of an older version lacks are null."""
    if not lake.exists(table):
        return []
    found = lake.read(table).where(condition)
    return declared_rows(table, found.orderBy(*order) if order else found)


def declared_rows(table: str, frame: DataFrame) -> list[dict[str, Any]]:
    """Rows of a frame, with null for columns that a table of an older version lacks, and with timestamps in UTC."""
    nothing = dict.fromkeys(TABLES[table].column_names)
    return [nothing | {name: _in_utc(value) for name, value in row.asDict().items()} for row in frame.collect()]


def _in_utc(value: Any) -> Any:
    """A timestamp in UTC: PySpark returns it in the driver's time zone, without naming that."""
    return value.astimezone(UTC) if isinstance(value, datetime) else value


def _find_joint(lake: Lake, run: Figures) -> Figures | None:
    """The newest run of joint training on the same examples, preferably with the same model."""
    same = F.col("input_versions")["examples"] == (run["input_versions"] or {}).get("examples")
    wanted = same & (F.col("status") == "ok") & (F.col("method") == "joint") & (F.col("run_id") != run["run_id"])
    of_model = F.col("model") == run["model"]
    return next(iter(rows_of(lake, "training_runs", wanted, F.desc(of_model), F.desc("started_at"))), None)


def _find_before(lake: Lake, run: Figures, decision: Figures | None) -> Figures | None:
    """The champion in the decision of the gate, else the parent, else the champion of an earlier day."""
    run_id = (decision or {}).get("champion_run_id") or run["parent_run_id"]
    if not run_id and run["ds"]:
        champion = find_champion(lake, before=run["ds"])
        run_id = champion["run_id"] if champion else None
    if not run_id or run_id == run["run_id"]:
        return None
    found = rows_of(lake, "training_runs", F.col("run_id") == run_id)
    return found[0] if found else dict.fromkeys(run) | {"run_id": run_id}


def _domains(
    lake: Lake, run_id: str, others: Sequence[Figures]
) -> tuple[list[str], list[int], dict[str, Array], dict[str, Array]]:
    """Ids, indices and figures of the domains of a run, and the test AUC of other runs in the same domains, by run_id.

    The other runs were measured on the test splits of their own examples.
    """
    wanted = [("train_rows", "train", "rows")]
    wanted += [(name, "test", name) for name in ("rows", "clicks", "auc", "logloss", "mean_prediction", "oracle_auc")]
    wanted += [(name, "test", name) for name in ("gauc", "calibration_error")]
    runs = [run_id, *(other["run_id"] for other in others)]
    if not lake.exists("domain_metrics"):
        return [], [], {name: np.zeros(0) for name, _, _ in wanted}, {other: np.zeros(0) for other in runs[1:]}
    stored = lake.read("domain_metrics").where(F.col("run_id").isin(runs))
    columns = dict.fromkeys(of for _, _, of in wanted if of in stored.columns)  # tables of older versions lack columns
    table = stored.select("run_id", "split", "domain", "domain_id", *columns).toArrow()
    run_R, split_R, domain_R = (table[name].to_numpy() for name in ("run_id", "split", "domain"))
    own = np.flatnonzero(run_R == run_id)
    indices, first = np.unique(domain_R[own], return_index=True)

    def read(run: str, split: str, column: str) -> Array:
        values = np.full(len(indices), np.nan)
        if column in columns:
            rows = np.flatnonzero((run_R == run) & (split_R == split) & np.isin(domain_R, indices))
            found = table[column].take(rows).cast("float64").fill_null(np.nan)
            values[np.searchsorted(indices, domain_R[rows])] = found.to_numpy()
        return values

    figures = {name: read(run_id, split, of) for name, split, of in wanted}
    ids = table["domain_id"].take(own[first]).to_pylist()
    return ids, indices.tolist(), figures, {other: read(other, "test", "auc") for other in runs[1:]}


def _judged_before(run: Figures, indices: Sequence[int], judged: Sequence[Figures]) -> ReferenceRun | None:
    """Both AUCs as the gate measured them on the same rows; None without a decision against this run."""
    if not judged or judged[0]["champion_run_id"] != run["run_id"]:
        return None
    found = {row["domain"]: row for row in judged}
    theirs, ours = (
        np.array([found[domain][name] if domain in found else np.nan for domain in indices], dtype=np.float64)
        for name in ("champion_auc", "auc")
    )
    return ReferenceRun(run, theirs, ours, same_rows=True)


def read_days(lake: Lake, until: date | None, days: int) -> tuple[list[Figures], DataFrame | None]:
    """The last days with statistics, at most `days` of them, up to a day (None: the newest).

    Returns:
        One row per day, oldest first: ds, rows, clicks, new_users, domains, and new_domains, those first seen on that
        day (None before a build has numbered domains); and the rows of domain_stats of these days, None without days.
    """
    if not lake.exists("domain_stats"):
        return [], None
    stats = lake.read("domain_stats")
    stats = stats.where(F.col("ds") <= F.lit(until)) if until else stats
    sums = [F.sum(name).alias(name) for name in ("rows", "clicks", "new_users")]
    by_day = stats.groupBy("ds").agg(*sums, F.count("*").alias("domains")).orderBy(F.desc("ds")).limit(days).collect()
    if not by_day:
        return [], None
    first_seen: dict[date, int] | None = None
    if lake.exists("domains"):
        first_seen = {
            row["first_seen"]: row["count"] for row in lake.read("domains").groupBy("first_seen").count().collect()
        }
    rows: list[Figures] = [
        row.asDict() | {"new_domains": None if first_seen is None else first_seen.get(row["ds"], 0)}
        for row in reversed(by_day)
    ]
    return rows, stats.where(F.col("ds") >= F.lit(rows[0]["ds"]))


def _drift(days: Sequence[Figures], stats: DataFrame | None, listed: int) -> list[Figures]:
    if stats is None:
        return []
    z = F.greatest(F.abs("ctr_z"), F.abs("week_ctr_z"))
    of_day = stats.where(F.col("ds") == F.lit(days[-1]["ds"])).withColumn("z", z)
    known = of_day.where(F.col("z").isNotNull())
    return [row.asDict() for row in known.orderBy(F.desc("z")).limit(listed).collect()]


def _pairs(lake: Lake, chosen: Column, heat: int) -> dict[str, list[Figures]]:
    """Pairs among the domains with the most measured pairs, by stage."""
    if not lake.exists("domain_conflicts"):
        return {}
    pairs = lake.read("domain_conflicts").where(chosen)
    counted = pairs.select(F.explode(F.array("domain", "other")).alias("domain")).groupBy("domain").count()
    kept = [row["domain"] for row in counted.orderBy(F.desc("count"), "domain").limit(heat).collect()]
    among = F.col("domain").isin(kept) & F.col("other").isin(kept)
    found: dict[str, list[Figures]] = {}
    for row in pairs.where(among).collect():
        found.setdefault(row["stage"], []).append(row.asDict())
    return found
