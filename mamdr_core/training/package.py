"""The model package: a folder with theta_S, every theta_i, the config, vocabulary versions and metrics, under hashes.

manifest.json            size and SHA-256 of every other file; written last
config.yaml              the resolved configuration
pinned.json              Delta versions of what was read, vocabulary sizes, numeric scales
metrics.json             mean AUCs
shared.safetensors       theta_S: "dense" [P] and, where tables are whole on every rank, "table.<name>" [rows, D]
shared-<rank>.safetensors  where they are sharded: "table.<name>" with the rank's rows r, r + W, ... of W ranks
specific-<rank>-<part>.safetensors  theta_i of some of a rank's domains, see `mamdr_core.training.specific_files`
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mamdr_core.engine.parameters import Change, Shared
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.object_store import place_of
from mamdr_core.training.sealed import Facts, check, facts_of, flush_folder, seal, write_texts
from mamdr_core.training.specific_files import SavedSpecific, save_specific
from mamdr_core.training.storage import fetched, staged


def save_rank(folder: str, rank: int, shared: Shared, specific: SpecificStore, scratch: str = "") -> Facts:
    """Write a rank's parameters: rank 0 theta_S, every rank its shards and theta_i. Returns its files' facts."""
    with staged(place_of(folder), scratch) as path:
        return _save_rank(path, rank, shared, specific)


def _save_rank(path: Path, rank: int, shared: Shared, specific: SpecificStore) -> Facts:
    saved = []
    whole = {f"table.{name}": table.cpu() for name, table in shared.tables.items() if isinstance(table, Tensor)}
    parts = {f"table.{name}": table.own.cpu() for name, table in shared.tables.items() if not isinstance(table, Tensor)}
    if rank == 0:
        saved.append("shared.safetensors")
        save_file({"dense": shared.dense.cpu(), **whole}, path / saved[-1])
    if parts:
        saved.append(f"shared-{rank:05d}.safetensors")
        save_file(parts, path / saved[-1])
    saved += save_specific(path, f"specific-{rank:05d}", specific.now())
    return facts_of(path, saved)


def seal_package(folder: str, final: str, saved: Facts, texts: Mapping[str, str]) -> None:
    """Add small text files and the manifest, flush everything to disk, and rename the folder to its final name.

    Args:
        folder: where the ranks wrote; in an object store the final name itself.
        final: the package's path; it appears complete or not at all.
        saved: the ranks' files.
        texts: file name to content.
    """
    with staged(place_of(folder)) as path:
        seal(path, saved | write_texts(path, texts))
    if folder != final:
        path.rename(final)
        flush_folder(path.parent)


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


def load_package(folder: str, device: torch.device | str = "cpu", scratch: str = "") -> Package:
    """Read a package back; every file is checked against the manifest first.

    Args:
        folder: of the package.
        device: where parameters are wanted; those of theta_i are read when they are asked for.
        scratch: folder of a local copy, where it is in an object store; empty: the system's temporary folder.

    Raises:
        MamdrError: no package there, or a file is missing or damaged (it is named).
    """
    with fetched(place_of(folder), "model package", scratch) as path:
        names = check(path, "model package", folder)
        return Package(
            config=(path / "config.yaml").read_text(encoding="utf-8"),
            pinned=json.loads((path / "pinned.json").read_text(encoding="utf-8")),
            metrics=json.loads((path / "metrics.json").read_text(encoding="utf-8")),
            shared=load_shared(path).to(device),
            specific=SavedSpecific([path / name for name in names if name.startswith("specific-")], device),
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
