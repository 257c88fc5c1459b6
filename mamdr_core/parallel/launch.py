"""Launching ranks: in this process, or by a launcher in Spark tasks; and what is said when one of them fails."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeVar

from mamdr_core.errors import MamdrError, StoppedError
from mamdr_core.parallel.collective import Collective, SingleProcess
from mamdr_core.parallel.horovod_launch import run_on_horovod
from mamdr_core.parallel.rank_output import RankOutput
from mamdr_core.parallel.rank_process import RankJob
from mamdr_core.parallel.slots import require_slots, threads_of_rank
from mamdr_core.parallel.torch_launch import run_on_torch

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

T = TypeVar("T")
_END_HEARD = 5.0
"""Seconds in which the end of a rank is heard, which outlives its executor by a moment."""
LAUNCHERS = {"horovod": run_on_horovod, "torch": run_on_torch}


class RankError(RuntimeError):
    """A rank raised, hung or died; the message holds its number, and its traceback or stacks."""


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

    One rank runs here. More run as processes in Spark tasks, and what they log is passed on to this process's stderr.
    Once one of them has failed the others are ended within seconds.

    Args:
        spark: the session whose executors hold the ranks.
        task: picklable; takes the rank's Collective.
        ranks: world size W.
        start_timeout: seconds that Spark has to have slots for all ranks, and then that they have to start.
        launcher: starts them.
        stall_limit: seconds after which a rank that makes no progress is ended (see `mamdr_core.parallel.watch`); 0:
            never. One rank, which runs here, is not watched.
        device: that the task will use, see `RankJob`.

    Raises:
        MamdrError: fewer slots than ranks, the ranks did not start in time, or a rank raised it.
        StoppedError: the ranks were asked to stop, and did.
        RankError: a rank raised something else, hung or died.
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
            output.failed.wait(_END_HEARD)  # Spark may notice the end of a rank before its connection ends
            raise _explain(error, output, ranks, stall_limit) from None
    done: list[T] = []
    for result in results:
        if isinstance(result, StoppedError):
            raise result
        done.append(result)
    return done


def _explain(error: Exception, output: RankOutput, ranks: int, stall_limit: float) -> Exception:
    """The cause of a failure; that another rank waited for the one that failed is a consequence."""
    for rank, stacks in output.stalls.items():
        threads = "\n".join(stacks).strip().split("\n\n")
        return RankError(
            f"rank {rank} of {ranks} made no progress for {stall_limit:g} s (train.stall_limit) and was ended; it was "
            "at (the main thread first):\n" + "\n\n".join(reversed(threads))
        )
    causes = {rank: said for rank, said in output.errors.items() if said["kind"] != "lost"}
    for rank, said in causes.items():
        if said["kind"] == "user":
            return MamdrError(str(said["message"]))
        return RankError(f"rank {rank} of {ranks} failed:\n{said['traceback']}")
    for rank in output.lost:
        return RankError(f"rank {rank} of {ranks} was lost: killed, out of memory, or gone with its executor")
    for rank, said in output.errors.items():
        return RankError(f"rank {rank} of {ranks} failed:\n{said['traceback']}")
    if not output.joined.is_set():
        return RankError(
            "ranks ended before they could speak to the driver; the executors' stderr tells why (has their Python this "
            f"project's packages? docs/clusters.md): {error.__cause__ or error}"
        )
    return RankError(f"the ranks were lost: {error.__cause__ or error}")
