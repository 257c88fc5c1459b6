"""Removes old rows: events by their day, batches of scores by the time at which they were written."""

import logging
from datetime import datetime, timedelta

from delta.tables import DeltaTable
from pyspark.sql import functions as F

from mamdr_core.lake.core.notes import EXPIRED
from mamdr_core.lake.core.tables import Lake

logger = logging.getLogger(__name__)


def remove_events(lake: Lake, days: int) -> None:
    """Remove all events except those of the newest `days` days; earlier versions of the tables are not affected."""
    if not lake.exists("clicks"):
        return
    found = lake.read("clicks").agg(F.max("ds")).first()
    if not found or found[0] is None:
        return
    first = found[0] - timedelta(days - 1)
    old = f"ds < DATE'{first}'"
    for name in ("clicks", "clicks_rejected", "examples"):
        if lake.has_rows(name, old):
            lake.change(name, lambda table: table.delete(old), {"job": "maintain_lake", EXPIRED: str(first)})
            logger.info("%s: rows of days before %s removed", name, first)


def remove_scores(lake: Lake, days: int, dry_run: bool) -> int:
    """Remove, or in a dry run count, batches of scores whose oldest file is older than `days`; returns their number."""
    if not lake.exists("scores"):
        return 0
    first = datetime.now() - timedelta(days)
    removed = _written_before(lake, first)
    if removed and not dry_run:

        def delete(table: DeltaTable) -> None:
            # Read again in every attempt, so that a batch that was rewritten in the meantime is kept.
            table.delete(F.col("batch").isin(_written_before(lake, first)))

        lake.change("scores", delete, {"job": "maintain_lake", EXPIRED: str(first.date())})
        logger.info("scores: %d batches written before %s removed", len(removed), first.date())
    return len(removed)


def _written_before(lake: Lake, first: datetime) -> list[str]:
    written = F.min("_metadata.file_modification_time").alias("written")
    batches = lake.read("scores").groupBy("batch").agg(written).where(F.col("written") < first).collect()
    return [row["batch"] for row in batches]
