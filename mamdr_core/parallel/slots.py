"""Counts the slots of Spark (tasks that can run at once, with any master) before ranks are launched."""

import os
import time
from typing import TYPE_CHECKING

from mamdr_core.runtime.errors import MamdrError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def require_slots(spark: "SparkSession", ranks: int, timeout: float) -> None:
    """Wait until there are slots for all ranks.

    Executors of a cluster register late, so this waits for them; with dynamic allocation their maximum number counts.

    Args:
        spark: the session.
        ranks: number of slots that are needed.
        timeout: seconds to wait on a cluster.

    Raises:
        MamdrError: there are too few slots.
    """
    local = _master(spark).startswith("local[") or _master(spark) == "local"
    deadline = time.monotonic() + (0 if local else timeout)
    while (slots := _slots(spark)) < ranks:
        if time.monotonic() >= deadline:
            raise MamdrError(_too_few(spark, ranks, slots, local, timeout))
        time.sleep(0.5)


def threads_of_rank(spark: "SparkSession", ranks: int) -> int:
    """CPU threads of a rank: its share of this machine in local mode, spark.task.cpus on a cluster."""
    if _master(spark).startswith("local["):
        return max(1, (os.cpu_count() or 1) // ranks)
    return int(spark.sparkContext.getConf().get("spark.task.cpus", "1") or 1)


def _slots(spark: "SparkSession") -> int:
    """Number of tasks that can run at once, given the cores and other resources of a task."""
    context = spark.sparkContext._jsc.sc()
    conf = spark.sparkContext.getConf()
    now = int(context.maxNumConcurrentTasks(context.resourceProfileManager().defaultResourceProfile()))
    if conf.get("spark.dynamicAllocation.enabled", "false") != "true":
        return now
    most = int(conf.get("spark.dynamicAllocation.maxExecutors", str(2**31 - 1)) or 1)
    cores, cpus = (int(conf.get(name, "1") or 1) for name in ("spark.executor.cores", "spark.task.cpus"))
    return max(now, most * (cores // cpus))


def _too_few(spark: "SparkSession", ranks: int, slots: int, local: bool, timeout: float) -> str:
    problem = f"train.ranks is {ranks}: need {ranks} slots, have {slots}"
    if local:
        return f"{problem}; lower train.ranks, or give Spark more cores (--master 'local[{ranks}]')"
    return (
        f"{problem} of {_master(spark)} after waiting {timeout:.0f} s (train.start_timeout); lower train.ranks, or ask "
        "for more executors or cores (docs/clusters.md)"
    )


def _master(spark: "SparkSession") -> str:
    return str(spark.sparkContext.master)
