"""The model package: a folder with theta_S, every theta_i, the config, vocabulary versions and metrics, under hashes.

manifest.json            size and SHA-256 of every other file; written last
config.yaml              the resolved configuration
pinned.json              Delta versions of what was read, vocabulary sizes, numeric scales
metrics.json             mean AUCs
shared.safetensors       theta_S: "dense" [P] and, where tables are whole on every rank, "table.<name>" [rows, D]
shared-<rank>.safetensors  where they are sharded: "table.<name>" with the rank's rows r, r + W, ... of W ranks
specific-<rank>-<part>.safetensors  theta_i of some of a rank's domains, see `mamdr_core.training.specific_files`
"""

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
from mamdr_core.training.intact import check_shards, check_shared, check_specific, read_object
from mamdr_core.training.sealed import Facts, check, facts_of, flush_folder, seal, write_texts
from mamdr_core.training.specific_files import SavedSpecific, save_specific


def save_rank(folder: str, rank: int, shared: Shared, specific: SpecificStore) -> Facts:
    """Write a rank's parameters: rank 0 theta_S, every rank its shards and theta_i. Returns its files' facts."""
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
    saved += save_specific(Path(folder), f"specific-{rank:05d}", specific.now())
    return facts_of(Path(folder), saved)


def seal_package(folder: str, final: str, saved: Facts, texts: Mapping[str, str]) -> None:
    """Add small text files and the manifest, flush everything to disk, and rename the folder to its final name.

    Args:
        folder: where the ranks wrote.
        final: the package's path; it appears complete or not at all.
        saved: the ranks' files.
        texts: file name to content.
    """
    path = Path(folder)
    seal(path, saved | write_texts(path, texts))
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


def load_package(folder: str, device: torch.device | str = "cpu") -> Package:
    """Read a package back; every file is checked against the manifest first.

    Args:
        folder: of the package.
        device: where parameters are wanted; those of theta_i are read when they are asked for.

    Raises:
        MamdrError: no package there, or a file is missing or damaged (it is named).
    """
    path = Path(folder)
    names = check(path, "model package")
    for name in ("config.yaml", "pinned.json", "metrics.json", "shared.safetensors"):
        if name not in names:
            raise MamdrError(f"model package {folder}: its manifest lists no {name}")
    dense = check_shared(path / "shared.safetensors")
    specific = [path / name for name in names if name.startswith("specific-")]
    for file in specific:
        check_specific(file, dense)
    return Package(
        config=(path / "config.yaml").read_text(encoding="utf-8", errors="replace"),
        pinned=read_object(path / "pinned.json"),
        metrics=read_object(path / "metrics.json"),
        shared=load_shared(path).to(device),
        specific=SavedSpecific(specific, device),
    )


def load_shared(path: Path) -> Shared:
    """theta_S as the ranks saved it in a folder, with whole tables.

    Raises:
        MamdrError: the ranks' shards of a table do not make a whole.
    """
    saved = load_file(path / "shared.safetensors")
    files = sorted(path.glob("shared-*.safetensors"))
    check_shards(files)
    parts = [load_file(file) for file in files]
    for name in parts[0] if parts else ():
        rows = sum(len(part[name]) for part in parts)
        saved[name] = parts[0][name].new_empty(rows, parts[0][name].shape[1])
        for rank, part in enumerate(parts):
            saved[name][rank :: len(parts)] = part[name]
    tables = {name.removeprefix("table."): table for name, table in saved.items() if name.startswith("table.")}
    return Shared(saved["dense"], tables)
