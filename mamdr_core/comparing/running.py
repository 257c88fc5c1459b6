"""Running the cells of an experiment: finished ones are skipped, those of one rank run side by side."""

import logging
import os
import time
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import torch
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from mamdr_core.comparing.cells import Cell
from mamdr_core.errors import MamdrError, StoppedError
from mamdr_core.lake.core.tables import Lake
from mamdr_core.parallel.collective import SingleProcess
from mamdr_core.parallel.shipping import ship_modules
from mamdr_core.shards.pinned import PinnedExamples
from mamdr_core.training.own_code import modules_of, plugins_of, try_structure
from mamdr_core.training.rank import RankResult, RankTask, train_rank
from mamdr_core.training.run import task_of, train_on_ranks
from mamdr_core.training.runs import Run, cell_of, new_run
from mamdr_core.training.storage import remove

logger = logging.getLogger(__name__)


@dataclass
class Ended:
    """How the cells of an experiment ended.

    Attributes:
        runs: by cell's hash, the run_id of its finished run.
        errors: by cell's hash, why it has none.
        done: how many were run now and finished.
        skipped: how many had finished before.
    """

    runs: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    done: int = 0
    skipped: int = 0

    def add(self, other: "Ended") -> None:
        """Take in how more cells ended."""
        self.runs |= other.runs
        self.errors |= other.errors
        self.done += other.done
        self.skipped += other.skipped

    def figures(self) -> dict[str, int]:
        """The counts, for a job's JSON."""
        return {"done": self.done, "skipped": self.skipped, "failed": len(self.errors)}


Ending = tuple[str, Run, dict[str, Any] | str]
"""A cell's hash, its run, and the run's figures or why it failed."""


@dataclass(frozen=True)
class _Seat:
    """Where a cell's process sits: its place among as many on the machine, and its threads (0: as Spark set them)."""

    place: int
    of: int
    threads: int


