"""Which run serves, according to the table promotions, and the runs that settings name."""

from datetime import date, timedelta
from typing import Any

from pyspark.sql import Row
from pyspark.sql import functions as F

from mamdr_core.lake.core.tables import Lake
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.object_store import as_path

CHAMPION = "champion"
"""Accepted instead of a run's id, also with a day: champion@2026-01-02 (see `resolve_run`)."""


def find_champion(lake: Lake, before: date | None = None) -> Row | None:
    """The newest row of promotions, whose run serves; None: no run has been promoted.

    Args:
        before: consider only runs whose logical date is before this day; runs without a day are left out.

    Example:
        >>> find_champion(lake).run_id  # doctest: +SKIP
        '20260102T031500-mamdr-1f0c2a'
    """
    if not lake.exists("promotions"):
        return None
    promotions = lake.read("promotions")
    chosen = promotions if before is None else promotions.where(F.col("ds") < F.lit(before))
    return chosen.orderBy(F.desc("number")).first()


def resolve_run(lake: Lake, run_id: str) -> str:
    """The id of the run to which a setting refers.

    Args:
        run_id: "champion": the run in production; "champion@2026-01-02": the last promoted run among those of that day
            or earlier; empty: the newest successful run; otherwise the id itself.

    Raises:
        MamdrError: no run has been promoted, no run was successful, or the day is invalid.
    """
    name, at, day = run_id.partition("@")
    if name == CHAMPION:
        row = find_champion(lake, day_after(_day(day)) if at else None)
        if row is None:
            until = f" of {day} or before" if at else ""
            raise MamdrError(
                f"no run{until} of {lake.root} has been promoted yet: run jobs/promote.py, or name a run's id"
            )
        return str(row["run_id"])
    return run_id or str(_newest_run(lake)["run_id"])


def _newest_run(lake: Lake) -> Row:
    newest = lake.read("training_runs").where(F.col("status") == "ok").orderBy(F.desc("started_at")).first()
    if newest is None:
        raise MamdrError(f"training_runs of {lake.root} has no successful run")
    return newest


def find_run(lake: Lake, run_id: str) -> dict[str, Any]:
    """The row of a run in training_runs, with the folder of its package in `package`.

    Args:
        run_id: an id; champion, or champion@2026-01-02, see `resolve_run`; empty: the newest successful run.

    Raises:
        MamdrError: there is no such run, or it has no package.
    """
    if run_id:
        found = resolve_run(lake, run_id)
        row = lake.read("training_runs").where(F.col("run_id") == found).first()
        if row is None:
            raise MamdrError(f"training_runs of {lake.root} has no run {found}")
    else:
        row = _newest_run(lake)
    if not row["package"]:
        raise MamdrError(f"run {row['run_id']} has no package: its status is {row['status']}")
    return {**row.asDict(), "package": package_of(lake, row)}


def package_of(lake: Lake, row: Row) -> str:
    """The folder of a run's package: in this lake, which may be a copy, or otherwise the recorded one."""
    own = lake.path_of("packages", row["run_id"])
    return own if as_path(own).exists() else str(row["package"])


def day_after(day: date) -> date:
    """The next day; `date.max` has none and is returned itself."""
    return day if day == date.max else day + timedelta(1)


def _day(day: str) -> date:
    try:
        return date.fromisoformat(day)
    except ValueError:
        raise MamdrError(f"{CHAMPION}@{day}: not a date; write it like 2026-01-02") from None
