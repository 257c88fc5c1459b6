"""Ranks in Spark tasks under both launchers, where nothing fails: results, modules of plugins, and who listens where.

A job on one machine listens only on local addresses, except for the launcher of Horovod.
"""

import contextlib
import importlib
import io
import os
import sys
import threading
import time
from dataclasses import dataclass

import psutil
import pytest
import torch

from mamdr_core.parallel import launch
from mamdr_core.parallel.collective import run_simulated
from mamdr_core.parallel.launch import LAUNCHERS, run_ranks
from mamdr_core.parallel.shipping import ship_modules

pytestmark = pytest.mark.slow
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


@dataclass(frozen=True)
class Launched:
    """What two ranks did.

    Attributes:
        results: by rank, what it exchanged, its local rank and their number, and what a sent module returns.
        expected: by rank, what simulated ranks exchange.
        log: what the driver printed.
        left: processes of ranks that did not end.
        driver: addresses on which the driver listened for ranks.
        listeners: programs of the tests and their children with the addresses on which they listened.
    """

    results: list
    expected: list
    log: str
    left: list[psutil.Process]
    driver: list[str]
    listeners: set[tuple[str, str, int]]


def find_listeners():
    """Programs of this process and its children by the address on which each listens."""
    found = set()
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            open_ = [each.laddr for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN]
            found |= {(process.name(), address.ip, address.port) for address in open_}
        except psutil.Error:
            continue  # it has ended
    return found


def beyond_this_machine(found):
    return {name for name, ip, _ in found if ip not in LOOPBACK}


@contextlib.contextmanager
def watched_listeners():
    """The listeners of any moment within the block."""
    seen, done = set(), threading.Event()

    def look():
        while not done.wait(0.3):
            seen.update(find_listeners())

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        done.set()
        looking.join()


@pytest.fixture(scope="module")
def shipped(spark, tmp_path_factory):
    """A package and a single module, in a folder that only this process looks into."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "sent_package").mkdir()
    (folder / "sent_package/__init__.py").write_text("")
    (folder / "sent_package/deep.py").write_text("from sent_module import number\n\ndef name():\n    return number\n")
    (folder / "sent_module.py").write_text("number = 7\n")
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(folder))
        for name in ("sent_package.deep", "sent_module"):
            importlib.import_module(name)
        for _ in range(2):
            ship_modules(spark, ["sent_package.deep", "sent_module", "torch", "mamdr_core.runtime.plugins"])
        yield folder
    for name in ("sent_package.deep", "sent_package", "sent_module"):
        sys.modules.pop(name)


@pytest.fixture(scope="module", params=LAUNCHERS)
def launched(spark, request, shipped, tmp_path_factory):
    """Two ranks, of which the second makes progress for longer than ranks may hang, and the first waits for it."""
    noted, driver, real, log = tmp_path_factory.mktemp("ranks"), [], launch.RankOutput, io.StringIO()

    def exchange(collective):
        import logging

        rank, own = collective.rank, torch.arange(4.0) + 10 * collective.rank
        logging.getLogger("task").info("here is rank %d", rank)
        return (
            collective.all_reduce(own).tolist(),
            collective.all_gather(own[: 3 * rank]).tolist(),
            collective.all_gather(own[:0]).tolist(),
            [collective.all_to_all(rows, [0, 2] if rank else [1, 1])[1] for rows in (own[:2], own[2:])],
            collective.all_to_all(own, [0, 4] if rank else [1, 3])[0].tolist(),
            collective.broadcast(own).tolist(),
        )

    def task(collective):
        from mamdr_core.runtime.heartbeat import beat

        (noted / str(os.getpid())).touch()
        name = importlib.import_module("sent_package.deep").name()
        for _ in range(50 * collective.rank):
            time.sleep(0.1)
            beat()
        return exchange(collective), os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"], name

    def listen(*arguments):
        output = real(*arguments)
        driver.append(output._server.getsockname()[0])
        return output

    with pytest.MonkeyPatch.context() as patched, contextlib.redirect_stderr(log), watched_listeners() as seen:
        patched.setattr(launch, "RankOutput", listen)
        results = run_ranks(spark, task, 2, 120, request.param, stall_limit=3)
    pids = [int(file.name) for file in noted.iterdir()]
    assert len(pids) == 2
    left = psutil.wait_procs([each for each in psutil.process_iter() if each.pid in pids], timeout=15)[1]
    return Launched(results, run_simulated(exchange, 2), log.getvalue(), left, driver, seen)


@pytest.mark.cluster
def test_ranks_behave_as_simulated_ones_and_return_results_in_rank_order(launched):
    """A rank that makes progress, or waits for one, may take longer than the limit for ranks that hang."""
    found = [result[:3] for result in launched.results]
    assert found == [(exchanged, str(rank), "2") for rank, exchanged in enumerate(launched.expected)]
    assert "[rank 1] " in launched.log
    assert launched.left == []


@pytest.mark.cluster
def test_ranks_import_what_the_driver_does(launched):
    assert [result[3] for result in launched.results] == [7, 7]


def test_ranks_listen_only_for_their_launcher_and_the_driver_only_locally(launched):
    assert len(launched.driver) == 1
    assert launched.driver[0] in LOOPBACK
    # Horovod: signed messages between the driver and the tasks, the rendezvous, and Gloo between ranks; all Python.
    # torch: Gloo between ranks.
    beyond = beyond_this_machine(launched.listeners)
    assert any(name.startswith("python") for name, _, _ in launched.listeners)
    assert all(name.startswith("python") for name in beyond)


@pytest.mark.cluster
def test_each_package_is_sent_once(spark, shipped):
    names = [name.rpartition("-")[0] for name in spark.sparkContext._python_includes]  # other tests send others
    assert [names.count(name) for name in ("sent_module", "sent_package", "torch", "mamdr_core")] == [1, 1, 0, 0]


def test_a_session_listens_only_locally_and_has_no_web_server(spark):
    assert spark.sparkContext.parallelize([1, 2], 2).map(lambda number: number + 1).sum() == 5
    found = find_listeners()
    assert {name for name, _, _ in found} >= {"java"}
    assert "java" not in beyond_this_machine(found)
    assert spark.sparkContext.uiWebUrl is None
