"""The model package: a folder with theta_S, every theta_i, the config, vocabulary versions and metrics, under hashes.

manifest.json            size and SHA-256 of every other file; written last
config.yaml              the resolved configuration
pinned.json              Delta versions of what was read, vocabulary sizes, numeric scales
metrics.json             mean AUCs
shared.safetensors       theta_S: "dense" [P] and, where tables are whole on every rank, "table.<name>" [rows, D]
shared-<rank>.safetensors  where they are sharded: "table.<name>" with the rank's rows r, r + W, ... of W ranks
specific-<rank>-<part>.safetensors  theta_i of some of a rank's domains, see `mamdr_core.training.specific_files`
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mamdr_core.engine.parameters import Change, Shared
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.errors import MamdrError
from mamdr_core.training.specific_files import SavedSpecific, save_specific

MANIFEST = "manifest.json"


def save_rank(folder: str, rank: int, shared: Shared, specific: SpecificStore) -> tuple[str, ...]:
    """Write a rank's parameters: rank 0 theta_S, every rank its shards and theta_i. Returns the names of the files."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    saved = []
    whole = {f"table.{name}": table.cpu() for name, table in shared.tables.items() if isinstance(table, Tensor)}
    parts = {f"table.{name}": table.own.cpu() for name, table in shared.tables.items() if not isinstance(table, Tensor)}
    if rank == 0:
        saved.append("shared.safetensors")
        save_file({"dense": shared.dense.cpu(), **whole}, Path(folder) / saved[-1])
    if parts:
        saved.append(f"shared-{rank:05d}.safetensors")
        save_file(parts, Path(folder) / saved[-1])
    return *saved, *save_specific(Path(folder), rank, specific)


def seal_package(folder: str, final: str, texts: Mapping[str, str]) -> None:
    """Add small text files and the manifest, flush everything to disk, and rename the folder to its final name.

    Args:
        folder: where the ranks wrote.
        final: the package's path; it appears complete or not at all.
        texts: file name to content.
    """
    path = Path(folder)
    for name, text in texts.items():
        (path / name).write_text(text, encoding="utf-8")
    files = sorted(child for child in path.iterdir() if child.name != MANIFEST)
    listed = {child.name: {"bytes": child.stat().st_size, "sha256": _sha256(child)} for child in files}
    (path / MANIFEST).write_text(json.dumps({"format": 1, "files": listed}, indent=1), encoding="utf-8")
    for child in path.iterdir():
        descriptor = os.open(child, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    path.rename(final)


@dataclass(frozen=True)
class Package:
    """A loaded package.

    Attributes:
        config: the resolved configuration's YAML.
        pinned: Delta versions, vocabulary sizes and numeric scales.
        metrics: what training reported.
        shared: theta_S.
        specific: theta_i by domain index.
    """

    config: str
    pinned: dict[str, Any]
    metrics: dict[str, Any]
    shared: Shared
    specific: Mapping[int, Change]


def load_package(folder: str, device: torch.device | str = "cpu") -> Package:
    """Read a package back; every file is checked against the manifest first.

    Args:
        folder: of the package.
        device: where parameters are wanted; those of theta_i are read when they are asked for.

    Raises:
        MamdrError: no package there, or a file is missing or damaged (it is named).
    """
    path = Path(folder)
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        listed: dict[str, dict[str, Any]] = dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MamdrError(f"{folder} is not a model package: its {MANIFEST} cannot be read ({error})") from None
    for name, expected in listed.items():
        file = path / name
        if file.parent != path or not file.is_file():
            raise MamdrError(f"package {folder}: file {name} is missing")
        if file.stat().st_size != expected["bytes"] or _sha256(file) != expected["sha256"]:
            raise MamdrError(f"package {folder}: file {name} is damaged (its hash is not the manifest's)")
    return Package(
        config=(path / "config.yaml").read_text(encoding="utf-8"),
        pinned=json.loads((path / "pinned.json").read_text(encoding="utf-8")),
        metrics=json.loads((path / "metrics.json").read_text(encoding="utf-8")),
        shared=load_shared(path).to(device),
        specific=SavedSpecific([path / name for name in sorted(listed) if name.startswith("specific-")], device),
    )


def load_shared(path: Path) -> Shared:
    """theta_S as the ranks saved it in a folder, with whole tables."""
    saved = load_file(path / "shared.safetensors")
    parts = [load_file(file) for file in sorted(path.glob("shared-*.safetensors"))]
    for name in parts[0] if parts else ():
        rows = sum(len(part[name]) for part in parts)
        saved[name] = parts[0][name].new_empty(rows, parts[0][name].shape[1])
        for rank, part in enumerate(parts):
            saved[name][rank :: len(parts)] = part[name]
    tables = {name.removeprefix("table."): table for name, table in saved.items() if name.startswith("table.")}
    return Shared(saved["dense"], tables)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
