"""A separate lake for experiments, without the runs of other tests."""

import shutil
from dataclasses import replace

import pytest

from mamdr_core.config.job_config import with_values


@pytest.fixture(scope="module")
def experiment_config(trained_config, tmp_path_factory):
    """The examples of the trained lake without its runs, and a configuration with short trials."""
    root = tmp_path_factory.mktemp("experiments") / "lake"
    shutil.copytree(trained_config.lake.root, root, ignore=shutil.ignore_patterns("training_runs", "packages"))
    config = replace(trained_config, lake=replace(trained_config.lake, root=str(root)))
    return with_values(config, {"train.epochs": 1, "train.dr.k": 1})
