"""Runs the trials of an experiment: finished ones are skipped, those with one rank run in parallel."""

import logging
import os
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import torch
from pyspark.sql import functions as F

from mamdr_core.experiments.trials import Trial
from mamdr_core.lake.core.tables import Lake
from mamdr_core.parallel.collective import SingleProcess
from mamdr_core.parallel.shipping import ship_modules
from mamdr_core.runtime.errors import MamdrError, StoppedError
from mamdr_core.runtime.pace import EVERY, format_duration
from mamdr_core.shards.pinned import PinnedExamples
from mamdr_core.training.driver import task_of, train_on_ranks
from mamdr_core.training.files.folders import remove
from mamdr_core.training.own_code import modules_of, plugins_of, try_structure
from mamdr_core.training.runs import Run, fingerprint_of, new_run
from mamdr_core.training.worker import RankResult, RankTask, train_rank

logger = logging.getLogger(__name__)


@dataclass
class TrialOutcomes:
    """Outcomes of the trials of an experiment.

    Attributes:
        runs: trial fingerprint to the run_id of its finished run.
        errors: trial fingerprint to the error of a failed trial.
        done: number of trials that finished in this job.
        skipped: number of trials that had finished before.
    """

    runs: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    done: int = 0
    skipped: int = 0

    def add(self, other: "TrialOutcomes") -> None:
        """Add the outcomes of other trials."""
        self.runs |= other.runs
        self.errors |= other.errors
        self.done += other.done
        self.skipped += other.skipped

    def figures(self) -> dict[str, int]:
        """The counts, for the JSON output of a job."""
        return {"done": self.done, "skipped": self.skipped, "failed": len(self.errors)}


Outcome = tuple[str, Run, dict[str, Any] | str]
"""Trial fingerprint, run, and the figures of the run or its error."""


