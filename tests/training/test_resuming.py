"""train_mamdr killed and stopped by force, in processes of its own and on ranks, and what becomes of it."""

import contextlib
import json
import os
import re
import shlex
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
from mamdr_core.parallel.collective import run_simulated
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.training.checkpoint.checkpoints import find_checkpoint
from mamdr_core.training.driver import train_mamdr
from mamdr_core.training.files.manifest import MANIFEST
from mamdr_core.training.resuming import find_unfinished

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
QUICK = {
    "spark.master": "local[1]",
    "spark.driver.memory": "1g",
    "spark.executor.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}
"""These jobs are killed while they train: no code is generated for their queries, and Java compiles quickly."""
LIMIT = 500
"""Seconds; a test with two executors took 257 alongside one other test process, and over 300 once."""


@pytest.fixture(scope="module")
def config(trained_config):
    """Rounds with a checkpoint after each, then passes of DR: there is time to kill it several times."""
    train = replace(
        trained_config.train,
        epochs=8,
        patience=100,
        checkpoint=CheckpointSettings(rounds=1, minutes=0),
        dr=replace(trained_config.train.dr, schedule="settled", epochs=3),
    )
    return replace(trained_config, train=train)


@pytest.fixture(scope="module")
def undisturbed(spark, config):
    return train_mamdr(spark, config)


@pytest.fixture(scope="module")
def on_two(config):
    return with_values(config, {"train.ranks": 2, "train.restarts": 2, "train.epochs": 10})


@pytest.fixture(scope="module")
def undisturbed_on_two(spark, on_two):
    """By ranks in this process, of one thread each as those that are launched; it resumes no run of other settings."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(
                "mamdr_core.training.driver.run_ranks", lambda spark, task, ranks, *_: run_simulated(task, ranks)
            )
            return resumed(spark, on_two)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture
def job(config, tmp_path):
    """Starts the job in a session of its own."""
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config), encoding="utf-8")
    started = []

    def start(*more, program="spark-submit", **conf):
        options = [word for pair in (QUICK | conf).items() for word in ("--conf", "=".join(pair))]
        script = str(ROOT / "jobs" / "train_mamdr.py")
        command = [str(Path(sys.executable).parent / program), *(options if program == "spark-submit" else ())]
        command += [script, "--config", str(file), *more]
        # With as many threads as this process, whose packages it is compared with: sums have one order then.
        threads = str(torch.get_num_threads())
        submitted = shlex.join([*options, "pyspark-shell"])  # by pyspark, where the program is python
        environment = os.environ | {"PYSPARK_SUBMIT_ARGS": submitted, "OMP_NUM_THREADS": threads}
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def runs_in(config):
    """Names of the runs that have a folder of checkpoints."""
    return {child.name for child in (Path(config.lake.root) / "checkpoints").glob("*")}


def wait_for_checkpoint(config, number, process=None, known=()):
    """The folder of checkpoints of a run that is not known, once it has one of at least this number."""
    folder, deadline = Path(config.lake.root) / "checkpoints", time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        assert process is None or process.poll() is None, process.stderr.read()
        for manifest in folder.glob(f"*/*/{MANIFEST}"):
            if int(manifest.parent.name) >= number and manifest.parents[1].name not in known:
                return manifest.parents[1]
        time.sleep(0.005)
    raise AssertionError("no checkpoint was written")


def wait_for_more(config, folder, process=None):
    """Wait until a run has three more checkpoints than now."""
    newest = max(int(manifest.parent.name) for manifest in folder.glob(f"*/{MANIFEST}"))
    assert wait_for_checkpoint(config, newest + 3, process, runs_in(config) - {folder.name}) == folder


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
    assert find_unfinished(spark, with_values(newest, {"train.seed": 9})) is None
    other = replace(config, train=replace(config.train, seed=9))
    with pytest.raises(MamdrError, match=r"has different settings: train\.seed is 9, and was 0"):
        resumed(spark, other, run_id)


def test_a_job_killed_repeatedly_resumes_to_the_undisturbed_package(spark, config, undisturbed, job):
    """Killed with all its processes, then its spark-submit by either signal: Spark's JVM is what a cluster or a user
    kills, and Python is its child.
    """
    process = job()
    folder = wait_for_checkpoint(config, 2, process)
    os.killpg(process.pid, signal.SIGSTOP)
    refuse_to_resume(spark, config, folder.name)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(LIMIT)
    assert row_of(spark, config, folder.name)["status"] == "running"
    refuse_other_computations(spark, config, folder.name)
    for number in (signal.SIGTERM, signal.SIGKILL):
        before = find_checkpoint(folder).newest
        process = job("--resume")
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
    assert (figures["run_id"], figures["attempts"]) == (folder.name, 4)
    assert figures["test_auc"] == undisturbed["test_auc"]
    assert_same_package(figures["package"], undisturbed["package"])
    row = row_of(spark, config, folder.name)
    assert (row["status"], row["attempts"], row["rounds"]) == ("ok", 4, 32)
    assert not folder.exists()


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


def start_on_two_executors(job, on_two, tmp_path):
    """Each of one core and a JVM of its own, and with a GPU as far as Spark is concerned."""
    script = tmp_path / "find_gpus"
    script.write_text("""#!/bin/sh\necho '{"name": "gpu", "addresses": ["7"]}'\n""")
    script.chmod(0o755)
    conf = {f"spark.{who}.resource.gpu.amount": "1" for who in ("worker", "executor", "task")}
    conf |= {f"spark.{who}.resource.gpu.discoveryScript": str(script) for who in ("worker", "executor")}
    conf["spark.master"] = "local-cluster[2,1,1024]"
    sets = (f"train.{name}={getattr(on_two.train, name)}" for name in ("ranks", "restarts", "epochs"))
    return job(*(word for each in sets for word in ("--set", each)), program="python", **conf)


def test_killed_ranks_executors_and_sigterm_do_not_change_the_package(spark, on_two, undisturbed_on_two, job, tmp_path):
    """Under Horovod; then the run is resumed under torch, and loses a rank again. Two summands have one order: both
    launchers give the package of ranks in one process.
    """
    known = runs_in(on_two)
    process = start_on_two_executors(job, on_two, tmp_path)
    folder = wait_for_checkpoint(on_two, 3, process, known)
    top = psutil.Process(process.pid)
    first = ranks_below(top)
    assert sorted(first) == ["0", "1"]
    first["1"].kill()
    wait_for_more(on_two, folder, process)
    assert psutil.wait_procs(first.values(), timeout=0)[1] == []
    below = top.children(recursive=True)
    executors = [child for child in below if "CoarseGrainedExecutorBackend" in command_of(child)]
    assert len(executors) == 2
    second = ranks_below(top)
    executors[0].kill()
    # They look for their executor once a second, and train until then.
    assert psutil.wait_procs(second.values(), timeout=LIMIT)[1] == []
    wait_for_more(on_two, folder, process)
    below += ranks_below(top).values()
    os.kill(process.pid, signal.SIGTERM)
    out, log = process.communicate(timeout=LIMIT)
    assert process.returncode == 2, log
    (line,) = out.splitlines()
    reported = json.loads(line)
    assert reported["status"] == "stopped"
    assert "--resume continues from there" in reported["error"]
    assert "Traceback" not in log.rpartition("resumes from checkpoint")[2]
    assert "[rank 1] " in log
    assert log.count("Spark assigned GPU 7 to this rank") == 6
    assert psutil.wait_procs(below, timeout=20)[1] == []
    row = row_of(spark, on_two, folder.name)
    assert (row["status"], row["attempts"]) == ("stopped", 3)

    with killed_in_time(on_two, folder) as ranks:
        figures = resumed(spark, with_values(on_two, {"train.launcher": "torch"}), folder.name)
    assert sorted(ranks) == ["0", "1"]
    assert psutil.wait_procs(ranks.values(), timeout=0)[1] == []
    assert_same_package(figures["package"], undisturbed_on_two["package"])
    row = row_of(spark, on_two, folder.name)
    assert (row["status"], row["attempts"], figures["attempts"]) == ("ok", 5, 5)
    of_rank, of_executor, of_torch = (cause.splitlines()[0] for cause in row["causes"])
    assert of_rank == of_torch == "rank 1 of 2 was lost: killed, out of memory, or gone with its executor"
    # The rank itself is not named where it had done its last round just before.
    assert re.match(r"rank [01] of 2 was lost: |the ranks were lost: ", of_executor)


@contextlib.contextmanager
def killed_in_time(config, folder):
    """Kill rank 1, below this process, once a run has three more checkpoints; gives all ranks, afterwards."""
    ranks = {}

    def kill():
        wait_for_more(config, folder)
        ranks.update(ranks_below(psutil.Process()))
        ranks["1"].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield ranks
    finally:
        killer.join()


def test_resuming_what_cannot_be_resumed_is_a_clear_error(spark, config, undisturbed):
    with pytest.raises(MamdrError, match=f"run {undisturbed['run_id']} has already succeeded"):
        resumed(spark, config, undisturbed["run_id"])
    with pytest.raises(MamdrError, match="has no run nobody"):
        resumed(spark, config, "nobody")
