"""Rows that leave a lake when they are old: events by their day, batches of scores by when they were written."""

import logging
from datetime import datetime, timedelta

from delta.tables import DeltaTable
from pyspark.sql import functions as F

from mamdr_core.lake.core.notes import EXPIRED
from mamdr_core.lake.core.tables import Lake

logger = logging.getLogger(__name__)


def remove_events(lake: Lake, days: int) -> None:
    """Remove the events of all days but the newest; versions of before stay for their retention."""
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


def remove_scores(lake: Lake, days: int, dry_run: bool) -> int:
    """Remove batches of scores that were written some days ago, of which the oldest file counts.

    Args:
        lake: whose scores.
        days: that a batch is kept.
        dry_run: count them alone.

    Returns:
        How many.
    """
    if not lake.exists("scores"):
        return 0
    first = datetime.now() - timedelta(days)
    removed = _written_before(lake, first)
    if removed and not dry_run:

        def delete(table: DeltaTable) -> None:
            # Looked at again in every attempt: a batch that has been written anew meanwhile stays.
            table.delete(F.col("batch").isin(_written_before(lake, first)))

        lake.change("scores", delete, {"job": "maintain_lake", EXPIRED: str(first.date())})
        logger.info("scores: %d batches written before %s removed", len(removed), first.date())
    return len(removed)


def _written_before(lake: Lake, first: datetime) -> list[str]:
    written = F.min("_metadata.file_modification_time").alias("written")
    batches = lake.read("scores").groupBy("batch").agg(written).where(F.col("written") < first).collect()
    return [row["batch"] for row in batches]
