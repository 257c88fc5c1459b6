"""maintain_lake: compacts small files, and removes files that neither recent versions nor kept runs need."""

import logging
import time
from typing import Any

from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F

from mamdr_core.config.job_config import Config
from mamdr_core.config.lake import MaintainSettings
from mamdr_core.lake.core.caching import kept_frames
from mamdr_core.lake.core.java import java_class
from mamdr_core.lake.core.retries import CONFLICTS
from mamdr_core.lake.core.session import FEW, FEW_HELD, FEW_ROWS, overriding
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.maintenance.kept import find_leftovers, find_packages, kept_runs
from mamdr_core.lake.maintenance.merging import merge_examples
from mamdr_core.lake.maintenance.retention import remove_events, remove_scores
from mamdr_core.lake.maintenance.vacuum import (
    CHECK,
    Total,
    list_files,
    names_of,
    old_files,
    total_of,
    vacuum,
    would_vacuum,
)
from mamdr_core.runtime.errors import MamdrError
from schemas import DeclaredTable

logger = logging.getLogger(__name__)

SAFE_DAYS = 7
"""Delta's minimum retention in days: a job that takes less time never loses a file that it reads or writes."""
_CHECKPOINT = 10
"""Commits between two checkpoints of Delta, which reconstructs a version from the checkpoint before it."""
_YEAR, _DAY_MS = 365, 86_400_000


