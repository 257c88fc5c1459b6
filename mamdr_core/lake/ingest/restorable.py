"""Events that a replaced load took out of clicks, so that only another load's rejected rows still hold them."""

import logging
from collections.abc import Collection
from datetime import date

from pyspark.sql import functions as F

from mamdr_core.lake.core.hashing import hash64
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.ingest.clicks import EVENT
from mamdr_core.lake.ingest.loads import Load
from mamdr_core.lake.ingest.repeats import SMALL
from schemas.clicks import NEW_EVENT

logger = logging.getLogger(__name__)

_NAMED = 3


def count_restorable(lake: Lake, load: Load, before: int, version: int, replaced: Collection[date] = ()) -> int:
    """Count the events that loading other sources again would bring back, and warn with the names of the sources.

    Args:
        lake: the lake.
        load: the load that was replaced.
        before: version of clicks before that.
        version: version of clicks that replaced it.
        replaced: days on which the rows of all loads were replaced.
    """
    rejected = lake.read("clicks_rejected")
    if "event" not in rejected.columns:  # the table is older than the column
        return 0
    of_others = (F.col("rule") == NEW_EVENT.name) & (F.col("load") != load.id) & F.col("event").isNotNull()
    # An event that several sources hold is counted for one of them: loading that one again is enough.
    copies = rejected.where(of_others).groupBy("event").agg(F.min("source").alias("source"))
    count = copies.count()
    if not count:
        return 0
    copies = F.broadcast(copies) if count <= SMALL else copies
    event, own = hash64(*map(F.col, EVENT)).alias("event"), F.col("load") == load.id
    removed = lake.read("clicks", before).where(own | F.col("ds").isin(list(replaced))).select(event)
    # clicks holds an event once: one that this load had is still there only if the load brought it again.
    kept = lake.read("clicks", version).where(own).select(event)
    lost = removed.join(copies, "event").join(kept, "event", "left_anti").distinct()
    sources = {row["source"]: row["count"] for row in lost.groupBy("source").count().collect()}
    if sources:
        named = ", ".join(f"{source} ({events} events)" for source, events in sorted(sources.items())[:_NAMED])
        logger.warning(
            "events that %s no longer brings were rejected as known when other sources brought them; to have them in "
            "clicks, load these again: %s%s",
            *(load.source, named, f" and {len(sources) - _NAMED} more" if len(sources) > _NAMED else ""),
        )
    return sum(sources.values())
