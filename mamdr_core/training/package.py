"""The model package: a folder with theta_S, every theta_i, config, vocabulary versions and metrics, and a manifest.

manifest.json            size and SHA-256 of every other file; written last
config.yaml              the resolved configuration
pinned.json              Delta versions of what was read, vocabulary sizes, numeric scales, bounds of quantiles
metrics.json             mean AUCs
shared.safetensors       theta_S: "dense" [P] and, if tables are replicated, "table.<name>" [rows, D]
shared-<rank>.safetensors  if tables are sharded: "table.<name>" with rows r, r + W, ... of rank r of W ranks
mixed-*.safetensors      the mixed model, if there is one, see `mamdr_core.training.files.state_files`
calibration.safetensors  if the run is calibrated: "slope" and "shift" of logits, [n + 1], row 0 for unknown domains,
                         and "knots" and "values" [J] of the curve that is applied before, if there is one
specific-<rank>-<part>.safetensors  theta_i of some of a rank's domains, see `mamdr_core.training.files.specific_files`
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mamdr_core.config.mixed import MixedSettings
from mamdr_core.engine.columns import Columns
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.parameters import Change, Shared
from mamdr_core.engine.platt import Calibration
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.engine.striping import WHOLE, Stripe
from mamdr_core.mixed.mixed_model import MixedModel
from mamdr_core.runtime.object_store import as_path
from mamdr_core.runtime.stateful import State, Stateful
from mamdr_core.training.files.folders import fetched, staged
from mamdr_core.training.files.integrity import report_unreadable
from mamdr_core.training.files.manifest import FileHashes, flush_folder, hash_files, write_manifest, write_texts
from mamdr_core.training.files.metadata import CALIBRATION, MIXED, check_metadata
from mamdr_core.training.files.specific_files import SavedSpecific, save_specific
from mamdr_core.training.files.state_files import read_rows, read_state, write_state
from mamdr_core.training.package_shapes import FileShapes, read_shapes


def save_rank(
    folder: str,
    rank: int,
    shared: Shared,
    specific: SpecificStore,
    mixed: Stateful | None = None,
    scratch: str = "",
    calibration: Calibration | None = None,
) -> FileHashes:
    """Write a rank's parameters, its shards of tables, theta_i and part of the mixed model; returns the files' hashes.

    Rank 0 also writes theta_S and the calibration of all domains.
    """
    with staged(as_path(folder), scratch) as path:
        tables = {f"table.{name}": table for name, table in shared.tables.items()}
        whole = {name: table.cpu() for name, table in tables.items() if isinstance(table, Tensor)}
        parts = {name: table.own.cpu() for name, table in tables.items() if not isinstance(table, Tensor)}
        saved = []
        if rank == 0:
            saved.append("shared.safetensors")
            save_file({"dense": shared.dense.cpu(), **whole}, path / saved[-1])
        if parts:
            saved.append(f"shared-{rank:05d}.safetensors")
            save_file(parts, path / saved[-1])
        saved += save_specific(path, f"specific-{rank:05d}", specific.now())
        if mixed:
            saved += write_state(path, rank, mixed.state_dict(), MIXED)
        if calibration and rank == 0:
            saved.append(CALIBRATION)
            save_file({name: each.contiguous() for name, each in calibration.tensors().items()}, path / CALIBRATION)
        return hash_files(path, saved)


def publish_package(folder: str, final: str, saved: FileHashes, texts: Mapping[str, str]) -> None:
    """Add text files and the manifest, flush everything to disk, and rename the folder to its final name.

    Args:
        folder: where the ranks wrote; in an object store, the final path itself.
        final: path of the package, which appears complete or not at all.
        saved: hashes of the files of the ranks.
        texts: file name to content.
    """
    with staged(as_path(folder)) as path:
        write_manifest(path, saved | write_texts(path, texts))
    if folder != final:
        path.rename(final)
        flush_folder(path.parent)


@dataclass(frozen=True)
class Package:
    """A loaded package.

    Attributes:
        config, pinned, metrics: see `PackageMetadata`.
        shapes: see `check_shapes`.
        shared: theta_S.
        specific: theta_i by domain index.
        mixed: state of the mixed model; None: there is none.
        calibration: calibration of the logits; None: there is none.

    Example:
        ``package.with_mixed_logits(columns, engine, trained.config.train.mixed)`` before anything is predicted.
    """

    config: str
    pinned: dict[str, Any]
    metrics: dict[str, Any]
    shapes: FileShapes
    shared: Shared
    specific: Mapping[int, Change]
    mixed: State | None = None
    calibration: Calibration | None = None

    def with_mixed_logits(
        self, columns: Columns, engine: EagerEngine, settings: MixedSettings, left_out: bool = False
    ) -> Columns:
        """Columns with the mixed model's predictions as base logits, or unchanged columns if there is no mixed model.

        Args:
            engine: engine of the package's model, with the tables and the fixed vectors.
            left_out: whether these are the rows that the model was fitted to: each is predicted without itself.

        Raises:
            MamdrError: the saved state is of another model.
        """
        if self.mixed is None:
            return columns
        numeric, sizes = len(self.pinned["numeric"]), self.pinned["sizes"]
        model = MixedModel.from_state(settings, engine.tables, engine.frozen, numeric, sizes, self.mixed)
        return model.with_left_out_logits(columns) if left_out else model.with_base_logits(columns)


def load_package(folder: str, device: torch.device | str = "cpu", scratch: str = "") -> Package:
    """Load a package after checking every file against the manifest.

    Args:
        device: device of the parameters; theta_i are read on demand.
        scratch: folder for a local copy if the package is in an object store; empty: the system's temporary folder.

    Raises:
        MamdrError: there is no package, or a file is missing or damaged; the message names it.
    """
    with fetched(as_path(folder), "model package", scratch) as path:
        found = check_metadata(path)
        specific = [path / name for name in found.files if name.startswith("specific-")]
        with report_unreadable(path, "model package"):
            shared = load_shared(path)
            return Package(
                config=found.config,
                pinned=found.pinned,
                metrics=found.metrics,
                shapes=read_shapes(path, found.files),
                shared=shared.to(device),
                specific=SavedSpecific(specific, device, len(shared.dense)),
                mixed=load_mixed(path),
                calibration=_read_calibration(path),
            )


def load_mixed(path: Path, rank: int = 0, ranks: int = 1, owned_n: Tensor | None = None) -> State | None:
    """Read the state of a package's mixed model for one rank; None: the package has none.

    Args:
        owned_n: mask of the domains that the rank owns, bool [n]; None: all.
    """
    if not (path / f"{MIXED}shared.safetensors").is_file():
        return None
    return read_state(path, rank, ranks, owned_n, prefix=MIXED)


def load_calibration(folder: str, scratch: str = "") -> Calibration | None:
    """Load the calibration of a package; None: it has none. For `scratch` see `load_package`."""
    with fetched(as_path(folder), "model package", scratch, only=CALIBRATION) as path:
        return _read_calibration(path)


def _read_calibration(path: Path) -> Calibration | None:
    file = path / CALIBRATION
    return Calibration.of(load_file(file)) if file.is_file() else None


def load_shared(path: Path) -> Shared:
    """Load theta_S of a package, with whole tables."""
    saved = SavedShared(path)
    return Shared(saved.dense, {name: saved.rows(name) for name in saved.tables})


class SavedShared:
    """theta_S of a package, with the names of its tables in `tables`; their rows are read on demand."""

    def __init__(self, path: Path) -> None:
        self._first = safe_open(path / "shared.safetensors", "pt")
        parts = [safe_open(file, "pt") for file in sorted(path.glob("shared-*.safetensors"))]
        self._parts = dict.fromkeys(parts[0].keys() if parts else (), parts)
        self._parts |= {key: [self._first] for key in self._first.keys() if key != "dense"}  # noqa: SIM118 - not a mapping
        self.tables = [key.removeprefix("table.") for key in self._parts]

    @property
    def dense(self) -> Tensor:
        """Dense parameters [P]."""
        dense: Tensor = self._first.get_tensor("dense")
        return dense

    def rows(self, table: str, stripe: Stripe = WHOLE) -> Tensor:
        """The rows of a table that a rank owns, see `read_rows`."""
        slices = [part.get_slice(f"table.{table}") for part in self._parts[f"table.{table}"]]
        return read_rows(slices, stripe)
