"""Finds runs whose inputs must be kept, and leftovers of other runs that can be removed."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta

from pyspark.sql import Column, DataFrame, Row, Window
from pyspark.sql import functions as F

from mamdr_core.lake.core.files import Files
from mamdr_core.lake.core.tables import Lake
from mamdr_core.runtime.run_ids import began_before

_COLUMNS = ("run_id", "status", "package", "input_versions", "experiment")
UNFINISHED_DAYS = 14
"""Days for which a run without success keeps its inputs and files, since it may be running or be resumed."""


def kept_runs(lake: Lake, keep: int, champions: int = 1) -> list[Row]:
    """The runs whose inputs must stay readable, newest first: run_id, status, package, input_versions, experiment.

    Args:
        keep: number of successful runs with a package, and also of those of comparisons and sweeps; 0: all.
        champions: number of runs that have served, the champion first, in addition; 0: all.
    """
    if not lake.exists("training_runs"):
        return []
    files, runs = lake.files, lake.read("training_runs")
    is_ok = F.col("status") == "ok"
    done = runs.where(is_ok & _has_package(lake, runs.where(is_ok)))
    if keep:
        newest = Window.partitionBy(F.col("experiment").isNull()).orderBy(F.desc("started_at"))
        served = F.col("run_id").isin(_served(lake, champions))
        done = done.withColumn("_place", F.row_number().over(newest)).where((F.col("_place") <= keep) | served)
    resumable = F.col("run_id").isin(files.children("checkpoints"))
    unfinished = runs.where(~is_ok & _is_recent() & ((F.col("status") == "running") | resumable))
    chosen = unfinished.select(*_COLUMNS, "started_at").unionByName(done.select(*_COLUMNS, "started_at"))
    return chosen.orderBy(is_ok, F.desc("started_at")).select(*_COLUMNS).collect()


def _served(lake: Lake, most: int) -> list[str]:
    """The newest runs that have served, at most `most` (0: all), the champion first."""
    if not lake.exists("promotions"):
        return []
    served = lake.read("promotions").groupBy("run_id").agg(F.max("number").alias("last")).orderBy(F.desc("last"))
    return [row["run_id"] for row in (served.limit(most) if most else served).collect()]


def find_leftovers(lake: Lake) -> list[tuple[str, str]]:
    """Checkpoints and partial packages of runs that were successful or ended long ago, as paths below the root.

    A run of a comparison is recorded when it ends; if it was killed, its id contains the time of its start.
    """
    files = lake.files
    checkpoints, packages = (set(files.children(folder)) for folder in ("checkpoints", "packages"))
    found = checkpoints | {name.removeprefix(".").removesuffix(".part") for name in packages}
    recorded = {}
    if found and lake.exists("training_runs"):
        runs = lake.read("training_runs").where(F.col("run_id").isin(sorted(found)))
        recorded = {row["run_id"]: row for row in runs.select("run_id", "status", _is_recent().alias("new")).collect()}
    successful = {run_id for run_id, row in recorded.items() if row["status"] == "ok"}
    long_ago = datetime.now(UTC) - timedelta(days=UNFINISHED_DAYS)
    unknown = {name for name in found - recorded.keys() if began_before(name, long_ago)}
    ended = sorted(successful | unknown | {run_id for run_id, row in recorded.items() if not row["new"]})
    # An object store has no renames, so a partial package has the path of a package, but no manifest.
    parts = [run_id for run_id in ended if run_id not in successful and run_id in packages]
    return [
        *(("checkpoints", run_id) for run_id in ended if run_id in checkpoints),
        *(("packages", f".{run_id}.part") for run_id in ended if f".{run_id}.part" in packages),
        *(("packages", run_id) for run_id in parts if not files.exists("packages", run_id, "manifest.json")),
    ]


def find_packages(lake: Lake, kept: Collection[str]) -> list[tuple[str, str]]:
    """Packages of successful runs that started long ago and are not in `kept`, as paths below the root."""
    if not lake.exists("training_runs"):
        return []
    packages = sorted({*lake.files.children("packages")} - {*kept})
    old = (F.col("status") == "ok") & ~_is_recent() & F.col("run_id").isin(packages)
    found = lake.read("training_runs").where(old).select("run_id").distinct().orderBy("run_id").collect()
    return [("packages", row["run_id"]) for row in found]


def _is_recent() -> Column:
    return F.col("started_at") > F.current_timestamp() - F.make_dt_interval(days=F.lit(UNFINISHED_DAYS))


def _has_package(lake: Lake, runs: DataFrame) -> Column:
    """Whether the package of a run exists in the lake or, if the lake was moved, at its recorded path.

    The few folders of packages are listed, instead of a request for each package.
    """
    recorded = F.regexp_extract("package", "^(.*)/+[^/]+/*$", 1)
    there = F.col("run_id").isin(lake.files.children("packages"))
    for row in runs.where(F.length("package") > 0).select(recorded.alias("folder")).distinct().collect():
        if row["folder"] and row["folder"] != lake.files.path("packages"):
            names = Files(lake.spark, row["folder"]).children()
            there |= (recorded == row["folder"]) & F.regexp_extract("package", "([^/]+)/*$", 1).isin(names)
    return there
