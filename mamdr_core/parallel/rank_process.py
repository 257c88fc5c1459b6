"""The rank process under any launcher: logging, watchdogs, the task, and a report of its error."""

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from mamdr_core.parallel.collective import Collective, PeerLostError
from mamdr_core.parallel.rank_output import DONE_MARK, ERROR_MARK, DriverAddress, redirect_output_to_driver
from mamdr_core.parallel.watch import Watch, die_with_parents
from mamdr_core.runtime.errors import MamdrError, StoppedError

T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RankJob(Generic[T]):
    """The job of all ranks.

    Attributes:
        task: takes the Collective of the rank; picklable.
        driver: receives the output.
        threads: number of CPU threads per rank.
        device: device of the task: "cpu", "cuda", or "auto", which is CUDA if all ranks can use it.
        stall_limit: seconds without progress after which a rank terminates; 0: never.
    """

    task: Callable[[Collective], T]
    driver: DriverAddress
    threads: int
    device: str
    stall_limit: float


def run_rank(job: RankJob[T], rank: int, gpus: Sequence[str], join: Callable[[], Collective]) -> T | StoppedError:
    """Run the task of a rank in this process.

    Args:
        job: the job.
        rank: of this process.
        gpus: addresses of the GPUs that Spark assigned to the task; if empty, the local rank selects the GPU.
        join: creates the Collective once all ranks have joined.

    Returns:
        The result of the task, or the StoppedError that it raised: all ranks stop after the same round, successfully.
    """
    import torch

    from mamdr_core.engine.device import use_cuda

    die_with_parents()
    redirect_output_to_driver(job.driver, rank)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(job.threads)
    if gpus:  # torch reads it when it first uses CUDA
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        logger.info("Spark assigned GPU %s to this rank", ",".join(gpus))
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
        _report(f"{ERROR_MARK}{json.dumps(cause)}")
        raise
    _report(DONE_MARK)
    return result


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
