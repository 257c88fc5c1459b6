"""A trained run opened again: its package, and the rows that it was trained on, at their pinned versions."""

from dataclasses import dataclass

import numpy as np
import torch
import yaml
from pyspark.sql import SparkSession

from mamdr_core.config import Config, parse_config
from mamdr_core.engine.device import choose_device
from mamdr_core.errors import MamdrError
from mamdr_core.lake.tables import Lake
from mamdr_core.shards.loading import Share
from mamdr_core.shards.pinned import PinnedExamples, pin_examples
from mamdr_core.training.package import Package, load_package
from mamdr_core.training.records import find_run


@dataclass(frozen=True)
class Trained:
    """A trained run.

    Attributes:
        lake: that it was recorded in.
        folder: of its package.
        package: its parameters and facts.
        config: its resolved configuration.
        pinned: the examples that it was trained on.
        share: reads them, all domains.
        device: where parameters lie.
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
        """Names the run."""
        return str(self.package.metrics["run_id"])


def open_trained(spark: SparkSession, config: Config, run_id: str, folder: str = "") -> Trained:
    """Open a run by its id, or by the folder of its package.

    Args:
        spark: the session.
        config: names the lake, the device and the bounds of memory.
        run_id: empty: the newest run that ended well.
        folder: overrides `run_id`.

    Raises:
        MamdrError: no such run or package, a damaged one, or one of another lake.
    """
    lake = Lake(spark, config.lake.root)
    folder = folder or str(find_run(lake, run_id)["package"])
    device = choose_device(config.train.device)
    package = load_package(folder, device, config.train.scratch)
    try:
        trained = parse_config(yaml.safe_load(package.config))
    except MamdrError as error:
        raise MamdrError(f"package {folder} is of another version of this code, train anew: {error}") from None
    pinned = pin_examples(spark, config.lake.root, trained.features, package.pinned["versions"])
    if pinned.sizes != package.pinned["sizes"]:
        raise MamdrError(f"package {folder} was trained on another lake than {lake.root}: vocabulary sizes differ")
    everything = np.ones(len(pinned.domain_ids), dtype=np.bool_)
    share = Share(pinned, trained.features, everything, config.train.host_memory, config.train.scratch)
    return Trained(lake, folder, package, trained, pinned, share, device)
