"""Which runs still need their inputs, and what runs left behind that nobody needs."""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta

from pyspark.sql import Column, Row, SparkSession
from pyspark.sql import functions as F

from mamdr_core.lake.core.files import Files
from mamdr_core.lake.core.tables import Lake
from mamdr_core.run_ids import began_before

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
    runs = lake.read("training_runs").where((F.col("status") == "ok") | _is_recent())
    chosen = runs.orderBy(F.desc("started_at")).select(*_COLUMNS).collect()
    done = [run for run in chosen if run["status"] == "ok" and _has_package(spark, lake, run)]
    resumable = set(Files(spark, lake.root).children("checkpoints"))
    unfinished = [
        run for run in chosen if run["status"] == "running" or (run["status"] != "ok" and run["run_id"] in resumable)
    ]
    if keep:
        served = _served(lake)[: champions or None]
        newest = {run["run_id"] for own in (True, False) for run in _of(done, own)[:keep]}
        done = [run for run in done if run["run_id"] in newest | set(served)]
    return unfinished + done


def _of(runs: list[Row], own: bool) -> list[Row]:
    """Those that were trained by themselves, or those of comparisons and sweeps."""
    return [run for run in runs if (run["experiment"] is None) == own]


def _served(lake: Lake) -> list[str]:
    """The runs that have served, the champion first."""
    if not lake.exists("promotions"):
        return []
    rows = (
        lake.read("promotions").groupBy("run_id").agg(F.max("number").alias("last")).orderBy(F.desc("last")).collect()
    )
    return [row["run_id"] for row in rows]


def find_leftovers(spark: SparkSession, lake: Lake) -> list[tuple[str, str]]:
    """Folders below the root, by their names, of runs that ended well or long ago: checkpoints, parts of packages.

    A run of a comparison is recorded when it ends; of one that was killed, its name tells when it began.
    """
    files = Files(spark, lake.root)
    checkpoints, packages = (set(files.children(folder)) for folder in ("checkpoints", "packages"))
    recorded = {}
    if lake.exists("training_runs"):
        rows = lake.read("training_runs").select("run_id", "status", _is_recent().alias("is_recent")).collect()
        recorded = {row["run_id"]: row for row in rows}
    well = {run_id for run_id, row in recorded.items() if row["status"] == "ok"}
    found = checkpoints | {name.removeprefix(".").removesuffix(".part") for name in packages}
    long_ago = datetime.now(UTC) - timedelta(days=UNFINISHED_DAYS)
    unknown = {name for name in found - recorded.keys() if began_before(name, long_ago)}
    ended = sorted(well | unknown | {run_id for run_id, row in recorded.items() if not row["is_recent"]})
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
    old = lake.read("training_runs").where((F.col("status") == "ok") & ~_is_recent()).select("run_id").collect()
    packages = set(files.children("packages"))
    return [("packages", run_id) for run_id in sorted({row["run_id"] for row in old} & packages - set(kept))]


def _is_recent() -> Column:
    return F.col("started_at") > F.current_timestamp() - F.make_dt_interval(days=F.lit(UNFINISHED_DAYS))


def _has_package(spark: SparkSession, lake: Lake, run: Row) -> bool:
    # A lake that was moved has its packages still, not where they were recorded.
    places = (lake.path_of("packages", run["run_id"]), run["package"])
    return any(place and Files(spark, place).exists() for place in places)
