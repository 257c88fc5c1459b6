"""Checks that a package's parameters have the shapes of the model that its configuration declares."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open

from mamdr_core.config.job_config import Config
from mamdr_core.engine.striping import Stripe
from mamdr_core.models.structures import build_model, declare_inputs
from mamdr_core.models.tables import owners
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.object_store import as_path
from mamdr_core.training.files.folders import fetched
from mamdr_core.training.files.integrity import report_unreadable
from mamdr_core.training.files.metadata import CALIBRATION, PackageMetadata, check_metadata

CHECKED = ("shared", CALIBRATION, "specific-")
"""Prefixes of the files whose shapes are checked; the mixed model checks its own when it is loaded."""
Shapes = dict[str, tuple[int, ...]]
FileShapes = dict[str, Shapes]
"""By file, the shapes of its tensors."""


def read_metadata_and_shapes(folder: str, scratch: str = "") -> tuple[PackageMetadata, FileShapes]:
    """As `read_metadata`, with the shapes of the parameters: a package in an object store is fetched once."""
    with fetched(as_path(folder), "model package", scratch) as path:
        found = check_metadata(path)
        with report_unreadable(path, "model package"):
            return found, read_shapes(path, found.files)


def read_shapes(path: Path, files: Iterable[str]) -> FileShapes:
    """Read the shapes of parameters from the headers of a package's files."""
    return {name: _shapes_in(path / name) for name in files if name.startswith(CHECKED)}


def check_shapes(folder: str, config: Config, sizes: Mapping[str, int], found: FileShapes) -> None:
    """Check that theta_S, every theta_i and the calibration of a package have the shapes of its model.

    Args:
        config: its configuration; a custom structure can be imported.
        found: the shapes in its files, from `read_shapes`.

    Raises:
        MamdrError: they have others; the message names the file.
    """
    wanted = _shapes_of(config, sizes, found)
    if differing := [name for name, shapes in wanted.items() if found.get(name) != shapes]:
        raise MamdrError(
            f"package {folder} is damaged: {differing[0]} does not have the shapes of the model in its config.yaml"
        )


def _shapes_in(file: Path) -> Shapes:
    saved = safe_open(file, "pt")
    return {name: tuple(saved.get_slice(name).get_shape()) for name in saved.keys()}  # noqa: SIM118 - not a mapping


def _shapes_of(config: Config, sizes: Mapping[str, int], found: FileShapes) -> FileShapes:
    """By file, the shapes that a model's tensors must have; `found` has the numbers of files, theta_i and knots."""
    inputs = declare_inputs(config.model, config.features, sizes)
    with torch.device("meta"):  # shapes alone
        dense = sum(parameter.numel() for parameter in build_model(config.model, inputs).parameters())
    tables = [table for table in owners(inputs.tables) if table.trainable]
    shards = [name for name in found if name.startswith("shared-")] or ["shared.safetensors"]
    wanted: FileShapes = {"shared.safetensors": {}}
    for rank, name in enumerate(shards):
        wanted[name] = {
            f"table.{each.name}": (Stripe(rank, len(shards)).count(each.rows), each.width) for each in tables
        }
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
