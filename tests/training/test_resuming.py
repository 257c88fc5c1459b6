"""train_mamdr killed and stopped by force, in processes of its own and on Horovod ranks, and what becomes of it."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from pyspark.sql import functions as F
from safetensors.torch import load_file

from mamdr_core.config.job_config import dump_config, with_values
from mamdr_core.config.training import CheckpointSettings
from mamdr_core.lake.core.tables import Lake
from mamdr_core.runtime.errors import MamdrError, StoppedError
from mamdr_core.training.checkpoint.checkpoints import find_checkpoint
from mamdr_core.training.driver import train_mamdr
from mamdr_core.training.files.manifest import MANIFEST
from mamdr_core.training.resuming import find_unfinished

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
QUICK = "--driver-memory 1g pyspark-shell"
LIMIT = 500
"""Seconds; a test with two executors took 257 alongside one other test process, and over 300 once."""


@pytest.fixture(scope="module")
def config(trained_config):
    """Rounds with a checkpoint after each, then passes of DR: there is time to kill it several times."""
    train = replace(
        trained_config.train,
        epochs=20,
        patience=100,
        checkpoint=CheckpointSettings(rounds=1, minutes=0),
        dr=replace(trained_config.train.dr, schedule="settled", epochs=3),
    )
    return replace(trained_config, train=train)


@pytest.fixture(scope="module")
def undisturbed(spark, config):
    return train_mamdr(spark, config)


@pytest.fixture
def job(config, tmp_path):
    """Starts the job in a session of its own."""
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config), encoding="utf-8")
    started = []

    def start(*more, program=sys.executable, master="local[1]"):
        command = [program, str(ROOT / "jobs" / "train_mamdr.py"), "--config", str(file), *more]
        # With as many threads as this process, whose packages it is compared with: sums have one order then.
        threads = str(torch.get_num_threads())
        environment = os.environ | {"PYSPARK_SUBMIT_ARGS": f"--master {master} {QUICK}", "OMP_NUM_THREADS": threads}
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def wait_for_checkpoint(config, number, process=None, known=()):
    """The folder of checkpoints of a new run, once it has one of at least this number."""
    folder, deadline = Path(config.lake.root) / "checkpoints", time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        assert process is None or process.poll() is None, process.stderr.read()
        for manifest in folder.glob(f"*/*/{MANIFEST}"):
            if int(manifest.parent.name) >= number and manifest.parents[1].name not in known:
                return manifest.parents[1]
        time.sleep(0.005)
    raise AssertionError("no checkpoint was written")


def command_of(process):
    """Empty where it has ended meanwhile."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@contextlib.contextmanager
def suspended(process):
    """Suspend a process of this machine, for longer than it takes it to look at its parent again."""
    process.suspend()
    try:
        yield
        time.sleep(1.5)
    finally:
        process.resume()


def row_of(spark, config, run_id):
    return Lake(spark, config.lake.root).read("training_runs").where(F.col("run_id") == run_id).first()


def assert_same_package(found, expected):
    files = {file.name for file in Path(expected).glob("*.safetensors")}
    assert files == {file.name for file in Path(found).glob("*.safetensors")}
    for name in files:
        theirs, ours = load_file(Path(expected) / name), load_file(Path(found) / name)
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(theirs[tensor], ours[tensor]) for tensor in theirs), name


def resumed(spark, config, run_id="newest"):
    return train_mamdr(spark, replace(config, train=replace(config.train, resume=run_id)))


def refuse_to_resume(spark, config, run_id):
    """A run that lives is left alone."""
    with pytest.raises(MamdrError, match="another process of this machine trains run"):
        resumed(spark, config, run_id)
    with pytest.raises(MamdrError, match=r"another process of this machine trains run .* try again later"):
        find_unfinished(spark, with_values(config, {"train.resume": "newest"}))


def refuse_other_computations(spark, config, run_id):
    """A killed run is resumed only by one that computes the same."""
    newest = with_values(config, {"train.resume": "newest"})
    assert find_unfinished(spark, newest).id == run_id
    assert find_unfinished(spark, with_values(newest, {"examples.until": "2026-01-02"})) is None  # another day's
    other = replace(config, train=replace(config.train, seed=9))
    with pytest.raises(MamdrError, match=r"has different settings: train\.seed is 9, and was 0"):
        resumed(spark, other, run_id)
    figures = resumed(spark, replace(other, train=replace(other.train, epochs=1)))
    assert (figures["run_id"] != run_id, figures["attempts"]) == (True, 1)


