"""Logs the progress of Spark stages from time to time."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from py4j.protocol import Py4JError
from pyspark.sql import SparkSession

from mamdr_core.runtime.pace import EVERY, format_duration

logger = logging.getLogger(__name__)


@contextmanager
def progress(spark: SparkSession, what: str) -> Iterator[None]:
    """Log, every EVERY seconds, the tasks done, rows written, rate and time left of Spark's running stages.

    Example:
        >>> with progress(spark, "logs"):  # doctest: +SKIP
        ...     rows.write.parquet(path)
        logs: stage 4: 43 of 117 tasks in 0:01:20, 180,355,072 rows written (2,254,438/s), about 0:02:18 left
    """
    done = threading.Event()
    thread = threading.Thread(target=_watch, args=(spark, what, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _watch(spark: SparkSession, what: str, done: threading.Event) -> None:
    while not done.wait(EVERY):
        try:
            # Unlike the status tracker, the store behind Spark's UI has rows and times, even if the UI is disabled.
            stages = spark._jsc.sc().statusStore().activeStages()
            lines = [_line(stages.apply(index)) for index in range(stages.size())]
        except Py4JError:
            # The session has ended: the job itself reports the reason.
            return
        for line in filter(None, lines):
            logger.info("%s: %s", what, line)


def _line(stage: Any) -> str | None:
    """Progress of one stage (org.apache.spark.status.api.v1.StageData); None before it has started."""
    if stage.submissionTime().isEmpty():
        return None
    seconds = time.time() - stage.submissionTime().get().getTime() / 1000
    done, tasks, rows = stage.numCompleteTasks(), stage.numTasks(), stage.outputRecords()
    line = f"stage {stage.stageId()}: {done} of {tasks} tasks in {format_duration(seconds)}"
    if rows:
        line += f", {rows:,} rows written ({rows / seconds:,.0f}/s)"
    if done:
        line += f", about {format_duration(seconds * (tasks - done) / done)} left"
    return line
