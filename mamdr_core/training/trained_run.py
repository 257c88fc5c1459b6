"""Opens a trained run: its package, and the pinned version of the examples that it was trained on."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyspark.sql import SparkSession
from safetensors import safe_open

from mamdr_core.config.job_config import Config, parse_config
from mamdr_core.config.yaml_values import one_line, parse_yaml
from mamdr_core.lake.core.tables import Lake
from mamdr_core.learning.methods import find_method
from mamdr_core.models.structures import build_model, declare_inputs
from mamdr_core.models.tables import owners
from mamdr_core.parallel.collective import SingleProcess
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.object_store import place_of
from mamdr_core.runtime.plugins import is_plugin
from mamdr_core.shards.loading import Share
from mamdr_core.shards.pinned import PinnedExamples, pin_examples
from mamdr_core.training.choices import choose_device
from mamdr_core.training.files.folders import fetched
from mamdr_core.training.files.integrity import MetricsJson, PinnedJson, report_unreadable, validate_json
from mamdr_core.training.own_code import check_served
from mamdr_core.training.package import CALIBRATION, Package, load_package
from mamdr_core.training.records import find_run

CHECKED = ("shared", CALIBRATION, "specific-")
"""Prefixes of the files whose shapes are checked."""
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class TrainedRun:
    """A trained run.

    Attributes:
        lake: the lake in which it is recorded.
        folder: folder of its package.
        package: its parameters and metadata.
        config: its resolved configuration.
        pinned: the examples on which it was trained.
        share: loader of these examples, for all domains.
        device: device of the parameters.
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


def open_trained(spark: SparkSession, config: Config, run_id: str, folder: str = "") -> TrainedRun:
    """Open a run by its id or by the folder of its package.

    Args:
        spark: the session.
        config: configuration of the job, with the lake, device and memory limits.
        run_id: id of the run, see `find_run`; empty: the newest successful run.
        folder: folder of a package; overrides `run_id`.

    Raises:
        MamdrError: no such run or package, a damaged package, or one of another lake, model or version of the code.
    """
    lake = Lake(spark, config.lake)
    folder = folder or str(find_run(lake, run_id)["package"])
    device = choose_device(config.train.device, SingleProcess())
    package = load_package(folder, device, config.train.scratch)
    trained = config_of(package.config, folder)
    facts = validate_json(PinnedJson, package.pinned, f"{folder}/pinned.json")
    validate_json(MetricsJson, package.metrics, f"{folder}/metrics.json")
    try:
        pinned = pin_examples(spark, config.lake, trained.features, facts.versions)
    except (KeyError, MamdrError) as error:
        raise MamdrError(
            f"package {folder} was trained on versions that {lake.root} does not have ({one_line(error)[:200]})"
        ) from None
    if pinned.sizes != facts.sizes:
        raise MamdrError(f"package {folder} was trained on another lake than {lake.root}: vocabulary sizes differ")
    check_served(trained, package.metrics, folder)
    check_shapes(folder, trained, facts.sizes, config.train.scratch)
    check_mixed(trained, package.metrics, package.mixed is not None, folder)
    if any(not 0 <= domain < len(pinned.domain_ids) for domain in package.specific):
        raise MamdrError(f"package {folder} is damaged: it has theta_i of a domain beyond {len(pinned.domain_ids)}")
    # If theta_S is that of the parent, so are the scales of numeric features.
    pinned = replace(pinned, numeric=facts.numeric)
    everything = np.ones(len(pinned.domain_ids), dtype=np.bool_)
    train = config.train
    share = Share(pinned, trained.features, everything, train.host_memory, train.scratch, train.reader)
    return TrainedRun(lake, folder, package, trained, pinned, share, device)


def config_of(text: str, folder: str) -> Config:
    """Parse the resolved configuration of a package.

    Raises:
        MamdrError: it is not valid for this version of the code.
    """
    try:
        return parse_config(parse_yaml(text, "config.yaml"))
    except MamdrError as error:
        raise MamdrError(f"package {folder} is from another version of this code, train again: {error}") from None


def check_shapes(folder: str, config: Config, sizes: Mapping[str, int], scratch: str = "") -> None:
    """Check that theta_S, every theta_i and the calibration of a package have the shapes of its model.

    Args:
        folder: folder of the package, whose hashes have been checked.
        config: its configuration; a custom structure can be imported.
        sizes: its vocabulary sizes.
        scratch: see `load_package`.

    Raises:
        MamdrError: they have others; the message names the file.
    """
    with (
        fetched(place_of(folder), "model package", scratch, only=CHECKED) as path,
        report_unreadable(path, "model package"),
    ):
        found = {file.name: _shapes_in(file) for prefix in CHECKED for file in sorted(path.glob(f"{prefix}*"))}
    wanted = _shapes_of(config, sizes, found)
    if differing := [name for name, shapes in wanted.items() if found.get(name) != shapes]:
        raise MamdrError(
            f"package {folder} is damaged: {differing[0]} does not have the shapes of the model in its config.yaml"
        )


def _shapes_in(file: Path) -> Shapes:
    saved = safe_open(file, "pt")
    return {name: tuple(saved.get_slice(name).get_shape()) for name in saved.keys()}  # noqa: SIM118 - not a mapping


def _shapes_of(config: Config, sizes: Mapping[str, int], found: Mapping[str, Shapes]) -> dict[str, Shapes]:
    """By file, the shapes that a model's tensors must have; `found` has the numbers of files, theta_i and knots."""
    inputs = declare_inputs(config.model, config.features, sizes)
    with torch.device("meta"):  # shapes alone
        dense = sum(parameter.numel() for parameter in build_model(config.model, inputs).parameters())
    tables = [table for table in owners(inputs.tables) if table.trainable]
    shards = [name for name in found if name.startswith("shared-")] or ["shared.safetensors"]
    wanted: dict[str, Shapes] = {"shared.safetensors": {}}
    for rank, name in enumerate(shards):
        wanted[name] = {f"table.{each.name}": (len(range(rank, each.rows, len(shards))), each.width) for each in tables}
    wanted["shared.safetensors"]["dense"] = (dense,)
    for name, shapes in found.items():
        if name == CALIBRATION:
            knots = {curve: shapes["knots"] for curve in ("knots", "values") if "knots" in shapes}
            wanted[name] = {"slope": (sizes["domain"] + 1,), "shift": (sizes["domain"] + 1,), **knots}
        elif name.startswith("specific-"):
            domains = shapes.get("domains", ())[:1]
            wanted[name] = {"domains": domains, "dense": (*domains, dense)}
            for table in tables:
                if rows := shapes.get(f"{table.name}.owner", ())[:1]:
                    wanted[name] |= {f"{table.name}.{of}": rows for of in ("owner", "ids")}
                    wanted[name][f"{table.name}.values"] = (*rows, table.width)
    return wanted


def check_mixed(config: Config, metrics: Mapping[str, Any], found: bool, folder: str) -> None:
    """Check that a package has a mixed model if and only if its method creates one and the run kept it.

    Args:
        config, metrics: configuration and metrics of the package.
        found: whether the package has files of a mixed model.
        folder: folder of the package, for error messages.

    Raises:
        MamdrError: a mixed model is missing or unexpected.
    """
    kind = metrics.get("specific_kind")
    # A method that is a plugin need not be installed where the run is served.
    mixed = kind == "mixed" if is_plugin(config.train.method) else find_method(config.train.method).mixed
    if (mixed and kind != "none") != found:
        raise MamdrError(
            f"package {folder} is damaged: it has {'a' if found else 'no'} mixed model, which is not what its run "
            f"of {config.train.method} made"
        )