def maintain_lake(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Remove old rows, compact small files of every table, then remove unneeded files.

    Rows older than `maintain.history_days` and `maintain.scores_days` are removed. The newest version of every table
    stays readable, and versions that are not older than `maintain.retention_days`, and the input versions of kept runs.
    These are successful runs with a package (the newest `maintain.keep_runs`, and the newest `maintain.keep_champions`
    that have served), and runs of the last two weeks that are running or can be resumed. Packages of other successful
    runs are removed two weeks after the start of the run. To release a run's inputs earlier, delete its package or its
    checkpoints. Checkpoints and partial packages of failed or unrecorded runs are removed after two weeks.

    Returns:
        dry_run, kept_runs, packages_removed, leftovers_removed, score_batches_removed, files_deleted, bytes_freed, and
        `tables`: by name, files and bytes before and after, compacted files, files_deleted, bytes_freed, and
        pinned_versions.

    Raises:
        MamdrError: the retention is below a week while Delta's safety check is on. Nothing has been changed.
    """
    settings = config.maintain
    _check_retention(spark, settings)
    lake = Lake(spark, config.lake)
    runs = kept_runs(lake, settings.keep_runs, settings.keep_champions)
    pinned = _pinned_versions(runs)
    if settings.history_days and not settings.dry_run:
        remove_events(lake, settings.history_days)
    batches = remove_scores(lake, settings.scores_days, settings.dry_run) if settings.scores_days else 0
    tables = {}
    for table in lake.tables():
        tables[table.name] = _maintain_table(lake, table, pinned.get(table.name, set()), config)
    packages = _old_packages(lake, settings)
    leftovers = find_leftovers(lake)
    if not settings.dry_run:
        for parts in packages + leftovers:
            lake.files.delete(*parts)
    return {
        "dry_run": settings.dry_run,
        "kept_runs": len(runs),
        "packages_removed": len(packages),
        "leftovers_removed": len(leftovers),
        "score_batches_removed": batches,
        "files_deleted": sum(figures["files_deleted"] for figures in tables.values()),
        "bytes_freed": sum(figures["bytes_freed"] for figures in tables.values()),
        "tables": tables,
    }


def _old_packages(lake: Lake, settings: MaintainSettings) -> list[tuple[str, str]]:
    """Packages of runs that are not kept; the runs are read again, since one may have been promoted in the meantime."""
    if not settings.keep_runs:
        return []
    kept = {run["run_id"] for run in kept_runs(lake, settings.keep_runs, settings.keep_champions)}
    packages = find_packages(lake, kept)
    if packages:
        outcome = "would be removed" if settings.dry_run else "are removed"
        logger.info("packages of %s %s", ", ".join(run_id for _, run_id in packages), outcome)
    return packages


def _pinned_versions(runs: list[Row]) -> dict[str, set[int]]:
    pinned: dict[str, set[int]] = {}
    for run in runs:
        for table, version in run["input_versions"].items():
            pinned.setdefault(table, set()).add(version)
    return pinned


def _check_retention(spark: SparkSession, settings: MaintainSettings) -> None:
    checked = str(spark.conf.get(CHECK, "true")).lower() != "false"
    if settings.retention_days < SAFE_DAYS and checked:
        raise MamdrError(
            f"maintain.retention_days {settings.retention_days}: running jobs may still need such recent files; give "
            f"{SAFE_DAYS} or more or, when no job runs, submit with --conf {CHECK}=false"
        )


def _maintain_table(lake: Lake, table: DeclaredTable, pinned: set[int], config: Config) -> dict[str, Any]:
    settings, spark = config.maintain, lake.spark
    path, name, days = lake.path(table), lake.sql_name(table), settings.retention_days
    with kept_frames() as keep:
        listed = keep(list_files(spark, path))
        before = after = total_of(listed)
        compacted, removed = 0, Total(0, 0)
        if not settings.dry_run:
            _keep_history(lake, table, pinned, days)  # before a commit lets Delta clean the log
            if table.name == "examples":
                compacted = merge_examples(lake, config.examples.shards)
        # The log has a row for each file.
        is_small = before.files <= FEW_ROWS and before.bytes <= FEW_HELD
        with overriding(spark, FEW if is_small else {}):
            if before.files > 1 and not settings.dry_run and table.name != "examples" and not table.sort_by:
                compacted = _compact(lake, table)
            # On most days no file is that old.
            if not (old := old_files(listed, days)).isEmpty():
                spared = names_of(lake, table, pinned | {lake.version(table)})
                unneeded = keep(old.join(spared, "name", "left_anti"))
                removable = keep(would_vacuum(spark, name, unneeded, days))
                removed = total_of(removable)
                if removed.files and not settings.dry_run:
                    vacuum(spark, name, unneeded, days)
                    removed = total_of(removable.join(list_files(spark, path).select("name"), "name", "left_anti"))
            if not settings.dry_run and (compacted or removed.files):
                after = total_of(list_files(spark, path))
    return _report(table, compacted, before, removed, after, settings) | {"pinned_versions": sorted(pinned)}


def _report(
    table: DeclaredTable, compacted: int, before: Total, removed: Total, after: Total, settings: MaintainSettings
) -> dict[str, Any]:
    figures = {
        "files_before": before.files,
        "bytes_before": before.bytes,
        "files_compacted": compacted,
        "files_deleted": removed.files,
        "bytes_freed": removed.bytes,
        "files_after": after.files,
        "bytes_after": after.bytes,
    }
    logger.info(
        "%s: %d small files compacted, %d files of %d bytes %s; %d files of %d bytes before, %d of %d after",
        *(table.name, compacted, figures["files_deleted"], figures["bytes_freed"]),
        "would be removed" if settings.dry_run else "removed",
        *(figures[name] for name in ("files_before", "bytes_before", "files_after", "bytes_after")),
    )
    return figures


def _keep_history(lake: Lake, table: DeclaredTable, pinned: set[int], days: int) -> None:
    """Set Delta's retentions: `days` for removed files, and a year longer than pinned versions need for the log."""
    path, log, spark = lake.path(table), lake.log(table), lake.spark
    needed = range(max(min(pinned) - _CHECKPOINT, 0), min(pinned) + 1) if pinned else ()
    # Delta cleans the log by the age of its files. If it has already begun to, the oldest remaining file counts.
    oldest = next((written for version in needed if (written := log.written_at(version)) is not None), None)
    age = 0 if oldest is None else max(int(time.time() * 1000 - oldest) // _DAY_MS, 0)
    delta_log = java_class(spark, "org.apache.spark.sql.delta.DeltaLog").forTable(spark._jsparkSession, path)
    metadata = delta_log.unsafeVolatileSnapshot().metadata()
    properties = {}
    if delta_log.deltaRetentionMillis(metadata) < (age + _YEAR) * _DAY_MS:
        properties["delta.logRetentionDuration"] = f"interval {(age // _YEAR + 2) * _YEAR} days"
    if delta_log.tombstoneRetentionMillis(metadata) != max(days, SAFE_DAYS) * _DAY_MS:
        properties["delta.deletedFileRetentionDuration"] = f"interval {max(days, SAFE_DAYS)} days"
    if properties:
        listed = ", ".join(f"'{name}' = '{value}'" for name, value in properties.items())
        spark.sql(f"ALTER TABLE {lake.sql_name(table)} SET TBLPROPERTIES ({listed})")


def _compact(lake: Lake, table: DeclaredTable) -> int:
    """Compact small files within their partitions; returns the number of compacted files."""
    folder = F.regexp_extract("path", "^(.*?)[^/]*$", 1)
    most = lake.log(table).files(lake.version(table)).groupBy(folder).count().agg(F.max("count")).collect()[0][0]
    if (most or 0) <= 1:
        return 0
    try:
        done = lake.delta(table).optimize().executeCompaction()
        compacted = done.select("metrics.numFilesRemoved").first()
    except CONFLICTS:
        logger.warning("%s: another job is writing it; its small files stay until the next run", table.name)
        return 0
    return int(compacted[0]) if compacted else 0
