"""Processes that are noted in a file, and known again by their number and their start."""

from typing import Any

import psutil


def note_of(pid: int) -> dict[str, Any]:
    """What knows a process of this machine again: `pid` and `started`."""
    return {"pid": pid, "started": _started(psutil.Process(pid))}


def living(note: dict[str, Any]) -> psutil.Process | None:
    """The process of a note, unless it has ended, even if nobody has waited for it.

    Raises:
        KeyError, TypeError, ValueError: it is no such note.
    """
    try:
        process = psutil.Process(note["pid"])
        same = abs(_started(process) - note["started"]) < 2  # the kernel rounds, anew at each reading
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def _started(process: psutil.Process) -> float:
    """Seconds from the machine's start to the process's: a clock that is set meanwhile does not change them."""
    return float(process.create_time() - psutil.boot_time())
