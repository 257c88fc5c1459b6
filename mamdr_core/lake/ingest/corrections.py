"""Corrections: a load that replaces rows of clicks, and gives other loads the events that it no longer brings.

A job can be killed after it has replaced rows and before it has given events back. The next run of the load does that
then: the days that it must look at are those that clicks holds of the load and those that `loads` has. A run that is
about to take days away from clicks therefore adds a line to `loads` first.
"""

import logging
from dataclasses import dataclass
from datetime import date, datetime

from pyspark.sql import SparkSession

from mamdr_core.lake.core.caching import kept_frames
from mamdr_core.lake.core.progress import progress
from mamdr_core.lake.core.session import FEW, FEW_BYTES, overriding
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.ingest.loads import Attempts, Load, read_attempts, record_load
from mamdr_core.lake.ingest.restore import Replaced, count_restorable, restore_events, was_made_before_names
from mamdr_core.lake.ingest.tally import Tally
from mamdr_core.runtime.errors import MamdrError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Correction:
    """A load that replaces rows of clicks.

    Attributes:
        load: the load.
        whole_days: whether it replaces all rows of its days, and not its own alone.
        held: days that clicks held of it.
        before: the version of clicks that held them.
        earlier: what is recorded of earlier runs of it.
    """

    load: Load
    whole_days: bool
    held: frozenset[date]
    before: int
    earlier: Attempts


def find_correction(
    lake: Lake, load: Load, whole_days: bool, held: frozenset[date], before: int | None
) -> Correction | None:
    """The correction that a load is; None: it replaces no row."""
    if before is None or not (held or whole_days):
        return None
    return Correction(load, whole_days, held, before, read_attempts(lake, load))


def begin_correction(
    spark: SparkSession, lake: Lake, correction: Correction, tally: Tally, started_at: datetime
) -> None:
    """Record the days of a correction, before it replaces rows, where clicks would not show them any more."""
    if correction.earlier.killed:
        logger.info("an earlier run of %s did not end; this one gives its events back too", correction.load.source)
    now = frozenset(tally.valid_by_day)
    # What rejected rows of an old table do not name is looked for in the replaced version of clicks, which a later run
    # does not know: it must know that one did not end.
    if correction.held - now or was_made_before_names(lake):
        record_load(spark, lake, correction.load, tally, started_at, replacing=correction.held | now)


def finish_correction(
    spark: SparkSession, lake: Lake, correction: Correction, tally: Tally, version: int
) -> tuple[int, int]:
    """File what other loads brought and this one no longer does; how many events that were, and could be.

    Args:
        spark: the session.
        lake: the lake.
        correction: that has been published.
        tally: counts of the published load.
        version: of clicks, that this made.

    Raises:
        MamdrError: other jobs kept writing what it reads. The load is published then.
    """
    load, earlier = correction.load, correction.earlier
    now = frozenset(tally.valid_by_day)
    # Whole days that an earlier run replaced, if it was killed, are those that clicks holds of it.
    whole_days = correction.held | now if correction.whole_days else frozenset[date]()
    replaced = Replaced(load, correction.held | now | earlier.days, whole_days, earlier.killed)
    # Not by the size of this log: the clicks of its times may be many.
    few = FEW if lake.log("clicks").size() + lake.log("clicks_rejected").size() <= FEW_BYTES else {}
    try:
        with kept_frames() as keep, overriding(spark, few), progress(spark, "restored events"):
            restored = restore_events(lake, replaced, keep)
            days = now if correction.whole_days else ()
            return restored, count_restorable(lake, load, (correction.before, version), days, earlier.killed)
    except MamdrError as error:
        raise MamdrError(
            f"input.path: {load.source} is published, but events that it no longer brings were not given back to other "
            f"loads: {error}; run it again"
        ) from error
