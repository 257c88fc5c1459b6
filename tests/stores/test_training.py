"""train_mamdr and evaluate on a lake in an object store, against a real server."""

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pyspark.sql import functions as F
from safetensors.torch import load_file

from mamdr_core.config.training import CheckpointSettings
from mamdr_core.lake.core.marker import MARKER
from mamdr_core.lake.core.tables import Lake
from mamdr_core.runtime.errors import StoppedError
from mamdr_core.runtime.object_store import as_path
from mamdr_core.training.driver import train_mamdr
from mamdr_core.training.evaluate import evaluate_package
from mamdr_core.training.files.folders import fetched
from mamdr_core.training.files.manifest import MANIFEST
from tests.stores.conftest import BUCKET, client

pytestmark = pytest.mark.slow
INPUTS = ("users", "items", "domains", "user_features", "item_features", "examples")


@pytest.fixture(scope="module")
def local(trained_config):
    """A checkpoint after each of 24 rounds."""
    checkpoint = CheckpointSettings(rounds=1, minutes=0)
    return replace(trained_config, train=replace(trained_config.train, epochs=6, patience=100, checkpoint=checkpoint))


@pytest.fixture(scope="module")
def remote(spark, local, s3_root, store):
    """The same examples in the store; a Delta table may be copied file by file."""
    lake, s3 = Path(local.lake.root), client(store)
    for file in [lake / MARKER, *(file for name in INPUTS for file in (lake / name).rglob("*"))]:
        if file.is_file():
            s3.upload_file(str(file), BUCKET, f"lake/{file.relative_to(lake)}")
    Lake(spark, f"{s3_root}/lake")  # passes Spark's settings to Python
    return replace(local, lake=replace(local.lake, root=f"{s3_root}/lake"))


@pytest.fixture(scope="module")
def expected(spark, local):
    return train_mamdr(spark, local)


def assert_same_package(found, expected):
    with fetched(as_path(found), "model package") as folder:
        names = {file.name for file in folder.glob("*.safetensors")}
        assert names == {file.name for file in Path(expected).glob("*.safetensors")}
        for name in names:
            theirs, ours = load_file(Path(expected) / name), load_file(folder / name)
            assert theirs.keys() == ours.keys()
            assert all(torch.equal(theirs[tensor], ours[tensor]) for tensor in theirs), name


def test_a_run_stopped_by_sigterm_resumes_from_its_checkpoint_in_the_store(spark, remote, expected):
    checkpoints = as_path(f"{remote.lake.root}/checkpoints")

    def stop():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for run in checkpoints.iterdir():
                if (run / "2" / MANIFEST).exists():
                    return os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop)
    stopper.start()
    with pytest.raises(StoppedError, match="--resume continues from there"):
        train_mamdr(spark, remote)
    stopper.join()
    assert not list(as_path(f"{remote.lake.root}/packages").iterdir())
    figures = train_mamdr(spark, replace(remote, train=replace(remote.train, resume="newest")))
    assert figures["attempts"] == 2
    assert figures["test_auc"] == expected["test_auc"]
    assert figures["package"] == f"{remote.lake.root}/packages/{figures['run_id']}"
    assert_same_package(figures["package"], expected["package"])
    assert list(checkpoints.iterdir()) == []
    row = Lake(spark, remote.lake.root).read("training_runs").where(F.col("run_id") == figures["run_id"]).first()
    assert (row["status"], row["attempts"], row["package"]) == ("ok", 2, figures["package"])
    measured = evaluate_package(spark, remote)
    assert (measured["run_id"], measured["auc"]) == (figures["run_id"], expected["test_auc"])


def test_horovods_ranks_read_and_write_the_store(spark, remote):
    train = replace(remote.train, ranks=2, epochs=1, restarts=0)
    figures = train_mamdr(spark, replace(remote, train=train))
    names = {child.name for child in as_path(figures["package"]).iterdir()}
    assert names >= {
        MANIFEST,
        "shared.safetensors",
        "specific-00000-00000.safetensors",
        "specific-00001-00000.safetensors",
    }
    assert evaluate_package(spark, remote)["auc"] == figures["test_auc"]
