"""Ranks as Horovod processes (Gloo) in Spark tasks, by horovod.spark.run."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from mamdr_core.parallel.collective import Collective
from mamdr_core.parallel.rank_output import GRACE_SECONDS, RankOutput
from mamdr_core.parallel.rank_process import RankJob, run_rank
from mamdr_core.runtime.errors import MamdrError, StoppedError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

T = TypeVar("T")
logger = logging.getLogger(__name__)

_CYCLE_MILLISECONDS = 3
"""HOROVOD_CYCLE_TIME of ranks, unless the driver has another: Horovod's default of 1 ms takes a quarter of a core of
each waiting rank, 3 ms a tenth, and a collective takes 3.3 instead of 1.1 ms (two ranks on two quiet cores)."""
_INHERITED_PREFIXES = ("HOROVOD_", "NCCL_")
"""Prefixes of environment variables that ranks inherit from the driver."""


def run_on_horovod(
    spark: "SparkSession", job: RankJob[T], ranks: int, start_timeout: int, output: RankOutput
) -> list[T | StoppedError]:
    """Run the job on every rank and return the results in rank order.

    Args:
        spark: the session whose executors hold the ranks.
        job: the job of the ranks.
        ranks: world size W.
        start_timeout: seconds within which all ranks must start.
        output: receives the output of the ranks.

    Raises:
        MamdrError: Horovod is missing or was built without Gloo.
        TimeoutError: the ranks did not start in time.
        Exception: raised by Horovod after the failure of a rank; `output` holds the cause.
    """
    _require_horovod()
    import horovod.spark

    environment = {name: value for name, value in os.environ.items() if name.startswith(_INHERITED_PREFIXES)}
    environment.setdefault("HOROVOD_CYCLE_TIME", str(_CYCLE_MILLISECONDS))
    # Shapes change from round to round, so cached responses would only be evicted, with a warning.
    environment |= {"OMP_NUM_THREADS": str(job.threads), "HOROVOD_CACHE_CAPACITY": "0"}
    if paths := _python_path(spark):
        environment["PYTHONPATH"] = paths
    with _stopping_on_failure(output):
        try:
            results: list[T | StoppedError] = horovod.spark.run(
                _run_rank,
                args=(job,),
                num_proc=ranks,
                start_timeout=start_timeout,
                use_gloo=True,
                env=environment,
                verbose=0,
                executable=spark.sparkContext.pythonExec,
            )
        except Exception as error:
            if "Timed out waiting" in str(error) and not output.failed.is_set():
                raise TimeoutError from error
            raise
    if output.failed.is_set():  # Horovod may return without an error after it stopped the ranks
        raise RuntimeError("a rank failed")
    return results


def _require_horovod() -> None:
    """Check that Horovod is installed with Gloo, and replace the check in its launcher.

    The launcher checks in a forked child, whose exit shuts down the sockets between this process and the JVM.
    """
    try:
        import horovod.runner.launch
        import horovod.torch as hvd
    except ImportError as error:
        raise MamdrError(
            f"train.ranks > 1 needs Horovod, which cannot be imported ({error}): run `make setup`, or set "
            "train.launcher to torch"
        ) from None
    built = bool(hvd.gloo_built())
    if not built:
        raise MamdrError(
            "this Horovod was built without Gloo: build it with environment/build_horovod.py, or set train.launcher "
            "to torch"
        )
    horovod.runner.launch.gloo_built = lambda verbose=False: built


def _python_path(spark: "SparkSession") -> str:
    """PYTHONPATH of ranks with the files of --py-files, which Spark otherwise adds only for its Python workers."""
    from pyspark import SparkFiles

    names = spark.sparkContext._python_includes
    if not names:
        return ""
    # Executors store them in their working folder, where ranks start; in local mode they are in that of the driver.
    folders = ("", f"{SparkFiles.getRootDirectory()}/")
    inherited = (os.environ.get("PYTHONPATH"), spark.sparkContext.getConf().get("spark.executorEnv.PYTHONPATH"))
    # The latest file comes first, as in the workers of Spark: a package that is sent again has changed.
    shipped = [folder + name for name in reversed(names) for folder in folders]
    return os.pathsep.join([*shipped, *filter(None, inherited)])


@contextmanager
def _stopping_on_failure(output: RankOutput) -> Iterator[None]:
    """Make Horovod stop all ranks soon after one has failed, and leave SIGTERM to the driver.

    Otherwise Horovod on Spark waits until the next collective of every rank fails, and it kills ranks on SIGTERM,
    before they can save a checkpoint. Both depend on the event that its register_shutdown_event creates.
    """
    import horovod.runner.gloo_run

    end, over, hook = threading.Event(), threading.Event(), threading.excepthook
    register_shutdown_event = horovod.runner.gloo_run.register_shutdown_event

    def wait_for_failure() -> None:
        while not over.wait(0.1):
            if output.failed.is_set():
                over.wait(GRACE_SECONDS)
                output.close()
                end.set()
                return

    # The thread of Horovod that waits for the Spark job raises on cancellation; the driver reports the cause.
    threading.excepthook = lambda args: logger.debug("while ranks stopped", exc_info=args.exc_value)
    horovod.runner.gloo_run.register_shutdown_event = lambda: end
    waiter = threading.Thread(target=wait_for_failure, daemon=True)
    waiter.start()
    try:
        yield
    finally:
        over.set()
        waiter.join()
        threading.excepthook = hook
        horovod.runner.gloo_run.register_shutdown_event = register_shutdown_event


def _run_rank(job: RankJob[T]) -> T | StoppedError:
    """Entry point of a rank process under Horovod."""
    from horovod.spark.task import get_available_devices

    os.environ["LOCAL_RANK"] = os.environ["HOROVOD_LOCAL_RANK"]
    os.environ["LOCAL_WORLD_SIZE"] = os.environ["HOROVOD_LOCAL_SIZE"]
    return run_rank(job, int(os.environ["HOROVOD_RANK"]), get_available_devices(), _join)


def _join() -> Collective:
    from mamdr_core.parallel.horovod_collective import HorovodCollective

    return HorovodCollective()
