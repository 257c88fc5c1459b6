"""Launching ranks: in this process, or as Horovod processes in Spark tasks, with a failing rank's traceback."""

import json
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from mamdr_core.errors import DivergedError, MamdrError
from mamdr_core.parallel.collective import Collective, SingleProcess

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

T = TypeVar("T")
logger = logging.getLogger(__name__)

_ERROR_MARK = "@mamdr-rank-error "
_PREFIX = re.compile(r"^\[(\d+)\]<std(?:err|out)>:")


class RankError(RuntimeError):
    """A rank raised or died; the message holds its number and traceback."""


def run_ranks(spark: "SparkSession", task: Callable[[Collective], T], ranks: int, start_timeout: int) -> list[T]:
    """Run `task` on every rank and return the results in rank order.

    One rank runs here, without Horovod. More run as Horovod processes (Gloo) in Spark tasks, and what they log is
    passed on to this process's stderr.

    Args:
        spark: the session whose executors hold the ranks.
        task: picklable; takes the rank's Collective.
        ranks: world size W.
        start_timeout: seconds that all ranks have to start.

    Raises:
        MamdrError: fewer slots than ranks, the ranks did not start in time, or a rank raised it.
        RankError: a rank raised something else, or died.
    """
    if ranks == 1:
        return [task(SingleProcess())]
    _require_horovod()
    import horovod.spark

    slots = spark.sparkContext.defaultParallelism // int(spark.conf.get("spark.task.cpus", "1") or 1)
    if slots < ranks:
        raise MamdrError(
            f"train.ranks is {ranks}: need {ranks} slots, have {slots}; lower train.ranks, or give Spark more cores "
            f"(--master 'local[{ranks}]', or more executors)"
        )
    threads = max(1, (os.cpu_count() or 1) // ranks)
    output = _RankOutput()
    hook = threading.excepthook
    # Horovod's thread that waits for the Spark job reports its cancellation; the cause is told below.
    threading.excepthook = lambda args: logger.debug("while ranks stopped", exc_info=args.exc_value)
    try:
        results: list[T] = horovod.spark.run(
            _run_rank,
            args=(task, threads),
            num_proc=ranks,
            start_timeout=start_timeout,
            use_gloo=True,
            # Shapes change from round to round: remembered responses would only be evicted, with a warning.
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "HOROVOD_CACHE_CAPACITY": "0"},
            stdout=output,
            stderr=output,
            verbose=0,
        )
    except Exception as error:
        raise _explain(error, output, ranks, start_timeout) from None
    finally:
        threading.excepthook = hook
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
            f"train.ranks > 1 needs Horovod, which cannot be imported ({error}): run `make setup`"
        ) from None
    built = bool(hvd.gloo_built())
    if not built:
        raise MamdrError("this Horovod was built without Gloo: build it with environment/build_horovod.py")
    horovod.runner.launch.gloo_built = lambda verbose=False: built


def _run_rank(task: Callable[[Collective], T], threads: int) -> T:
    """What every rank process does."""
    import torch

    from mamdr_core.parallel.horovod_collective import HorovodCollective

    torch.set_num_threads(threads)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    rank = int(os.environ.get("HOROVOD_RANK", "-1"))
    try:
        return task(HorovodCollective())
    except BaseException as error:
        cause = {"rank": rank, "type": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()}
        said = json.dumps(cause)
        print(f"{_ERROR_MARK}{said}", file=sys.stderr, flush=True)
        raise


class _RankOutput:
    """A text stream that passes on what ranks write, keeps what they say of errors, and drops Horovod's own prefix."""

    def __init__(self) -> None:
        self.errors: list[dict[str, object]] = []
        self._part = ""
        self._lock = threading.Lock()

    def write(self, text: str) -> int:
        with self._lock:
            *lines, self._part = (self._part + text).split("\n")
            for line in lines:
                self._take(line)
        return len(text)

    def flush(self) -> None:
        sys.stderr.flush()

    def _take(self, line: str) -> None:
        prefix = _PREFIX.match(line)
        text = line[prefix.end() :] if prefix else line
        if text.startswith(_ERROR_MARK):
            self.errors.append(json.loads(text.removeprefix(_ERROR_MARK)))
        elif text and not self.errors:  # after an error the other ranks only report that they were interrupted
            rank = f"[rank {prefix.group(1)}] " if prefix and prefix.group(1) != "0" else ""
            sys.stderr.write(f"{rank}{text}\n")


def _explain(error: Exception, output: _RankOutput, ranks: int, start_timeout: int) -> Exception:
    if output.errors:
        # A rank that waited for the failing one reports the lost connection; that is not the cause.
        own = [said for said in output.errors if said["type"] != "HorovodInternalError"]
        first = (own or output.errors)[0]
        if first["type"] in (MamdrError.__name__, DivergedError.__name__):
            return MamdrError(str(first["message"]))
        return RankError(f"rank {first['rank']} of {ranks} failed:\n{first['traceback']}")
    if "Timed out waiting" in str(error):
        return MamdrError(
            f"the {ranks} ranks did not start within train.start_timeout = {start_timeout} s: are {ranks} slots free?"
        )
    return RankError(f"the ranks were lost (killed, or out of memory?): {error}")
