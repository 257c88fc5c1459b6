"""What jobs note with a commit of Delta's (userMetadata), for the jobs that read the log later."""

from collections.abc import Collection
from datetime import date
from typing import Any

MERGED, EXPIRED, INCOMPLETE = "merged", "expired", "incomplete"
"""In a commit's note: it wrote rows anew that were there; it removed days from clicks and examples alike; it removed
rows from clicks whose examples cannot be found."""
RESTORED = "restored"
"""In the note of a commit of clicks: the loads to which it added rows that had been rejected as another load's."""


def load_note(load: int, whole_days: Collection[date | None]) -> dict[str, Any]:
    """What ingest_clicks notes with its commit of clicks.

    Args:
        load: its number.
        whole_days: days of which all rows were replaced, whoever filed them.
    """
    return {"load": load, "whole_days": sorted(day.isoformat() for day in whole_days if day)}
