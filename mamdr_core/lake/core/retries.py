"""When a write is repeated: errors of Delta about conflicts with commits of other jobs (docs/concurrency.md)."""

from delta.exceptions import captured as delta_exceptions


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
