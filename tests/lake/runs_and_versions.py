"""Runs and versions of tables for tests of what is kept and what is removed; growing one vocabulary."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from pyspark.sql import functions as F

from mamdr_core.lake.core.caching import kept_frames
from mamdr_core.lake.examples.vocabularies import Ids, add_new_ids, find_new_ids
from schemas import TABLES
from tests.lake.stored import commit, state_of


def record(lake, *runs):
    """Runs in training_runs, each (run_id, status, age in days, input versions); successful ones get a package."""
    rows = []
    for run_id, status, days, versions in runs:
        row = {"run_id": run_id, "status": status, "method": "mamdr", "model": "mlp", "config": ""}
        rows.append(
            row | {"input_versions": [*versions.items()], "started_at": datetime.now(UTC) - timedelta(days=days)}
        )
        if status == "ok":
            Path(lake.path_of("packages", run_id)).mkdir(parents=True)
    commit(lake.root, TABLES["training_runs"], rows)


def examples_of(spark, domain, rows=4):
    """Rows of examples, all in one split and shard."""
    made = spark.range(rows, numPartitions=1).selectExpr("int(id) user", "0 item", "1 label", "'train' split", "id key")
    columns = {"domain": domain, "shard": 0, "ds": None, "load": 0, "true_probability": None}
    made = made.withColumns({name: F.lit(value) for name, value in columns.items()})
    return made.withColumn("ds", F.lit("2026-01-01").cast("date"))


def write_versions(lake, domains):
    """Replace all examples once for each domain; returns the versions."""
    versions = []
    for domain in domains:
        rows = [{"user": n, "item": 0, "label": 1, "key": n, "load": 0, "split": "train", "shard": 0} for n in range(4)]
        rows = [row | {"domain": domain, "ds": date(2026, 1, 1)} for row in rows]
        commit(lake.root, TABLES["examples"], rows, replaced=lambda _: True)
        versions.append(lake.version("examples"))
    return versions


def files_of(lake, table, version):
    return {Path(lake.path(table), unquote(path)) for path in state_of(lake.root, table, version).files}


class Growth(NamedTuple):
    """Ids of a vocabulary, and how many of them are new."""

    total: int
    new: int


def update_vocabulary(lake, table, rows, column, min_count=1):
    """Give every id of a column an index, as a build does for all vocabularies at once."""
    with kept_frames() as keep:
        grown = add_new_ids(lake, find_new_ids(lake, [Ids(table, column, min_count)], rows, keep), keep)[column]
    return Growth(grown.total, grown.new)
