"""Records in a run's checkpoint folder which process trains it, so that no two processes resume the same run."""

import json
import os
import socket

from mamdr_core.runtime.object_store import AnyPath
from mamdr_core.runtime.processes import find_process, process_record

_OWNER = "owner.json"


def claim(folder: AnyPath) -> None:
    """Record in a run's checkpoint folder that this process trains it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _OWNER).write_text(json.dumps(_this_process()), encoding="utf-8")


def is_claimed(folder: AnyPath) -> bool:
    """Whether this process trains the run, and no other one, on any machine, has resumed it since or ended it.

    Raises:
        OSError: the record cannot be read.
    """
    try:
        return bool(json.loads((folder / _OWNER).read_text(encoding="utf-8")) == _this_process())
    except (FileNotFoundError, ValueError):
        return False


def is_trained_elsewhere(folder: AnyPath) -> bool:
    """Whether another process of this machine trains the run; processes of other machines are not detected.

    Raises:
        OSError: the record cannot be read.
    """
    try:
        owner = json.loads((folder / _OWNER).read_text(encoding="utf-8"))
        if owner["host"] != socket.gethostname() or owner["pid"] == os.getpid():
            return False
        return find_process(owner) is not None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False


def _this_process() -> dict[str, object]:
    return {"host": socket.gethostname(), **process_record(os.getpid())}
