"""Notes that jobs attach to Delta commits (userMetadata) for jobs that read the log later."""

from collections.abc import Collection
from datetime import date
from typing import Any

MERGED, EXPIRED, INCOMPLETE = "merged", "expired", "incomplete"
"""Keys of notes. The commit rewrote existing rows; removed the same days from clicks and examples; removed rows of
clicks whose examples cannot be identified."""
RESTORED = "restored"
"""Key of a note of clicks: the loads whose rejected rows the commit restored."""


def load_note(load: int, whole_days: Collection[date | None]) -> dict[str, Any]:
    """The note of a commit of clicks by a load; on `whole_days` it replaced the rows of all loads."""
    return {"load": load, "whole_days": sorted(day.isoformat() for day in whole_days if day)}
