"""Launches ranks, in this process or in Spark tasks, and explains their failures."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeVar

from mamdr_core.parallel.collective import Collective, SingleProcess
from mamdr_core.parallel.horovod_launch import run_on_horovod
from mamdr_core.parallel.rank_output import RankOutput
from mamdr_core.parallel.rank_process import RankJob
from mamdr_core.parallel.slots import require_slots, threads_of_rank
from mamdr_core.parallel.torch_launch import run_on_torch
from mamdr_core.runtime.errors import MamdrError, StoppedError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

T = TypeVar("T")
_DISCONNECT_SECONDS = 5.0
"""Seconds to wait for the disconnection of a lost rank, which may outlive its executor by a moment."""
LAUNCHERS = {"horovod": run_on_horovod, "torch": run_on_torch}


class RankError(RuntimeError):
    """A rank raised, hung or died; the message has its number and its traceback or stacks."""


def run_ranks(
    spark: "SparkSession",
    task: Callable[[Collective], T],
    ranks: int,
    start_timeout: int,
    launcher: Literal["horovod", "torch"] = "horovod",
    stall_limit: float = 0.0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> list[T]:
    """Run `task` on every rank and return the results in rank order.

    A single rank runs in this process. Several ranks run as processes in Spark tasks, and their logs are forwarded to
    the stderr of this process. After a failure the other ranks are stopped within seconds.

    Args:
        spark: the session whose executors hold the ranks.
        task: picklable; takes the Collective of the rank.
        ranks: world size W.
        start_timeout: seconds to wait for slots for all ranks, and again for the start of all ranks.
        launcher: the launcher.
        stall_limit: seconds after which a rank without progress is stopped (see `mamdr_core.parallel.watch`); 0: never.
            A single rank, which runs in this process, is not watched.
        device: device of the task, see `RankJob`.

    Raises:
        MamdrError: fewer slots than ranks, the ranks did not start in time, or a rank raised it.
        StoppedError: the ranks stopped on request.
        RankError: a rank raised another exception, hung or died.
    """
    if ranks == 1:
        return [task(SingleProcess())]
    require_slots(spark, ranks, start_timeout)
    conf = spark.sparkContext.getConf()
    host = conf.get("spark.driver.host", "localhost") or "localhost"
    with RankOutput(ranks, conf.get("spark.driver.bindAddress", host) or host, host) as output:
        job = RankJob(task, output.address, threads_of_rank(spark, ranks), device, stall_limit)
        try:
            results = LAUNCHERS[launcher](spark, job, ranks, start_timeout, output)
        except TimeoutError:
            raise MamdrError(
                f"the {ranks} ranks did not start within train.start_timeout = {start_timeout} s: are {ranks} slots "
                "free, and can executors reach the driver?"
            ) from None
        except MamdrError:
            raise
        except Exception as error:
            output.failed.wait(_DISCONNECT_SECONDS)  # Spark may notice a lost rank before its connection closes
            raise _explain(error, output, ranks, stall_limit) from None
    done: list[T] = []
    for result in results:
        if isinstance(result, StoppedError):
            raise result
        done.append(result)
    return done


def _explain(error: Exception, output: RankOutput, ranks: int, stall_limit: float) -> Exception:
    """The cause of a failure; errors of ranks that waited for the failed one are consequences."""
    for rank, stacks in output.stalls.items():
        threads = "\n".join(stacks).strip().split("\n\n")
        return RankError(
            f"rank {rank} of {ranks} made no progress for {stall_limit:g} s (train.stall_limit) and was stopped; its "
            "stacks (main thread first):\n" + "\n\n".join(reversed(threads))
        )
    causes = {rank: cause for rank, cause in output.errors.items() if cause["kind"] != "lost"}
    for rank, cause in causes.items():
        if cause["kind"] == "user":
            return MamdrError(str(cause["message"]))
        return RankError(f"rank {rank} of {ranks} failed:\n{cause['traceback']}")
    for rank in output.lost:
        return RankError(f"rank {rank} of {ranks} was lost: killed, out of memory, or gone with its executor")
    for rank, cause in output.errors.items():
        return RankError(f"rank {rank} of {ranks} failed:\n{cause['traceback']}")
    if not output.connected.is_set():
        return RankError(
            "ranks ended before they connected to the driver; see the stderr of the executors (does their Python have "
            f"this project's packages? docs/clusters.md): {error.__cause__ or error}"
        )
    return RankError(f"the ranks were lost: {error.__cause__ or error}")
