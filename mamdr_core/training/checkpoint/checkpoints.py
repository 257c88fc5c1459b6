"""Checkpoints, written between rounds while training continues; valid once the parts of all ranks are on disk.

<lake.root>/checkpoints/<run_id>/<number>/   a checkpoint, see `state.py`; its manifest is written last
<lake.root>/checkpoints/<run_id>/stop        while this file exists, ranks save a checkpoint and stop
"""

import contextlib
import json
import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import torch

from mamdr_core.config.training import CheckpointSettings
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.parallel.collective import Collective, gather_texts
from mamdr_core.runtime.errors import MamdrError, StoppedError
from mamdr_core.runtime.heartbeat import beat
from mamdr_core.runtime.host_memory import available_memory, ranks_here
from mamdr_core.runtime.object_store import AnyPath, as_path
from mamdr_core.runtime.stop_request import StopRequest
from mamdr_core.training.checkpoint.state import STATE, RunState, Snapshot, files_to_restore, restore, take, write
from mamdr_core.training.files.folders import fetched, remove, staged
from mamdr_core.training.files.manifest import (
    MANIFEST,
    FileHashes,
    check_integrity,
    hash_files,
    write_manifest,
    write_texts,
)

logger = logging.getLogger(__name__)

STOP = "stop"
"""Name of the file that asks ranks to stop."""
BEAT_SECONDS = 10.0
"""Seconds between heartbeats while the main thread waits for a checkpoint to be written."""


@dataclass(frozen=True)
class CheckpointLocation:
    """Where a run's checkpoints are stored.

    Attributes:
        folder: the run's folder of checkpoints.
        newest: number of the checkpoint to resume from; None: start from the beginning.
        scratch: folder for local copies if checkpoints are in an object store; empty: the system's temporary folder.
    """

    folder: str
    newest: int | None = None
    next_number: int = 1
    scratch: str = ""


def find_checkpoint(folder: AnyPath, scratch: str = "") -> CheckpointLocation:
    """Find the newest intact checkpoint of a run; damaged ones are logged and skipped."""
    numbers = _numbers(folder)
    for number in numbers:
        if not (folder / str(number) / MANIFEST).exists():
            continue  # the run ended while this checkpoint was written
        try:
            with fetched(folder / str(number), "checkpoint", scratch) as local:
                check_integrity(local, "checkpoint")
        except MamdrError as error:
            logger.warning("%s; using the previous checkpoint", error)
        else:
            return CheckpointLocation(str(folder), number, numbers[0] + 1, scratch)
    return CheckpointLocation(str(folder), None, numbers[0] + 1 if numbers else 1, scratch)