def test_a_run_that_is_killed_and_stopped_again_and_again_resumes_to_the_undisturbed_package(
    spark, config, undisturbed, job
):
    """Killed with all its processes, then by SIGTERM, then its spark-submit by either signal: Spark's JVM is what a
    cluster or a user kills, and Python is its child.
    """
    process = job()
    folder = wait_for_checkpoint(config, 2, process)
    refuse_to_resume(spark, config, folder.name)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(LIMIT)
    assert row_of(spark, config, folder.name)["status"] == "running"
    refuse_other_computations(spark, config, folder.name)
    before = find_checkpoint(folder).newest
    process = job("--resume")
    assert wait_for_checkpoint(config, before + 2, process) == folder
    os.kill(process.pid, signal.SIGTERM)
    out, log = process.communicate(timeout=LIMIT)
    assert process.returncode == 2
    (line,) = out.splitlines()
    said = json.loads(line)
    assert said["status"] == "stopped"
    assert "--resume continues from there" in said["error"]
    assert "Traceback" not in log
    assert row_of(spark, config, folder.name)["status"] == "stopped"
    for number in (signal.SIGTERM, signal.SIGKILL):
        before = find_checkpoint(folder).newest
        process = job("--resume", program=str(Path(sys.executable).parent / "spark-submit"))
        assert wait_for_checkpoint(config, before + 2, process) == folder
        children = psutil.Process(process.pid).children(recursive=True)
        (python,) = (child for child in children if "train_mamdr" in command_of(child))
        with suspended(python):  # the run must not end while its JVM does
            os.kill(process.pid, number)
            process.wait(LIMIT)
        _, log = process.communicate(timeout=LIMIT)
        assert psutil.wait_procs(children, timeout=20)[1] == []
        assert f"resumes from checkpoint {before}" in log
    figures = resumed(spark, config)
    assert (figures["run_id"], figures["attempts"]) == (folder.name, 5)
    assert figures["test_auc"] == undisturbed["test_auc"]
    assert_same_package(figures["package"], undisturbed["package"])
    row = row_of(spark, config, folder.name)
    assert (row["status"], row["attempts"], row["rounds"]) == ("ok", 5, 80)
    assert not folder.exists()


@pytest.fixture(scope="module")
def on_two(config):
    """Half as many rounds: a process is killed once, or twice."""
    return replace(config, train=replace(config.train, ranks=2, restarts=1, epochs=10))


@pytest.fixture(scope="module")
def undisturbed_on_two(spark, on_two):
    return train_mamdr(spark, on_two)


def ranks_below(process):
    """Rank processes of Horovod or torch, by rank."""
    found = {}
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            environment = child.environ()
            rank = environment.get("HOROVOD_RANK", environment.get("RANK"))
            if rank and child.name().startswith("python"):
                found[rank] = child
    return found


@contextlib.contextmanager
def in_time(config, act, folder=None):
    """Act once a run has three checkpoints more, that of a folder or a new one; gives what it returned, afterwards."""
    known = {child.name for child in (Path(config.lake.root) / "checkpoints").glob("*")} - {folder and folder.name}
    number = 3 + (find_checkpoint(folder).newest if folder else 0)
    done = []
    actor = threading.Thread(target=lambda: done.append(act(wait_for_checkpoint(config, number, known=known))))
    actor.start()
    yield done
    actor.join()


def kill_rank_1(folder):
    ranks = ranks_below(psutil.Process())
    ranks["1"].kill()
    return ranks


def assert_restarted(spark, config, run_id, ranks, attempts):
    assert psutil.wait_procs(ranks.values(), timeout=0)[1] == []
    row = row_of(spark, config, run_id)
    assert (row["status"], row["attempts"]) == ("ok", attempts)
    assert [cause.splitlines()[0] for cause in row["causes"]] == [
        "rank 1 of 2 was lost: killed, out of memory, or gone with its executor"
    ]


