"""What every rank process does, whichever launcher started it: log, guards, the task, and a report of its error."""

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from mamdr_core.errors import MamdrError, StoppedError
from mamdr_core.parallel.collective import Collective, PeerLostError
from mamdr_core.parallel.rank_output import DONE_MARK, ERROR_MARK, DriverAddress, speak_to_driver
from mamdr_core.parallel.watch import Watch, die_with_parents

T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RankJob(Generic[T]):
    """What all ranks are to do.

    Attributes:
        task: takes the rank's Collective; picklable.
        driver: hears them.
        threads: of the CPU that a rank computes with.
        device: that the task will use: "cpu", "cuda", or "auto", which is CUDA if all ranks can use it.
        stall_limit: seconds without progress after which a rank ends; 0: never.
    """

    task: Callable[[Collective], T]
    driver: DriverAddress
    threads: int
    device: str
    stall_limit: float


def run_rank(job: RankJob[T], rank: int, gpus: Sequence[str], join: Callable[[], Collective]) -> T | StoppedError:
    """Do a rank's part, in a process of its own.

    Args:
        job: what to do.
        rank: of this process.
        gpus: addresses of the GPUs that Spark gave to its task; none: the rank takes one by its place on the machine.
        join: makes the Collective, once all ranks do.

    Returns:
        What the task returns; or the StoppedError that it raised: all ranks stop after the same round, and end well.
    """
    import torch

    from mamdr_core.engine.device import use_cuda

    die_with_parents()
    speak_to_driver(job.driver, rank)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(job.threads)
    if gpus:  # torch looks at it when it first uses CUDA
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        logger.info("Spark gave this rank GPU %s", ",".join(gpus))
    result: T | StoppedError
    try:
        if job.device != "cpu":
            use_cuda()
        with Watch(job.stall_limit) as watch:
            result = job.task(watch.joined(join))
    except StoppedError as stopped:
        result = stopped
    except BaseException as error:
        kind = "user" if isinstance(error, MamdrError) else "lost" if isinstance(error, PeerLostError) else "bug"
        cause = {"kind": kind, "message": str(error), "traceback": traceback.format_exc()}
        _say(f"{ERROR_MARK}{json.dumps(cause)}")
        raise
    _say(DONE_MARK)
    return result


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
