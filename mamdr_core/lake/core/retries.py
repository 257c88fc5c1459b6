"""Writing again where another job's commit gets ahead (docs/concurrency.md)."""

import logging
import random
import time
from collections.abc import Callable

from delta.exceptions import captured as delta_exceptions

from mamdr_core.runtime.errors import MamdrError

logger = logging.getLogger(__name__)


class MadeMeanwhileError(Exception):
    """Another job has made the managed table that this one was about to make."""


# Delta's exceptions reach Python by name only where this module of it has been imported, and share no base class.
CONFLICTS = (
    delta_exceptions.ConcurrentAppendException,
    delta_exceptions.ConcurrentDeleteDeleteException,
    delta_exceptions.ConcurrentDeleteReadException,
    delta_exceptions.ConcurrentTransactionException,
    delta_exceptions.ConcurrentWriteException,
    delta_exceptions.DeltaConcurrentModificationException,
    delta_exceptions.MetadataChangedException,
    delta_exceptions.ProtocolChangedException,
    MadeMeanwhileError,
)
TRIES = 8
"""How often a write is tried that another job's commit gets ahead of."""


def insist(write: Callable[[], None], name: str, path: Callable[[], str]) -> None:
    """Write, and again after a pause that differs by writer where another job's commit got ahead.

    Args:
        write: what is tried.
        name: of the table.
        path: of the table.

    Raises:
        MamdrError: another job's commit got ahead every time.
    """
    for number in range(TRIES):
        try:
            return write()
        except CONFLICTS as error:
            logger.warning("%s: another job is writing it: %s", name, type(error).__name__)
            time.sleep(random.uniform(0, min(2**number, 20)))
    raise MamdrError(f"{path()}: another job is writing the same part of it; run again when that has ended")
