"""Corrections: loads that replace rows of clicks; events that they no longer contain are restored for other loads.

If a job is killed after it has replaced rows and before it has restored events, the next attempt of the load does so.
It considers the days on which clicks holds rows of the load, and those recorded in `loads`: an attempt records its days
there before it removes any of them from clicks. A load that replaces whole days may remove the last clicks of a load
whose correction was killed; it then completes that correction.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime

from mamdr_core.lake.core.caching import kept_frames
from mamdr_core.lake.core.progress import progress
from mamdr_core.lake.core.session import FEW, FEW_BYTES, overriding
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.ingest.load_counts import LoadCounts
from mamdr_core.lake.ingest.loads import Attempts, Load, read_attempts, record_load
from mamdr_core.lake.ingest.restore import Replaced, restore_events
from mamdr_core.runtime.errors import MamdrError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Correction:
    """A load that replaces rows of clicks.

    Attributes:
        whole_days: whether it replaces all rows of its days instead of only its own.
        held: days on which clicks held rows of the load.
    """

    load: Load
    whole_days: bool
    held: frozenset[date]
    earlier: Attempts


def find_correction(
    lake: Lake, load: Load, whole_days: bool, held: Collection[date | None], counts: LoadCounts
) -> Correction | None:
    """The correction that a load makes; None: it replaces no row.

    Args:
        whole_days, held: see `Correction`; `held` may contain None, which stands for rows without a day.
    """
    days = frozenset(day for day in held if day)
    if not (days or (whole_days and lake.exists("clicks"))):
        return None
    replaced = days | counts.valid_by_day.keys() if whole_days else ()
    return Correction(load, whole_days, days, read_attempts(lake, load, replaced))


def begin_correction(lake: Lake, correction: Correction, counts: LoadCounts, started_at: datetime) -> bool:
    """Record the days of a correction before it replaces rows, if clicks will no longer show them; whether it did."""
    if correction.earlier.killed:
        logger.info("an earlier correction was killed; %s also restores the events of that one", correction.load.source)
    now = frozenset(counts.valid_by_day)
    if not correction.held - now:
        return False
    record_load(lake, correction.load, counts, started_at, replacing=correction.held | now)
    return True


def finish_correction(lake: Lake, correction: Correction, counts: LoadCounts) -> int:
    """Restore the events that a published correction no longer contains from rows of other loads; returns their number.

    Raises:
        MamdrError: other jobs kept writing the tables. The load is published nevertheless.
    """
    load, earlier = correction.load, correction.earlier
    now = frozenset(counts.valid_by_day)
    # Whole days that a killed attempt replaced are those on which clicks holds its rows.
    whole_days = correction.held | now if correction.whole_days else frozenset[date]()
    replaced = Replaced(load, correction.held | now | earlier.days, whole_days, earlier.killed)
    # Decided by the tables, not by this log: many clicks may have times of this log.
    few = FEW if lake.log("clicks").size() + lake.log("clicks_rejected").size() <= FEW_BYTES else {}
    try:
        with kept_frames() as keep, overriding(lake.spark, few), progress(lake.spark, "restored events"):
            return restore_events(lake, replaced, keep)
    except MamdrError as error:
        raise MamdrError(
            f"input.path: {load.source} is published, but events that it no longer contains were not restored for "
            f"other loads: {error}; run it again"
        ) from error
