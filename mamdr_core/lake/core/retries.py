"""Repeats writes that conflict with commits of other jobs (docs/concurrency.md)."""

import logging
import random
import time
from collections.abc import Callable

from delta.exceptions import captured as delta_exceptions

from mamdr_core.runtime.errors import MamdrError

logger = logging.getLogger(__name__)


class MadeMeanwhileError(Exception):
    """Another job has created the managed table that this job was about to create."""


# Delta raises these classes only after its module was imported, and they share no base class.
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
"""Maximum number of attempts of a write."""


def insist(write: Callable[[], None], name: str, path: Callable[[], str]) -> None:
    """Write, and repeat the write after a random pause if it conflicts with a commit of another job.

    Args:
        path: returns the path of the table, for the error.

    Raises:
        MamdrError: all attempts failed.
    """
    for number in range(TRIES):
        try:
            return write()
        except CONFLICTS as error:
            logger.warning("%s: another job is writing it: %s", name, type(error).__name__)
            time.sleep(random.uniform(0, min(2**number, 20)))
    raise MamdrError(f"{path()}: another job is writing the same part of it; run again when that has ended")