class Checkpoints:
    """Writes and restores the checkpoints of a run on one rank.

    After every round, one small all-gather decides whether to start a checkpoint, whether all ranks have written their
    parts, and whether to stop.

    Args:
        location: where checkpoints are stored; None: none are written.
        settings: how often they are written and how many are kept.
    """

    def __init__(
        self,
        location: CheckpointLocation | None,
        settings: CheckpointSettings,
        collective: Collective,
        request: StopRequest,
    ) -> None:
        self._location, self._settings, self._collective, self._request = location, settings, collective, request
        self._number = location.next_number if location else 0
        self._writing: Future[tuple[FileHashes, dict[str, Any]]] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._started = time.monotonic()
        self._rounds = 0

    def restore(self, run: RunState) -> bool:
        """Restore the newest checkpoint into newly created objects; returns whether there is one."""
        if not self._location or self._location.newest is None:
            return False
        folder = as_path(self._location.folder) / str(self._location.newest)
        rank, ranks, scratch = self._collective.rank, self._collective.size, self._location.scratch
        with fetched(folder, "checkpoint", scratch, only=STATE) as local:
            needed = files_to_restore(local, run, rank, ranks)
        with fetched(folder, "checkpoint", scratch, only=needed) as local:
            restore(local, run, rank, ranks)
        if self._collective.rank == 0:
            at = run.position
            logger.info(
                "resumes from checkpoint %d, after round %d of stage %d", self._location.newest, at.done, at.stage
            )
        return True

    def after_round(self, run: RunState) -> None:
        """Start or complete a checkpoint if one is due; all ranks must call this after every round.

        Raises:
            StoppedError: a rank was asked to stop; a checkpoint has been written unless there is no `location` for it.
        """
        self._rounds += 1
        own = [self._request.is_set(), self._is_due(), self._writing is not None and self._writing.done()]
        stop, due, written = self._agree(own)
        if self._writing and written.all():
            self._finish(run.specific)
        if stop.any():
            where = ""
            if self._location:
                if self._writing:
                    self._finish(run.specific)
                self._start(run)
                number = self._number
                if self._agree([self._finish(run.specific)]).all():
                    where = f": saved in checkpoint {number}, --resume continues from there"
            raise StoppedError(
                f"stopped by {self._request.reason or 'another rank'} after round {run.position.done}{where}"
            )
        if due[0] and not self._writing:
            self._start(run)

    def close(self, specific: SpecificStore) -> None:
        """Wait for the checkpoint that is being written, and abandon it: the run's package replaces it."""
        if self._writing:
            self._writing.exception()
            specific.release()
        self._pool.shutdown()

    def _agree(self, own: list[bool]) -> torch.Tensor:
        return self._collective.all_gather(torch.tensor([own], dtype=torch.int32)).T

    def _is_due(self) -> bool:
        by_rounds, minutes = self._settings.rounds, self._settings.minutes
        passed = time.monotonic() - self._started
        return bool(self._location) and (0 < by_rounds <= self._rounds or 0 < minutes * 60 <= passed)

    def _start(self, run: RunState) -> None:
        """Copy the state and write it while training continues; if copies do not fit into memory, write it first."""
        assert self._location
        self._started, self._rounds = time.monotonic(), 0
        folder = as_path(self._location.folder) / str(self._number)
        snapshot = take(run, self._collective.rank, available_memory() / 2 / ranks_here())
        self._writing = self._pool.submit(_write, folder, self._location.scratch, self._collective.rank, snapshot)
        while snapshot.is_live and not wait([self._writing], BEAT_SECONDS).done:
            beat()  # a large state may take longer to write than a rank may be without signs of progress

    def _finish(self, specific: SpecificStore) -> bool:
        """Wait until all ranks have written, and complete the checkpoint or log which ranks failed.

        Returns:
            Whether the parts were written without errors: on rank 0 those of all ranks, on other ranks their own.
        """
        assert self._location
        assert self._writing
        error = self._writing.exception()
        hashes, state = ({}, {}) if error else self._writing.result()
        self._writing = None
        specific.release()
        own = {"error": str(error) if error else "", "hashes": hashes, "state": state}
        parts = [json.loads(text) for text in gather_texts(self._collective, json.dumps(own))]
        written = self._complete(parts) if self._collective.rank == 0 else not error
        self._number += 1
        return written

    def _complete(self, parts: list[dict[str, Any]]) -> bool:
        assert self._location
        folder = as_path(self._location.folder) / str(self._number)
        try:
            errors = [f"rank {rank}: {own['error']}" for rank, own in enumerate(parts) if own["error"]]
            if errors:
                raise OSError("; ".join(errors))
            hashes = {name: tuple(found) for own in parts for name, found in own["hashes"].items()}
            state = json.dumps({"ranks": [own["state"] for own in parts]})
            with staged(folder, self._location.scratch) as local:
                write_manifest(local, hashes | write_texts(local, {STATE: state}))
            with contextlib.suppress(OSError):
                self.remove_others(folder.parent)
        except OSError as error:  # a full disk must not end a run
            logger.warning("checkpoint %d could not be written, the previous one is kept: %s", self._number, error)
            remove(folder)
            return False
        logger.info("wrote checkpoint %d", self._number)
        return True

    def remove_others(self, folder: AnyPath) -> None:
        """Keep the newest complete checkpoints, and remove the others and those that were skipped as damaged.

        Checkpoints with later numbers stay: another rank may already write one.
        """
        assert self._location
        skipped = range((self._location.newest or 0) + 1, self._location.next_number)
        numbers = [number for number in _numbers(folder) if number <= self._number]
        kept = [number for number in numbers if number not in skipped and (folder / str(number) / MANIFEST).exists()]
        for number in set(numbers).difference(kept[: self._settings.keep]):
            remove(folder / str(number))


def _write(folder: AnyPath, scratch: str, rank: int, snapshot: Snapshot) -> tuple[FileHashes, dict[str, Any]]:
    """Write a rank's part and flush it to disk; returns the hashes of its files, and its part of `STATE`."""
    with staged(folder, scratch) as local:
        return hash_files(local, write(local, rank, snapshot)), snapshot.facts


def _numbers(folder: AnyPath) -> list[int]:
    """Numbers of the checkpoints in a folder, newest first."""
    names = (child.name for child in folder.iterdir()) if folder.is_dir() else ()
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)