class Runner:
    """Runs trials on one pinned version of the examples, and records each as a run.

    A trial that fails is recorded as a failed run, and the others continue. If the job is killed, unfinished trials
    leave no record; the next start runs only what is missing.

    Args:
        pinned: the examples on which all trials train.
        parallel: maximum number of trials with one rank that run in parallel; 0: the number of slots.
    """

    def __init__(self, lake: Lake, pinned: PinnedExamples, experiment: str, parallel: int = 0) -> None:
        self._lake, self._pinned, self._experiment, self._spark = lake, pinned, experiment, lake.spark
        cores, each = self._spark.sparkContext.defaultParallelism, self._spark.conf.get("spark.task.cpus", "1")
        slots = max(1, cores // int(each or 1))
        self.parallel = min(parallel or slots, slots)

    def run(self, trials: Sequence[Trial], known: TrialOutcomes | None = None) -> TrialOutcomes:
        """Run each distinct trial that is not in `known` and has no finished run in the lake.

        Raises:
            MamdrError: a plugin structure that does not return one logit per row; no trial has started then.
        """
        wanted = {fingerprint_of(trial.config, self._pinned): trial for trial in trials}
        if known:
            wanted = {key: trial for key, trial in wanted.items() if key not in known.runs | known.errors}
        outcomes = TrialOutcomes(runs=finished_runs(self._lake, list(wanted)))
        outcomes.skipped = len(outcomes.runs)
        left = {key: trial for key, trial in wanted.items() if key not in outcomes.runs}
        for trial in left.values():
            try_structure(trial.config, self._pinned)
            ship_modules(self._spark, modules_of(plugins_of(trial.config)))
        if outcomes.skipped:
            logger.info("%s: %d of %d trials have already finished", self._experiment, outcomes.skipped, len(wanted))
        single = {key: trial for key, trial in left.items() if trial.config.train.ranks == 1}
        distributed = {key: trial for key, trial in left.items() if key not in single}
        started = time.perf_counter()
        finished = chain(self._in_parallel(single), self._in_sequence(distributed))
        for number, (key, run, outcome) in enumerate(finished, start=1):
            if isinstance(outcome, str):
                outcomes.errors[key] = outcome
                summary = "failed: " + outcome.rstrip().rpartition("\n")[2]
            else:
                outcomes.runs[key] = run.id
                outcomes.done += 1
                auc = outcome["test_auc"]
                auc_text = "unknown" if auc is None else f"{auc:.4f}"
                summary = f"test AUC {auc_text} in {outcome['seconds']['ranks']:.0f} s"
            logger.info(
                "%s %d/%d %s: %s | %s", self._experiment, outcomes.skipped + number, len(wanted), left[key].label,
                summary, _describe_time(started, number, len(left)),
            )  # fmt: skip
        return outcomes

    def _in_sequence(self, trials: Mapping[str, Trial]) -> Iterator[Outcome]:
        """Run trials with several ranks one after another."""
        for key, trial in trials.items():
            run = self._begin(trial)
            logger.info("%s: %s starts on %d ranks", self._experiment, trial.label, trial.config.train.ranks)
            try:
                figures = train_on_ranks(run, {})
            except StoppedError:
                stopped = StoppedError("stopped by SIGTERM: the next start keeps the trials that have finished")
                run.record_failure(stopped)
                raise stopped from None
            except Exception as error:
                yield key, run, self._record_failure(run, _describe(error))
            except BaseException:
                remove(run.scratch)
                raise
            else:
                yield key, run, figures

    def _in_parallel(self, trials: Mapping[str, Trial]) -> Iterator[Outcome]:
        """Run trials with one rank in parallel, each as a Spark job of one task; this thread records their results."""
        parallel = max(1, min(self.parallel, len(trials)))
        local = str(self._spark.sparkContext.master).startswith("local")
        threads = max(1, (os.cpu_count() or 1) // parallel) if local else 0
        started = time.perf_counter()
        waiting, free = deque(trials.items()), deque(range(parallel))
        running: dict[Future[RankResult | str], tuple[str, Run, int]] = {}
        with ThreadPoolExecutor(parallel) as pool:
            try:
                while waiting or running:
                    while waiting and free:
                        key, trial = waiting.popleft()
                        run, index = self._begin(trial), free.popleft()
                        body = partial(_train_trial, index, parallel if local else 1, threads)
                        running[pool.submit(self._train, run, trial.label, body)] = key, run, index
                    while not (finished := wait(running, EVERY, FIRST_COMPLETED).done):
                        done = len(trials) - len(waiting) - len(running)
                        logger.info(
                            "%s: %d of %d trials done, %s running | %s", self._experiment, done, len(trials),
                            ", ".join(trials[key].label for key, _, _ in running.values()),
                            _describe_time(started, done, len(trials)),
                        )  # fmt: skip
                    for future in finished:
                        key, run, index = running[future]
                        # Recording runs Spark tasks: keep the slot until then, or they would wait for the next trial.
                        outcome = self._record_outcome(run, future.result())
                        del running[future]
                        free.append(index)
                        yield key, run, outcome
            except BaseException:
                self._spark.sparkContext.cancelJobGroup(self._experiment)
                pool.shutdown(wait=True)
                for _, run, _ in running.values():
                    remove(run.scratch)
                raise

    def _train(self, run: Run, label: str, body: Callable[[RankTask], RankResult | str]) -> RankResult | str:
        """Train in a Spark task and wait for the result."""
        context = self._spark.sparkContext
        context.setJobGroup(self._experiment, label, interruptOnCancel=True)
        try:
            (outcome,) = context.parallelize([task_of(run)], 1).map(body).collect()
        except Exception as error:  # the executor was lost
            return _describe(error)
        return outcome

    def _begin(self, trial: Trial) -> Run:
        return new_run(self._lake, trial.config, self._pinned, self._experiment)

    def _record_outcome(self, run: Run, outcome: RankResult | str) -> dict[str, Any] | str:
        if isinstance(outcome, str):
            return self._record_failure(run, outcome)
        try:
            return run.finish([outcome], {"ranks": sum(outcome.seconds.values())})
        except StoppedError:
            raise
        except Exception as error:
            return self._record_failure(run, _describe(error))

    def _record_failure(self, run: Run, error: str) -> str:
        run.record_failure(error)
        return error


def finished_runs(lake: Lake, trials: Sequence[str]) -> dict[str, str]:
    """Trial fingerprint to the newest successful run, for the trials that have one."""
    if not lake.exists("training_runs"):
        return {}
    chosen = lake.read("training_runs").where((F.col("status") == "ok") & F.col("cell").isin(list(trials)))
    newest = chosen.groupBy("cell").agg(F.max_by("run_id", "started_at").alias("run_id"))
    return {row["cell"]: row["run_id"] for row in newest.collect()}


def _describe_time(started: float, done: int, total: int) -> str:
    """Elapsed and remaining time of trials; the latter is unknown before the first has finished."""
    elapsed = time.perf_counter() - started
    left = f", about {format_duration(elapsed / done * (total - done))} left" if done else ""
    return f"{format_duration(elapsed)} elapsed{left}"


def _train_trial(index: int, count: int, threads: int, task: RankTask) -> RankResult | str:
    """Body of the Spark task of a trial, process `index` of `count` on its machine; with `threads` 0 Spark decides.

    It returns errors as text, so that Spark neither retries nor reports them.
    """
    if threads:
        torch.set_num_threads(threads)
    # Processes on one machine share its memory and CUDA devices in the same way as Horovod ranks.
    os.environ.update(LOCAL_RANK=str(index), LOCAL_WORLD_SIZE=str(count))
    try:
        return train_rank(task, SingleProcess())
    except Exception as error:
        return _describe(error)


def _describe(error: Exception) -> str:
    """The message of a user error, the traceback of any other error."""
    if isinstance(error, MamdrError):
        return str(error)
    return "".join(traceback.format_exception(error))
