"""A job on one machine listens only on local addresses, except for the launcher of Horovod."""

import threading
import time

import psutil
import pytest

from mamdr_core.parallel import launch
from mamdr_core.parallel.launch import LAUNCHERS, run_ranks

pytestmark = pytest.mark.slow
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


def listeners():
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


def test_a_session_listens_only_locally_and_has_no_web_server(spark):
    assert spark.sparkContext.parallelize([1, 2], 2).map(lambda number: number + 1).sum() == 5
    found = listeners()
    assert {name for name, _, _ in found} >= {"java"}
    assert "java" not in beyond_this_machine(found)
    assert spark.sparkContext.uiWebUrl is None


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_ranks_listen_only_for_their_launcher_and_the_driver_only_locally(spark, monkeypatch, launcher):
    def task(collective):
        time.sleep(3)
        return collective.rank

    seen, listened_at, done, real = set(), [], threading.Event(), launch.RankOutput

    def listen(*arguments):
        output = real(*arguments)
        listened_at.append(output._server.getsockname()[0])
        return output

    def look():
        while not done.wait(0.3):
            seen.update(listeners())

    monkeypatch.setattr(launch, "RankOutput", listen)
    looking = threading.Thread(target=look)
    looking.start()
    try:
        assert run_ranks(spark, task, 2, 120, launcher) == [0, 1]
    finally:
        done.set()
        looking.join()
    assert len(listened_at) == 1
    assert listened_at[0] in LOOPBACK
    # Horovod: signed messages between the driver and the tasks, the rendezvous, and Gloo between ranks; all Python.
    # torch: Gloo between ranks.
    beyond = beyond_this_machine(seen)
    assert any(name.startswith("python") for name, _, _ in seen)
    assert all(name.startswith("python") for name in beyond)
