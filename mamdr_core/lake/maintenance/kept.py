"""Which runs still need their inputs, and what runs left behind that nobody needs."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta

from pyspark.sql import Column, DataFrame, Row, SparkSession, Window
from pyspark.sql import functions as F

from mamdr_core.lake.core.files import Files
from mamdr_core.lake.core.tables import Lake
from mamdr_core.runtime.run_ids import began_before

_COLUMNS = ("run_id", "status", "package", "input_versions", "experiment")
UNFINISHED_DAYS = 14
"""A run that has not ended well pins its inputs, and keeps what it wrote, so long: it may be running, or be resumed."""


def kept_runs(spark: SparkSession, lake: Lake, keep: int, champions: int = 1) -> list[Row]:
    """The runs whose inputs must stay readable: run_id, status, package, input_versions; newest first.

    Args:
        spark: the session.
        lake: the lake.
        keep: how many of the successful runs, and as many of those of comparisons and sweeps; 0: all that have their
            package.
        champions: how many of those that have served, the champion first, besides; 0: all.
    """
    if not lake.exists("training_runs"):
        return []
    files, runs = Files(spark, lake.root), lake.read("training_runs")
    is_ok = F.col("status") == "ok"
    done = runs.where(is_ok & _has_package(spark, files, runs.where(is_ok)))
    if keep:
        newest = Window.partitionBy(F.col("experiment").isNull()).orderBy(F.desc("started_at"))
        served = F.col("run_id").isin(_served(lake, champions))
        done = done.withColumn("_place", F.row_number().over(newest)).where((F.col("_place") <= keep) | served)
    resumable = F.col("run_id").isin(files.children("checkpoints"))
    unfinished = runs.where(~is_ok & _is_recent() & ((F.col("status") == "running") | resumable))
    chosen = unfinished.select(*_COLUMNS, "started_at").unionByName(done.select(*_COLUMNS, "started_at"))
    return chosen.orderBy(is_ok, F.desc("started_at")).select(*_COLUMNS).collect()


def _served(lake: Lake, most: int) -> list[str]:
    """The newest runs that have served, the champion first; 0: all."""
    if not lake.exists("promotions"):
        return []
    served = lake.read("promotions").groupBy("run_id").agg(F.max("number").alias("last")).orderBy(F.desc("last"))
    return [row["run_id"] for row in (served.limit(most) if most else served).collect()]


def find_leftovers(spark: SparkSession, lake: Lake) -> list[tuple[str, str]]:
    """Folders below the root, by their names, of runs that ended well or long ago: checkpoints, parts of packages.

    A run of a comparison is recorded when it ends; of one that was killed, its name tells when it began.
    """
    files = Files(spark, lake.root)
    checkpoints, packages = (set(files.children(folder)) for folder in ("checkpoints", "packages"))
    found = checkpoints | {name.removeprefix(".").removesuffix(".part") for name in packages}
    recorded = {}
    if found and lake.exists("training_runs"):
        runs = lake.read("training_runs").where(F.col("run_id").isin(sorted(found)))
        recorded = {row["run_id"]: row for row in runs.select("run_id", "status", _is_recent().alias("new")).collect()}
    well = {run_id for run_id, row in recorded.items() if row["status"] == "ok"}
    long_ago = datetime.now(UTC) - timedelta(days=UNFINISHED_DAYS)
    unknown = {name for name in found - recorded.keys() if began_before(name, long_ago)}
    ended = sorted(well | unknown | {run_id for run_id, row in recorded.items() if not row["new"]})
    # In an object store, which has no renames, a part lies where the package would, without its manifest.
    parts = [run_id for run_id in ended if run_id not in well and run_id in packages]
    return [
        *(("checkpoints", run_id) for run_id in ended if run_id in checkpoints),
        *(("packages", f".{run_id}.part") for run_id in ended if f".{run_id}.part" in packages),
        *(("packages", run_id) for run_id in parts if not files.exists("packages", run_id, "manifest.json")),
    ]


def find_packages(lake: Lake, files: Files, kept: Collection[str]) -> list[tuple[str, str]]:
    """Folders below the root of packages of successful runs that began long ago and are not kept.

    Args:
        lake: the lake.
        files: below its root.
        kept: run_id of the runs that keep theirs.
    """
    if not lake.exists("training_runs"):
        return []
    packages = sorted({*files.children("packages")} - {*kept})
    old = (F.col("status") == "ok") & ~_is_recent() & F.col("run_id").isin(packages)
    found = lake.read("training_runs").where(old).select("run_id").distinct().orderBy("run_id").collect()
    return [("packages", row["run_id"]) for row in found]


def _is_recent() -> Column:
    return F.col("started_at") > F.current_timestamp() - F.make_dt_interval(days=F.lit(UNFINISHED_DAYS))


def _has_package(spark: SparkSession, files: Files, runs: DataFrame) -> Column:
    """Whether the package of a run is in the lake or, of a lake that was moved, where it was recorded.

    Folders are listed, of which there are few, rather than packages looked up.
    """
    recorded = F.regexp_extract("package", "^(.*)/+[^/]+/*$", 1)
    there = F.col("run_id").isin(files.children("packages"))
    for row in runs.where(F.length("package") > 0).select(recorded.alias("folder")).distinct().collect():
        if row["folder"] and row["folder"] != files.path("packages"):
            names = Files(spark, row["folder"]).children()
            there |= (recorded == row["folder"]) & F.regexp_extract("package", "([^/]+)/*$", 1).isin(names)
    return there
