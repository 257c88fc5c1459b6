"""Ranks as Horovod processes (Gloo) in Spark tasks, by horovod.spark.run."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from mamdr_core.errors import MamdrError, StoppedError
from mamdr_core.parallel.collective import Collective
from mamdr_core.parallel.rank_output import LAST_WORDS, RankOutput
from mamdr_core.parallel.rank_process import RankJob, run_rank

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

T = TypeVar("T")
logger = logging.getLogger(__name__)

_HANDED_ON = ("HOROVOD_", "NCCL_")
"""Beginnings of names of the driver's environment that ranks are given."""


def run_on_horovod(
    spark: "SparkSession", job: RankJob[T], ranks: int, start_timeout: int, output: RankOutput
) -> list[T | StoppedError]:
    """Run the job on every rank and return the results in rank order.

    Args:
        spark: the session whose executors hold the ranks.
        job: what they do.
        ranks: world size W.
        start_timeout: seconds that all ranks have to start.
        output: hears them.

    Raises:
        MamdrError: no Horovod here, or one without Gloo.
        TimeoutError: the ranks did not start in time.
        Exception: what Horovod makes of the end of a rank; `output` knows the cause.
    """
    _require_horovod()
    import horovod.spark

    environment = {name: value for name, value in os.environ.items() if name.startswith(_HANDED_ON)}
    # Shapes change from round to round: remembered responses would only be evicted, with a warning.
    environment |= {"OMP_NUM_THREADS": str(job.threads), "HOROVOD_CACHE_CAPACITY": "0"}
    if paths := _shipped(spark):
        environment["PYTHONPATH"] = paths
    with _ended_by(output):
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
    return results


def _require_horovod() -> None:
    """Check that Horovod is there, with Gloo, and spare its launcher the question.

    Horovod's launcher asks in a forked child, whose exit shuts down the sockets between this process and the JVM.
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


def _shipped(spark: "SparkSession") -> str:
    """PYTHONPATH of ranks with what --py-files shipped, which Spark shows to its own Python workers alone."""
    from pyspark import SparkFiles

    names = spark.sparkContext._python_includes
    if not names:
        return ""
    # An executor keeps them in its working folder, where ranks start; in local mode they lie in the driver's.
    folders = ("", f"{SparkFiles.getRootDirectory()}/")
    also = (os.environ.get("PYTHONPATH"), spark.sparkContext.getConf().get("spark.executorEnv.PYTHONPATH"))
    # What came last is first, as in Spark's workers: a package that is sent again has changed.
    return os.pathsep.join([*(folder + name for name in reversed(names) for folder in folders), *filter(None, also)])


@contextmanager
def _ended_by(output: RankOutput) -> Iterator[None]:
    """Have Horovod end all ranks soon after one has failed, and leave SIGTERM to the driver.

    By itself Horovod on Spark waits until every rank has noticed, at its next collective, that one is missing; and it
    takes SIGTERM for a wish to kill ranks, which would not let them save a checkpoint. Both hang on the event that
    its register_shutdown_event makes.
    """
    import horovod.runner.gloo_run

    end, over, hook = threading.Event(), threading.Event(), threading.excepthook
    register_shutdown_event = horovod.runner.gloo_run.register_shutdown_event

    def wait_for_failure() -> None:
        while not over.wait(0.1):
            if output.failed.is_set():
                over.wait(LAST_WORDS)
                output.close()
                end.set()
                return

    # Horovod's thread that waits for the Spark job reports its cancellation; the cause is told by the driver.
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
    """What Horovod calls in every rank process."""
    from horovod.spark.task import get_available_devices

    os.environ["LOCAL_RANK"] = os.environ["HOROVOD_LOCAL_RANK"]
    os.environ["LOCAL_WORLD_SIZE"] = os.environ["HOROVOD_LOCAL_SIZE"]
    return run_rank(job, int(os.environ["HOROVOD_RANK"]), get_available_devices(), _join)


def _join() -> Collective:
    from mamdr_core.parallel.horovod_collective import HorovodCollective

    return HorovodCollective()
