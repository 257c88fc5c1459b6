"""Opens a trained run: its package, and the pinned version of the examples that it was trained on."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from pyspark.sql import SparkSession

from mamdr_core.config.job_config import Config, parse_config
from mamdr_core.config.yaml_values import one_line, parse_yaml
from mamdr_core.lake.champion import find_run
from mamdr_core.lake.core.tables import Lake
from mamdr_core.learning.methods import find_method
from mamdr_core.parallel.collective import SingleProcess
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.plugins import is_plugin
from mamdr_core.shards.loading import Share
from mamdr_core.shards.pinned import PinnedExamples, pin_examples
from mamdr_core.training.choices import choose_device
from mamdr_core.training.own_code import check_served
from mamdr_core.training.package import Package, load_package
from mamdr_core.training.package_shapes import check_shapes


@dataclass(frozen=True)
class TrainedRun:
    """A trained run.

    Attributes:
        folder: folder of its package.
        pinned: the examples on which it was trained.
        share: loader of these examples, for all domains.
    """

    lake: Lake
    folder: str
    package: Package
    config: Config
    pinned: PinnedExamples
    share: Share
    device: torch.device

    @property
    def run_id(self) -> str:
        """Id of the run."""
        return str(self.package.metrics["run_id"])


def open_trained(
    spark: SparkSession, config: Config, run_id: str, splits: Sequence[str], folder: str = ""
) -> TrainedRun:
    """Open a run by its id or by the folder of its package.

    Args:
        config: configuration of the job, with the lake, device and memory limits.
        run_id: id of the run, see `find_run`; empty: the newest successful run.
        splits: the splits that `TrainedRun.share` can read.
        folder: folder of a package; overrides `run_id`.

    Raises:
        MamdrError: no such run or package, a damaged package, or one of another lake, model or version of the code.
    """
    lake = Lake(spark, config.lake)
    folder = folder or str(find_run(lake, run_id)["package"])
    device = choose_device(config.train.device, SingleProcess())
    package = load_package(folder, device, config.train.scratch)
    trained = config_of(package.config, folder)
    facts = package.pinned
    _check_facts(package, folder)
    try:
        pinned = pin_examples(spark, config.lake, trained.features, facts["versions"], splits=splits)
    except (KeyError, MamdrError) as error:
        raise MamdrError(
            f"package {folder} was trained on versions that {lake.root} does not have ({one_line(error)[:200]})"
        ) from None
    if pinned.sizes != facts["sizes"]:
        raise MamdrError(f"package {folder} was trained on another lake than {lake.root}: vocabulary sizes differ")
    check_served(trained, package.metrics, folder)
    check_shapes(folder, trained, facts["sizes"], package.shapes)
    check_mixed(trained, package.metrics, package.mixed is not None, folder)
    if any(not 0 <= domain < len(pinned.domain_ids) for domain in package.specific):
        raise MamdrError(f"package {folder} is damaged: it has theta_i of a domain beyond {len(pinned.domain_ids)}")
    # If theta_S is that of the parent, so are the scales of numeric features.
    numeric = {name: (float(mean), float(scale)) for name, (mean, scale) in facts["numeric"].items()}
    pinned = replace(pinned, numeric=numeric)
    everything = np.ones(len(pinned.domain_ids), dtype=np.bool_)
    train = config.train
    share = Share(pinned, trained.features, everything, train.host_memory, train.scratch, train.reader)
    return TrainedRun(lake, folder, package, trained, pinned, share, device)


def _check_facts(package: Package, folder: str) -> None:
    """Check what a folder that a user may have named must contain, and that its run's id is safe in a path."""
    for name in ("versions", "sizes", "numeric"):
        if not isinstance(package.pinned.get(name), dict):
            raise MamdrError(f"{folder}/pinned.json is damaged: it has no {name}")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", str(package.metrics.get("run_id", ""))):
        raise MamdrError(f"{folder}/metrics.json is damaged: run_id must consist of letters, digits, _ and -")


def config_of(text: str, folder: str) -> Config:
    """Parse the resolved configuration of a package.

    Raises:
        MamdrError: it is not valid for this version of the code.
    """
    try:
        return parse_config(parse_yaml(text, "config.yaml"))
    except MamdrError as error:
        raise MamdrError(f"package {folder} is from another version of this code, train again: {error}") from None


def check_mixed(config: Config, metrics: Mapping[str, Any], found: bool, folder: str) -> None:
    """Check that a package has a mixed model, `found`, if and only if its method creates one and the run kept it.

    Raises:
        MamdrError: a mixed model is missing or unexpected.
    """
    kind = metrics.get("specific_kind")
    # A method that is a plugin need not be installed where the run is served.
    mixed = kind == "mixed" if is_plugin(config.train.method) else find_method(config.train.method).mixed
    if (mixed and kind != "none") != found:
        raise MamdrError(
            f"package {folder} is damaged: it has {'a' if found else 'no'} mixed model, and its method "
            f"{config.train.method} makes {'none' if found else 'one'}"
        )