class Runner:
    """Runs cells on one pinned version of the examples, and records each as a run.

    A cell that fails is recorded as a failed run, and the others go on. Killed at any time, it leaves no record of a
    cell that has not finished; started again, it runs what is missing.

    Args:
        spark: the session.
        lake: where runs are recorded.
        pinned: what all cells train on.
        experiment: names what the cells belong to.
        parallel: cells of one rank that run at once at most; 0: as many as there are slots.
    """

    def __init__(
        self, spark: SparkSession, lake: Lake, pinned: PinnedExamples, experiment: str, parallel: int = 0
    ) -> None:
        self._spark, self._lake, self._pinned, self._experiment = spark, lake, pinned, experiment
        slots = max(1, spark.sparkContext.defaultParallelism // int(spark.conf.get("spark.task.cpus", "1") or 1))
        self.parallel = min(parallel or slots, slots)

    def run(self, cells: Sequence[Cell], known: Ended | None = None) -> Ended:
        """Run the cells that no finished run of the lake has computed.

        Args:
            cells: any number; equal ones run once.
            known: how cells ended before; these are passed over.

        Raises:
            MamdrError: a structure of the user's own that does not return a logit for each row; nothing has begun then.
        """
        wanted = {cell_of(cell.config, self._pinned): cell for cell in cells}
        if known:
            wanted = {key: cell for key, cell in wanted.items() if key not in known.runs | known.errors}
        ended = Ended(runs=finished_runs(self._lake, list(wanted)))
        ended.skipped = len(ended.runs)
        left = {key: cell for key, cell in wanted.items() if key not in ended.runs}
        for cell in left.values():
            try_structure(cell.config, self._pinned)
            ship_modules(self._spark, modules_of(plugins_of(cell.config)))
        if ended.skipped:
            logger.info("%s: %d of %d cells are done already", self._experiment, ended.skipped, len(wanted))
        alone = {key: cell for key, cell in left.items() if cell.config.train.ranks == 1}
        together = {key: cell for key, cell in left.items() if key not in alone}
        started = time.perf_counter()
        endings = chain(self._side_by_side(alone), self._one_by_one(together))
        for number, (key, run, outcome) in enumerate(endings, start=1):
            if isinstance(outcome, str):
                ended.errors[key] = outcome
                said = "failed: " + outcome.rstrip().rpartition("\n")[2]
            else:
                ended.runs[key] = run.id
                ended.done += 1
                auc = outcome["test_auc"]
                said = f"test AUC {'unknown' if auc is None else f'{auc:.4f}'} in {outcome['seconds']['ranks']:.0f} s"
            time_left = int((time.perf_counter() - started) / number * (len(left) - number))
            logger.info(
                "%s %d/%d %s: %s | about %d:%02d left", self._experiment, ended.skipped + number, len(wanted),
                left[key].label, said, time_left // 60, time_left % 60,
            )  # fmt: skip
        return ended

    def _one_by_one(self, cells: Mapping[str, Cell]) -> Iterator[Ending]:
        """Cells that each take several ranks."""
        for key, cell in cells.items():
            run = self._begin(cell)
            logger.info("%s: %s starts on %d ranks", self._experiment, cell.label, cell.config.train.ranks)
            try:
                figures = train_on_ranks(self._spark, run, {})
            except StoppedError:
                stopped = StoppedError("stopped by SIGTERM: started again, it keeps the cells that have finished")
                run.fail(self._spark, stopped)
                raise stopped from None
            except Exception as error:
                yield key, run, self._failed(run, _told(error))
            except BaseException:
                remove(run.scratch)
                raise
            else:
                yield key, run, figures

    def _side_by_side(self, cells: Mapping[str, Cell]) -> Iterator[Ending]:
        """Cells of one rank, each a Spark job of one task; threads wait for them, and this thread records them."""
        parallel = max(1, min(self.parallel, len(cells)))
        local = str(self._spark.sparkContext.master).startswith("local")
        threads = max(1, (os.cpu_count() or 1) // parallel) if local else 0
        waiting, free = deque(cells.items()), deque(range(parallel))
        running: dict[Future[RankResult | str], tuple[str, Run, int]] = {}
        with ThreadPoolExecutor(parallel) as pool:
            try:
                while waiting or running:
                    while waiting and free:
                        key, cell = waiting.popleft()
                        run, place = self._begin(cell), free.popleft()
                        seat = _Seat(place, parallel if local else 1, threads)
                        running[pool.submit(self._train, run, cell.label, seat)] = key, run, place
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        key, run, place = running[future]
                        # Recording takes Spark tasks: the next cell would take their slot and have them wait for it.
                        ending = self._recorded(run, future.result())
                        del running[future]
                        free.append(place)
                        yield key, run, ending
            except BaseException:
                self._spark.sparkContext.cancelJobGroup(self._experiment)
                pool.shutdown(wait=True)
                for _, run, _ in running.values():
                    remove(run.scratch)
                raise

    def _train(self, run: Run, label: str, seat: _Seat) -> RankResult | str:
        """Train in a Spark task, and wait for it."""
        context = self._spark.sparkContext
        context.setJobGroup(self._experiment, label, interruptOnCancel=True)
        try:
            (outcome,) = context.parallelize([task_of(run)], 1).map(partial(_train_alone, seat)).collect()
        except Exception as error:  # the executor was lost
            return _told(error)
        return outcome

    def _begin(self, cell: Cell) -> Run:
        return new_run(self._lake, cell.config, self._pinned, self._experiment)

    def _recorded(self, run: Run, outcome: RankResult | str) -> dict[str, Any] | str:
        if isinstance(outcome, str):
            return self._failed(run, outcome)
        try:
            return run.finish(self._spark, [outcome], {"ranks": sum(outcome.seconds.values())})
        except StoppedError:
            raise
        except Exception as error:
            return self._failed(run, _told(error))

    def _failed(self, run: Run, error: str) -> str:
        run.fail(self._spark, error)
        return error


def finished_runs(lake: Lake, cells: Sequence[str]) -> dict[str, str]:
    """By cell's hash, the newest successful run of it, for those that have one."""
    if not lake.exists("training_runs"):
        return {}
    runs = lake.read("training_runs")
    if "cell" not in runs.columns:  # the table is older than this column
        return {}
    chosen = runs.where((F.col("status") == "ok") & F.col("cell").isin(list(cells)))
    newest = chosen.groupBy("cell").agg(F.max_by("run_id", "started_at").alias("run_id"))
    return {row["cell"]: row["run_id"] for row in newest.collect()}


def _train_alone(seat: _Seat, task: RankTask) -> RankResult | str:
    """What the Spark task of a cell does; an error comes back as text, so that Spark neither retries nor reports it."""
    if seat.threads:
        torch.set_num_threads(seat.threads)
    # Processes of a machine share its memory and CUDA devices as Horovod's ranks do.
    os.environ.update(LOCAL_RANK=str(seat.place), LOCAL_WORLD_SIZE=str(seat.of))
    try:
        return train_rank(task, SingleProcess())
    except Exception as error:
        return _told(error)


def _told(error: Exception) -> str:
    """A problem of the user's in one line, anything else with its traceback."""
    if isinstance(error, MamdrError):
        return str(error)
    return "".join(traceback.format_exception(error))
