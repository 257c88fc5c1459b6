"""Identifies processes of this machine across restarts, by process id and start time."""

from typing import Any

import psutil


def process_record(pid: int) -> dict[str, Any]:
    """Record that identifies a process of this machine: `pid` and `started`."""
    return {"pid": pid, "started": _started(psutil.Process(pid))}


def find_process(note: dict[str, Any]) -> psutil.Process | None:
    """The process of a record; None if it has ended, including zombies.

    Raises:
        KeyError, TypeError, ValueError: the record is invalid.
    """
    try:
        process = psutil.Process(note["pid"])
        same = abs(_started(process) - note["started"]) < 2  # readings differ by rounding
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def _started(process: psutil.Process) -> float:
    """Seconds between the start of the machine and of the process, which do not change if the clock is set."""
    return float(process.create_time() - psutil.boot_time())
