"""A lake of its own for experiments, so that their runs meet no others."""

import shutil
from dataclasses import replace

import pytest

from mamdr_core.config import with_values


@pytest.fixture(scope="module")
def experiment_config(trained_config, tmp_path_factory):
    """The trained lake's examples without its runs, and cells that take a moment."""
    root = tmp_path_factory.mktemp("experiments") / "lake"
    shutil.copytree(trained_config.lake.root, root, ignore=shutil.ignore_patterns("training_runs", "packages"))
    config = replace(trained_config, lake=replace(trained_config.lake, root=str(root)))
    return with_values(config, {"train.epochs": 1, "train.dr.k": 1})
