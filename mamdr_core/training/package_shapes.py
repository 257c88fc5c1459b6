"""Checks that a package's parameters have the shapes of the model that its configuration declares."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from mamdr_core.config.job_config import Config
from mamdr_core.models.structures import build_model, declare_inputs
from mamdr_core.models.tables import owners
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.object_store import as_path
from mamdr_core.training.files.folders import fetched
from mamdr_core.training.files.integrity import report_unreadable
from mamdr_core.training.package import CALIBRATION

CHECKED = ("shared", CALIBRATION, "specific-")
"""Prefixes of the files whose shapes are checked."""
Shapes = dict[str, tuple[int, ...]]


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
        fetched(as_path(folder), "model package", scratch, only=CHECKED) as path,
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
