"""Ranks in Spark tasks under both launchers that raise, hang, stop or die."""

import json
import os
import socket
import time

import psutil
import pytest
import torch

from mamdr_core.parallel.launch import LAUNCHERS, RankError, run_ranks
from mamdr_core.parallel.rank_output import ERROR_MARK
from mamdr_core.runtime.errors import MamdrError, StoppedError

pytestmark = [pytest.mark.slow, pytest.mark.cluster]
LONG = 300


def under(*launchers):
    return pytest.mark.parametrize("run", launchers, indirect=True)


@pytest.fixture
def run(spark, request, tmp_path):
    """Runs a task on two ranks under a launcher, and afterwards finds neither of their processes left."""

    def run_two(task, stall_limit=0.0):
        def noted(collective):
            (tmp_path / str(os.getpid())).touch()
            return task(collective)

        return run_ranks(spark, noted, 2, 60, request.param, stall_limit)

    yield run_two
    pids = [int(file.name) for file in tmp_path.iterdir()]
    assert len(pids) == 2
    alive = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    assert psutil.wait_procs(alive, timeout=15)[1] == []


@under(*LAUNCHERS)
def test_a_rank_that_raises_stops_the_others_and_its_traceback_is_reported(run):
    def task(collective):
        collective.all_reduce(torch.ones(1))
        if collective.rank == 1:
            raise KeyError("rank 1 is ill")
        time.sleep(LONG)  # far from its next collective

    started = time.monotonic()
    with pytest.raises(RankError, match=r"^rank 1 of 2 failed:\nTraceback(.|\n)*KeyError: 'rank 1 is ill'"):
        run(task)
    assert time.monotonic() - started < 30


def test_what_horovod_returns_after_a_failure_is_no_result(spark, monkeypatch):
    """It was seen once: both ranks were stopped, and Horovod raised nothing."""

    def fail_and_return(function, args, **_):
        address = args[0].driver
        cause = json.dumps({"kind": "bug", "message": "ill", "traceback": "KeyError: 'ill'"})
        with socket.create_connection((address.host, address.port)) as connection:
            connection.sendall(f"{address.token} 1\n{ERROR_MARK}{cause}\n".encode())
            time.sleep(1)  # until the driver has read it
        return [None, None]

    monkeypatch.setattr("horovod.spark.run", fail_and_return)
    with pytest.raises(RankError, match="rank 1 of 2 failed:\nKeyError: 'ill'"):
        run_ranks(spark, lambda _: None, 2, 60, "horovod")


@under("torch")
def test_user_errors_stay_one_line(run):
    def task(collective):
        if collective.rank == 1:
            raise MamdrError("mend me")
        collective.all_reduce(torch.ones(1))

    with pytest.raises(MamdrError, match=r"^mend me$"):
        run(task)


@under("torch")
def test_stopped_ranks_are_not_a_failure(run):
    def task(collective):
        collective.all_reduce(torch.ones(1))
        if collective.rank == 0:
            time.sleep(1)
        raise StoppedError(f"rank {collective.rank} stopped")

    with pytest.raises(StoppedError, match="rank 0 stopped"):
        run(task)


@under(*LAUNCHERS)
def test_a_hanging_rank_is_stopped_and_its_stacks_are_reported(run):
    """Stuck in C without releasing the interpreter, where no thread of Python runs; the other waits for it."""

    def task(collective):
        collective.all_reduce(torch.ones(1))
        if collective.rank == 1:
            hang()
        collective.all_reduce(torch.ones(1))

    def hang():
        sum(range(10**15))

    with pytest.raises(RankError, match=r"^rank 1 of 2 made no progress for 3 s(.|\n)*in hang\n") as caught:
        run(task, stall_limit=3)
    assert "in all_reduce" not in str(caught.value)


@pytest.mark.parametrize(
    ("run", "above"), [("horovod", "its launcher"), ("horovod", "its task"), ("torch", "its task")], indirect=["run"]
)
def test_a_rank_dies_with_its_parent_processes(run, above):
    """The Python of its Spark task, or what Horovod has between that and the rank."""

    def task(collective):
        import psutil

        collective.all_reduce(torch.ones(1))
        if collective.rank == 1:
            names = {"its launcher": "--multiprocessing-fork", "its task": "pyspark.daemon"}
            next(parent for parent in psutil.Process().parents() if names[above] in parent.cmdline()).kill()
        time.sleep(LONG)

    with pytest.raises(RankError, match=r"^rank 1 of 2 was lost"):
        run(task)
