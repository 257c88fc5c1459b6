"""Rows that leave a lake when they are old: events by their day, batches of scores by when they were written."""

import logging
from datetime import datetime, timedelta

from pyspark.sql import functions as F

from mamdr_core.lake.core.notes import EXPIRED
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.settings import MaintainSettings

logger = logging.getLogger(__name__)


def remove_old_rows(lake: Lake, settings: MaintainSettings) -> None:
    """Remove the rows that `history_days` and `scores_days` do not keep; earlier versions stay for their retention."""
    if settings.history_days:
        _remove_events(lake, settings.history_days)
    if settings.scores_days:
        _remove_scores(lake, settings.scores_days)


def _remove_events(lake: Lake, days: int) -> None:
    """Remove the events of all days but the newest."""
    if not lake.exists("clicks"):
        return
    found = lake.read("clicks").agg(F.max("ds")).first()
    if not found or found[0] is None:
        return
    first = found[0] - timedelta(days - 1)
    old = f"ds < DATE'{first}'"
    for name in ("clicks", "clicks_rejected", "examples"):
        if lake.exists(name) and not lake.read(name).where(old).isEmpty():
            lake.change(name, lambda table: table.delete(old), {"job": "maintain_lake", EXPIRED: str(first)})
            logger.info("%s: rows of days before %s removed", name, first)


def _remove_scores(lake: Lake, days: int) -> None:
    """Remove batches of scores of which no file has been written, or joined with others, for some days."""
    if not lake.exists("scores"):
        return
    first = datetime.now() - timedelta(days)
    written = F.max("_metadata.file_modification_time").alias("written")
    batches = lake.read("scores").groupBy("batch").agg(written).where(F.col("written") < first).collect()
    if not batches:
        return
    old = F.col("batch").isin([row["batch"] for row in batches])
    note = {"job": "maintain_lake", EXPIRED: str(first.date())}
    lake.change("scores", lambda table: table.delete(old), note)
    logger.info("scores: %d batches written before %s removed", len(batches), first.date())
