"""The process of a rank over torch.distributed: `python -m mamdr_core.parallel.torch_rank PLACE RESULT_FD`.

Started by `mamdr_core.parallel.torch_launch` in a Spark task. It reads the pickled job from stdin and writes the
pickled result to the file descriptor; both are connected to the parent process.
"""

import json
import pickle
import sys
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from pyspark.serializers import CloudPickleSerializer
from torch._C._distributed_c10d import TCPStore

from mamdr_core.parallel.collective import Collective
from mamdr_core.parallel.rank_process import RankJob, run_rank
from mamdr_core.parallel.torch_collective import TorchCollective
from mamdr_core.parallel.watch import PATIENCE

_LONGEST = 30 * 24 * 3600.0
"""Timeout of collectives in seconds if ranks are not watched."""


def main(place: dict[str, Any], result_fd: int) -> None:
    """Run the rank.

    Args:
        place: rank, ranks (W), store (host, port and, on rank 0, file descriptor of the listener), gpus (addresses).
        result_fd: receives the pickled result.
    """
    job: RankJob[object] = pickle.loads(sys.stdin.buffer.read())  # noqa: S301 - written by the task that started this
    result = run_rank(job, place["rank"], place["gpus"], partial(_join, place, job))
    serializer: Any = CloudPickleSerializer  # has no types
    with open(result_fd, "wb") as results:
        results.write(serializer().dumps(result))
    dist.destroy_process_group()


def _join(place: dict[str, Any], job: RankJob[object]) -> Collective:
    """Join the process group: CPU tensors use Gloo, and CUDA tensors use NCCL if all ranks have CUDA.

    Ranks with and without CUDA join the same Gloo group.
    """
    host, port, listener = place["store"]
    longest = timedelta(seconds=PATIENCE * job.stall_limit + 60 if job.stall_limit else _LONGEST)
    first = place["rank"] == 0
    store = TCPStore(host, port, place["ranks"], first, longest, False, False, listener)
    backend = "cpu:gloo,cuda:nccl" if job.device != "cpu" and torch.cuda.is_available() else "cpu:gloo"
    dist.init_process_group(backend, store=store, rank=place["rank"], world_size=place["ranks"], timeout=longest)
    return TorchCollective()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), int(sys.argv[2]))