def test_a_rank_of_torch_that_is_killed_costs_a_restart_and_changes_nothing(spark, on_two, undisturbed_on_two):
    """Two summands have one order: both launchers give the same package."""
    with in_time(on_two, kill_rank_1) as done:
        figures = train_mamdr(spark, with_values(on_two, {"train.launcher": "torch"}))
    assert figures["attempts"] == 2
    assert_same_package(figures["package"], undisturbed_on_two["package"])
    assert_restarted(spark, on_two, figures["run_id"], done[0], attempts=2)


def test_sigterm_has_horovods_ranks_save_a_checkpoint_and_a_killed_rank_costs_a_restart(
    spark, on_two, undisturbed_on_two
):
    """The run that SIGTERM stopped is resumed, and loses a rank then."""

    def terminate(folder):
        assert (
            signal.getsignal(signal.SIGTERM).__module__ == "mamdr_core.runtime.stop_request"
        )  # not Horovod's launcher's
        os.kill(os.getpid(), signal.SIGTERM)
        return folder, ranks_below(psutil.Process())

    with in_time(on_two, terminate) as done, pytest.raises(StoppedError, match="--resume continues from there"):
        train_mamdr(spark, on_two)
    folder, ranks = done[0]
    assert psutil.wait_procs(ranks.values(), timeout=5)[1] == []
    assert row_of(spark, on_two, folder.name)["status"] == "stopped"
    with in_time(on_two, kill_rank_1, folder) as done:
        figures = resumed(spark, on_two, folder.name)
    assert_same_package(figures["package"], undisturbed_on_two["package"])
    assert_restarted(spark, on_two, folder.name, done[0], attempts=3)


def test_an_executor_that_is_killed_costs_a_restart_and_changes_nothing(
    spark, on_two, undisturbed_on_two, job, tmp_path
):
    """Two executors of one core, each a JVM of its own, and with a GPU as far as Spark is concerned."""
    script = tmp_path / "find_gpus"
    script.write_text("""#!/bin/sh\necho '{"name": "gpu", "addresses": ["7"]}'\n""")
    script.chmod(0o755)
    of = {f"{who}.resource.gpu": 1 for who in ("worker", "executor", "task")}
    gpus = [f"--conf spark.{who}.amount={count}" for who, count in of.items()]
    gpus += [f"--conf spark.{who}.resource.gpu.discoveryScript={script}" for who in ("worker", "executor")]
    master = " ".join(["local-cluster[2,1,1024]", *gpus])
    known = {child.name for child in (Path(on_two.lake.root) / "checkpoints").glob("*")}
    sets = (f"train.{name}={getattr(on_two.train, name)}" for name in ("ranks", "restarts", "epochs"))
    process = job(*(word for each in sets for word in ("--set", each)), master=master)
    folder = wait_for_checkpoint(on_two, 3, process, known)
    below = psutil.Process(process.pid).children(recursive=True)
    executors = [child for child in below if "CoarseGrainedExecutorBackend" in command_of(child)]
    ranks = ranks_below(psutil.Process(process.pid))
    assert (len(executors), sorted(ranks)) == (2, ["0", "1"])
    executors[0].kill()
    out, log = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, log
    (line,) = out.splitlines()
    said = json.loads(line)
    assert (said["status"], said["attempts"]) == ("ok", 2), log
    assert_same_package(said["package"], undisturbed_on_two["package"])
    assert "[rank 1] " in log
    assert log.count("Spark assigned GPU 7 to this rank") == 4
    (cause,) = row_of(spark, on_two, folder.name)["causes"]
    # The rank itself is not named where it had done its last round just before.
    assert re.match(r"rank [01] of 2 was lost: |the ranks were lost: ", cause)
    assert psutil.wait_procs([*below, *ranks.values()], timeout=20)[1] == []


def test_resuming_what_cannot_be_resumed_is_a_clear_error(spark, config, undisturbed):
    with pytest.raises(MamdrError, match=f"run {undisturbed['run_id']} has already succeeded"):
        resumed(spark, config, undisturbed["run_id"])
    with pytest.raises(MamdrError, match="has no run nobody"):
        resumed(spark, config, "nobody")
