"""Which process trains a run: noted in the run's folder of checkpoints, so that no two go on with the same one."""

import json
import os
import socket

import psutil

from mamdr_core.object_store import Place

_OWNER = "owner.json"


def claim(folder: Place) -> None:
    """Note in a run's folder of checkpoints that this process trains it."""
    folder.mkdir(parents=True, exist_ok=True)
    owner = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(psutil.Process())}
    (folder / _OWNER).write_text(json.dumps(owner), encoding="utf-8")


def is_trained_elsewhere(folder: Place) -> bool:
    """Whether another process of this machine trains the run; of other machines nothing is known.

    Raises:
        OSError: the note cannot be read, so it is not known.
    """
    try:
        owner = json.loads((folder / _OWNER).read_text(encoding="utf-8"))
        if owner["host"] != socket.gethostname() or owner["pid"] == os.getpid():
            return False
        process = psutil.Process(owner["pid"])
        same = abs(_started(process) - owner["started"]) < 2  # the kernel rounds, anew at each reading
        return bool(same) and process.status() != psutil.STATUS_ZOMBIE
    except (FileNotFoundError, ValueError, KeyError, TypeError, psutil.Error):
        return False


def _started(process: psutil.Process) -> float:
    """Seconds from the machine's start to the process's: a clock that is set meanwhile does not change them."""
    return float(process.create_time() - psutil.boot_time())
