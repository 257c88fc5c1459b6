"""Ranks over torch.distributed: one process in each task of a barrier stage of Spark.

This replaces TorchDistributor of pyspark, which starts torchrun: its agents would restart, supervise and report ranks
in addition to this package, it reports only the last lines of a failed rank, and it needs a GPU resource of Spark
wherever GPUs are used.

The process of a rank is a child of the Python worker of its Spark task, which only waits for it: Spark keeps workers,
but the threads, memory and CUDA context of torch end with the process.
"""

import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from mamdr_core.parallel.rank_output import GRACE_SECONDS, RankOutput
from mamdr_core.parallel.rank_process import RankJob
from mamdr_core.runtime.errors import MamdrError, StoppedError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

T = TypeVar("T")

_END = 10.0
"""Seconds for tasks to end on their own after their ranks were stopped."""


def run_on_torch(
    spark: "SparkSession", job: RankJob[T], ranks: int, start_timeout: int, output: RankOutput
) -> list[T | StoppedError]:
    """Run the job on every rank and return the results in rank order; for arguments see `run_on_horovod`.

    Raises:
        MamdrError: dynamic allocation is enabled, which barrier stages do not support.
        TimeoutError: the ranks did not start in time.
        RuntimeError: a rank ended without a result; `output` holds the cause.
    """
    from pyspark.serializers import CloudPickleSerializer

    if spark.conf.get("spark.dynamicAllocation.enabled", "false") == "true":
        raise MamdrError(
            "train.launcher torch runs ranks in a barrier stage, which Spark does not allow with dynamic allocation: "
            "set spark.dynamicAllocation.enabled to false, or train.launcher to horovod"
        )
    context, group = spark.sparkContext, f"mamdr-ranks-{uuid.uuid4().hex}"
    serializer: Any = CloudPickleSerializer  # has no types
    pickled: bytes = serializer().dumps(job)
    supervise = partial(_supervise, pickled, job.threads)
    ended: dict[str, Any] = {}

    def collect() -> None:
        context.setJobGroup(group, "ranks over torch.distributed", interruptOnCancel=True)
        try:
            ended["results"] = context.parallelize(range(ranks), ranks).barrier().mapPartitions(supervise).collect()
        except Exception as error:
            ended["error"] = error

    stage = threading.Thread(target=collect, name="ranks", daemon=True)
    stage.start()
    try:
        _wait(stage, output, start_timeout)
    finally:
        if stage.is_alive():
            output.close()
            if output.connected.is_set():
                stage.join(_END)
            context.cancelJobGroup(group)
            stage.join(_END)
    results = {rank: result for rank, result in ended.get("results", ()) if result}
    if len(results) < ranks or output.failed.is_set():
        raise RuntimeError("a rank ended without a result") from ended.get("error")
    # Returned by Spark, which pickles the results of tasks anyway.
    return [pickle.loads(results[rank]) for rank in range(ranks)]  # noqa: S301 - written by this run's own ranks


def _wait(stage: threading.Thread, output: RankOutput, start_timeout: int) -> None:
    """Wait until the stage has ended, or a rank has failed and had time to report the cause."""
    waited = 0.0
    while stage.is_alive() and not output.failed.is_set():
        stage.join(0.1)
        waited += 0.1
        if waited > start_timeout and not output.connected.is_set():
            raise TimeoutError
    if stage.is_alive():
        stage.join(GRACE_SECONDS)


def _supervise(job: bytes, threads: int, _rows: Iterator[int]) -> Iterator[tuple[int, bytes]]:
    """Body of the Spark task of a rank: starts its process and waits; yields the rank and its pickled result."""
    from pyspark import BarrierTaskContext

    context = BarrierTaskContext.get()
    rank = context.partitionId()
    hosts = [info.address.split(":")[0] for info in context.getTaskInfos()]
    store = socket.create_server((hosts[0], 0)) if rank == 0 else None
    ports = context.allGather(str(store.getsockname()[1]) if store else "")
    gpus = context.resources().get("gpu")
    place = {
        "rank": rank,
        "ranks": len(hosts),
        "store": (hosts[0], int(ports[0]), store.fileno() if store else None),
        "gpus": gpus.addresses if gpus else [],
    }
    own = {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": str(threads),
        "RANK": str(rank),
        "LOCAL_RANK": str(hosts[:rank].count(hosts[rank])),
        "LOCAL_WORLD_SIZE": str(hosts.count(hosts[rank])),
    }
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "mamdr_core.parallel.torch_rank", json.dumps(place), str(writing)],
        env=os.environ | own,
        stdin=subprocess.PIPE,
        pass_fds=[writing, *([store.fileno()] if store else [])],
    )
    os.close(writing)
    if store:
        store.close()
    assert process.stdin
    with suppress(BrokenPipeError), process.stdin:
        process.stdin.write(job)
    with open(reading, "rb") as results:
        result = results.read()
    yield rank, result if process.wait() == 0 else b""
