"""Metadata of a model package, read without torch: whether it is complete and intact, its configuration and figures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.object_store import as_path
from mamdr_core.training.files.folders import fetched
from mamdr_core.training.files.manifest import check_integrity, read_json

MIXED = "mixed-"
"""Prefix of the files of the mixed model."""
CALIBRATION = "calibration.safetensors"


@dataclass(frozen=True)
class PackageMetadata:
    """Metadata of a package.

    Attributes:
        config: YAML of the resolved configuration.
        pinned: Delta versions, vocabulary sizes, numeric scales and, if features have any, bounds of quantiles.
        metrics: figures that training reported.
        files: names of all files.
    """

    config: str
    pinned: dict[str, Any]
    metrics: dict[str, Any]
    files: list[str]

    @property
    def has_mixed(self) -> bool:
        """Whether the package contains a mixed model."""
        return f"{MIXED}shared.safetensors" in self.files


def read_metadata(folder: str) -> PackageMetadata:
    """Check every file of a package against its manifest, and read its metadata.

    Raises:
        MamdrError: there is no package, or a file is missing or damaged; the message names it.
    """
    with fetched(as_path(folder), "model package") as path:
        return check_metadata(path)


def check_metadata(path: Path) -> PackageMetadata:
    """As `read_metadata`, of a folder on a disk."""
    names = check_integrity(path, "model package")
    required = ["config.yaml", "pinned.json", "metrics.json", "shared.safetensors"]
    if any(name.startswith(MIXED) for name in names):
        ranks = max(1, sum(name.startswith(f"{MIXED}rows-") for name in names))
        of_ranks = [f"{group}-{rank:05d}" for rank in range(ranks) for group in ("rows", "domains", "own")]
        required += [f"{MIXED}{name}.safetensors" for name in ("shared", *of_ranks)]
    for name in required:
        if name not in names:
            raise MamdrError(f"model package {path}: its manifest lists no {name}")
    return PackageMetadata(
        config=(path / "config.yaml").read_text(encoding="utf-8", errors="replace"),
        pinned=read_json(path / "pinned.json"),
        metrics=read_json(path / "metrics.json"),
        files=names,
    )
