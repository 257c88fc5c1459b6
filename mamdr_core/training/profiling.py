"""train.profile: records some rounds of every stage with torch's profiler, as traces and a table of times."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from mamdr_core.runtime import heartbeat
from mamdr_core.runtime.object_store import as_path
from mamdr_core.training.files.folders import staged
from mamdr_core.training.stages import Stage

logger = logging.getLogger(__name__)

WARM_ROUNDS, WARM_STEPS = 1, 50
"""Recording begins after this number of rounds or of steps of a stage, whichever comes first."""
ROUNDS, STEPS = 3, 200
"""Maximum number that is recorded per stage, which bounds the size of a trace; waits for other ranks count as steps."""
SHOWN = 25
"""Number of operators in the table."""
TABLE = "profile.txt"


class Profiler:
    """Records the thread that creates it; only one profiler per process may record at a time.

    Args:
        folder: folder for the traces and the table, on a disk or in an object store.

    Attributes:
        mark: takes a name and opens a context that appears as a span in the traces.
    """

    def __init__(self, folder: str) -> None:
        self._folder, self._thread = folder, threading.get_ident()
        self._recording: profile | None = None
        self._rounds = self._steps = self._ends_rounds = self._ends_steps = 0
        self._tables: dict[str, str] = {}
        self._files: list[str] = []
        self.mark: Callable[[str], AbstractContextManager[Any]] = record_function

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Record some rounds of a stage, which runs within the block, and write their trace."""
        self._rounds = self._steps = 0
        self._recording = None
        heartbeat.listener = self._step
        try:
            yield
        finally:
            heartbeat.listener = None
            if self._recording is not None and self._ends_rounds:
                self._stop()  # the stage ended before the recording
        recorded, self._recording = self._recording, None
        if recorded is not None:
            self._write_stage(stage.name + ("-alone" if stage.without_mixed else ""), recorded)

    def after_round(self) -> None:
        """Count a completed round."""
        self._rounds += 1
        if self._recording is not None and self._rounds == self._ends_rounds:
            self._stop()

    def finish(self, seconds: Mapping[str, float]) -> list[str]:
        """Write the table; returns the paths of all files."""
        total = sum(seconds.values())
        phases = "\n".join(f"{name:<12}{value:>12.3f} s{value / total:>9.1%}" for name, value in seconds.items())
        text = f"Phases of rank 0, whole run (inner and deal are parts of rounds)\n\n{phases}\n"
        if not self._tables:
            text += f"\nNo stage had more than {WARM_ROUNDS} round or {WARM_STEPS} steps: nothing was recorded.\n"
        for name, table in self._tables.items():
            text += f"\nStage {name}\n{table}"
        self._write(TABLE, lambda path: path.write_text(text, encoding="utf-8"))
        return self._files

    def _step(self) -> None:
        """Count a step that starts; heartbeats of other threads are not steps."""
        if threading.get_ident() != self._thread:
            return
        self._steps += 1
        if self._recording is None:
            if self._rounds >= WARM_ROUNDS or self._steps > WARM_STEPS:
                self._start()
        elif self._steps == self._ends_steps:
            self._stop()

    def _start(self) -> None:
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            activities.append(ProfilerActivity.CUDA)
        self._recording = profile(activities=activities)
        self._ends_rounds, self._ends_steps = self._rounds + ROUNDS, self._steps + STEPS
        self._recording.start()

    def _stop(self) -> None:
        assert self._recording is not None
        self._ends_rounds = self._ends_steps = 0  # record once per stage
        self._recording.stop()

    def _write_stage(self, name: str, recorded: profile) -> None:
        averages = recorded.key_averages()
        on_gpu = ProfilerActivity.CUDA in recorded.activities
        tables = [
            averages.table(sort_by=key, row_limit=SHOWN, max_name_column_width=60)
            for key in ["self_cpu_time_total", *(["self_device_time_total"] if on_gpu else [])]
        ]
        self._tables[name] = "\n".join(tables)
        self._write(f"profile-{name}.json.gz", lambda path: recorded.export_chrome_trace(str(path)))

    def _write(self, name: str, write: Callable[[Path], Any]) -> None:
        """Write a file to the folder; a failure is only logged, since the run matters more than its profile."""
        place = as_path(self._folder)
        try:
            with staged(place) as folder:
                write(folder / name)
        except (OSError, RuntimeError) as error:
            logger.warning("train.profile: %s cannot be written: %s", place / name, error)
            return
        self._files.append(str(place / name))
        logger.info("profile: %s", place / name)
