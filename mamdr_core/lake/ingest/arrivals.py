"""Logs that arrive file by file: each file is a separate load, and is loaded once."""

import logging
from collections import Counter
from dataclasses import replace
from typing import Any

from pyspark.sql import SparkSession

from mamdr_core.config.job_config import Config
from mamdr_core.lake.core.files import Files
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.ingest.job import ingest_clicks
from mamdr_core.runtime.errors import MamdrError

logger = logging.getLogger(__name__)

UNFINISHED = ("_", ".")
"""Prefixes of files that are still being written, by the convention of Hadoop's tools."""
_SUMS = ("rows_in", "clicks", "rejected", "restored", "restorable", "days")


def ingest_arrived(spark: SparkSession, config: Config) -> dict[str, Any]:
    """Load each file or folder in `input.path` (a folder or glob) that is not recorded as published in `loads`.

    They are loaded in the order of their names. If one is stopped, earlier ones stay published, and the next run starts
    with it. If a job was killed after it published a file and before it recorded that, the file is loaded again, which
    replaces its rows.

    Returns:
        The results of `ingest_clicks`, summed over the loads (days too), and the number of loads.

    Raises:
        MamdrError: nothing matches the path; see also `ingest_clicks`.
    """
    arrived = _find_arrived(spark, config.input.path)
    lake = Lake(spark, config.lake)
    known = set()
    if lake.exists("loads"):
        published = lake.read("loads").where("status = 'published'").select("source").distinct()
        known = {row["source"] for row in published.collect()}
    new = [path for path in arrived if path not in known]
    logger.info("%s: %d of %d files and folders are new", config.input.path, len(new), len(arrived))
    sums, rules, undeclared = Counter[str](), Counter[str](), set[str]()
    version = lake.newest("clicks")
    for number, path in enumerate(new, 1):
        logger.info("load %d of %d: %s", number, len(new), path)
        figures = ingest_clicks(spark, replace(config, input=replace(config.input, path=path)))
        sums.update({name: figures[name] for name in _SUMS})
        rules.update(figures["rejected_by_rule"])
        undeclared.update(figures["undeclared_columns"])
        version = figures["clicks_version"]
    return {
        **{name: sums[name] for name in _SUMS},
        "rejected_by_rule": dict(rules),
        "undeclared_columns": sorted(undeclared),
        "clicks_version": version if version >= 0 else None,
        "loads": len(new),
    }


def _find_arrived(spark: SparkSession, path: str) -> list[str]:
    """The complete files and folders in a folder or matching a glob, sorted, as in the column `source` of loads."""
    files = Files(spark, path)
    if files.is_file() or not files.exists():
        paths = files.matches()
    else:
        paths = [files.path(name) for name in files.children()]
    finished = sorted(path for path in paths if not path.rpartition("/")[2].startswith(UNFINISHED))
    if not finished:
        raise MamdrError(f"input.path: {path}: no file or folder has arrived there")
    return [Files(spark, path).root for path in finished]
