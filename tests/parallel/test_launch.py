"""Ranks in Spark tasks under both launchers: results, and what becomes of ranks that raise, hang, stop or die."""

import os
import signal
import time

import psutil
import pytest
import torch

from mamdr_core.errors import MamdrError, StoppedError
from mamdr_core.parallel.launch import LAUNCHERS, RankError, run_ranks

pytestmark = pytest.mark.slow
LONG = 300


@pytest.fixture(params=LAUNCHERS)
def run(spark, request):
    """Runs a task on two ranks, and afterwards finds none of their processes left."""
    before = set(ranks_alive())
    yield lambda task, stall_limit=0.0, ranks=2: run_ranks(spark, task, ranks, 60, request.param, stall_limit)
    assert psutil.wait_procs(set(ranks_alive()) - before, timeout=15)[1] == []


def ranks_alive():
    """Processes of ranks below this one, and those that were left behind."""
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or ())
        if "mamdr_core.parallel.torch_rank" in command or "horovod.spark.task.gloo_exec_fn" in command:
            yield process


def test_ranks_speak_and_their_results_come_in_rank_order(run, capsys):
    def task(collective):
        import logging

        rank = collective.rank
        logging.getLogger("task").info("here is rank %d", rank)
        own = torch.arange(rank + 1.0) + 10 * rank
        return (
            collective.all_reduce(own[:1]).tolist(),
            collective.all_gather(own[: 2 * rank]).tolist(),
            collective.all_gather(own[:0]).tolist(),
            collective.all_to_all(torch.arange(3) + 10 * rank, [rank, 1, 2 - rank])[0].tolist(),
            collective.broadcast(own[:1]).tolist(),
            torch.get_num_threads(),
            [os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"]],
        )  # fmt: skip

    threads = max(1, os.cpu_count() // 3)
    assert run(task, ranks=3) == [
        ([30.0], [10.0, 11.0, 20.0, 21.0, 22.0], [], [10, 20, 21], [0.0], threads, ["0", "3"]),
        ([30.0], [10.0, 11.0, 20.0, 21.0, 22.0], [], [0, 11, 22], [0.0], threads, ["1", "3"]),
        ([30.0], [10.0, 11.0, 20.0, 21.0, 22.0], [], [1, 2, 12], [0.0], threads, ["2", "3"]),
    ]
    assert "[rank 2] " in capsys.readouterr().err


def test_a_rank_that_raises_ends_the_others_and_is_told_with_its_traceback(run):
    def task(collective):
        collective.all_reduce(torch.ones(1))
        if collective.rank == 1:
            raise KeyError("rank 1 is ill")
        time.sleep(LONG)  # far from its next collective

    started = time.monotonic()
    with pytest.raises(RankError, match=r"^rank 1 of 2 failed:\nTraceback(.|\n)*KeyError: 'rank 1 is ill'"):
        run(task)
    assert time.monotonic() - started < 30


def test_what_a_user_can_mend_stays_one_line(run):
    def task(collective):
        if collective.rank == 1:
            raise MamdrError("mend me")
        collective.all_reduce(torch.ones(1))

    with pytest.raises(MamdrError, match=r"^mend me$"):
        run(task)


def test_ranks_that_stop_are_no_failure(run):
    def task(collective):
        collective.all_reduce(torch.ones(1))
        if collective.rank == 0:
            time.sleep(1)
        raise StoppedError(f"rank {collective.rank} stopped")

    with pytest.raises(StoppedError, match="rank 0 stopped"):
        run(task)


def test_a_rank_that_is_killed_ends_the_others(run):
    def task(collective):
        collective.all_reduce(torch.ones(1))
        if collective.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        collective.all_reduce(torch.ones(1))

    with pytest.raises(RankError, match=r"^rank 1 of 2 was lost"):
        run(task)


def test_a_rank_that_hangs_is_ended_with_what_it_was_doing(run):
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


def test_a_rank_that_makes_progress_or_waits_for_one_may_take_longer_than_the_limit(run):
    def task(collective):
        from mamdr_core.heartbeat import beat

        for _ in range(50 * collective.rank):
            time.sleep(0.1)
            beat()
        return collective.all_reduce(torch.ones(1)).item()

    assert run(task, stall_limit=2) == [2.0, 2.0]


@pytest.mark.parametrize("victim", ["task", "parent"])
def test_when_its_spark_task_dies_a_rank_dies(run, victim):
    """The Python worker of the task, or the process between it and the rank, if there is one."""

    def task(collective):
        import psutil

        collective.all_reduce(torch.ones(1))
        if collective.rank == 1:
            parents = psutil.Process().parents()
            daemon = next(at for at, parent in enumerate(parents) if "pyspark.daemon" in parent.cmdline())
            parents[0 if victim == "parent" else daemon - 1].kill()
        time.sleep(LONG)

    with pytest.raises(RankError, match=r"^rank 1 of 2 was lost"):
        run(task)
