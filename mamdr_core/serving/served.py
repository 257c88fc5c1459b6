"""A run to serve: its description is sent to every task, which opens the parameters itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from mamdr_core.config.features import Feature
from mamdr_core.config.job_config import Config
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.parameters import Change, Shared
from mamdr_core.engine.platt import Calibration
from mamdr_core.engine.striping import owners_of, places_of
from mamdr_core.mixed.mixed_model import MixedModel
from mamdr_core.models.structures import build_model, declare_inputs
from mamdr_core.runtime.object_store import as_path
from mamdr_core.training.files.folders import fetched
from mamdr_core.training.files.metadata import MIXED
from mamdr_core.training.files.specific_files import SavedSpecific
from mamdr_core.training.package import load_calibration, load_mixed


@dataclass(frozen=True)
class Served:
    """A run to serve.

    Attributes:
        run_id: id of the run.
        folder: folder of its package.
        files: names of the package's files, sorted.
        config: its resolved configuration.
        versions: Delta versions of the tables that it was trained on.
        sizes: vocabulary size by id column.
        numeric: by numeric feature, mean and standard deviation.
        quantiles: by feature with `quantiles`, the bounds of its ranges.
    """

    run_id: str
    folder: str
    files: tuple[str, ...]
    config: Config
    versions: Mapping[str, int]
    sizes: Mapping[str, int]
    numeric: Mapping[str, tuple[float, float]]
    quantiles: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def features(self) -> tuple[Feature, ...]:
        """The declared features."""
        return self.config.features

    def shared(self) -> Shared:
        """theta_S; whole tables are memory-mapped, so all processes of a machine share their pages."""
        with fetched(as_path(self.folder), "model package", only="shared") as folder:
            tables: dict[str, Any] = load_file(folder / "shared.safetensors")
            parts = [load_file(folder / name) for name in self.files if name.startswith("shared-")]
        dense = tables.pop("dense")
        tables |= {key: StripedTable([part[key] for part in parts]) for key in (parts[0] if parts else ())}
        return Shared(dense, {key.removeprefix("table."): table for key, table in tables.items()})

    def specific(self) -> Mapping[int, Change]:
        """theta_i by domain index, each read on access."""
        with fetched(as_path(self.folder), "model package", only="specific-") as folder:
            return SavedSpecific([folder / name for name in self.files if name.startswith("specific-")])

    @property
    def has_mixed(self) -> bool:
        """Whether the run has a mixed model."""
        return any(name.startswith(MIXED) for name in self.files)

    def mixed(self, engine: EagerEngine) -> MixedModel | None:
        """The mixed model; None if the run has none.

        Args:
            engine: from `engine()`.
        """
        with fetched(as_path(self.folder), "model package", only=MIXED) as folder:
            state = load_mixed(folder)
        if state is None:
            return None
        settings, numeric = self.config.train.mixed, len(self.numeric)
        return MixedModel.from_state(settings, engine.tables, engine.frozen, numeric, self.sizes, state)

    def calibration(self) -> Calibration | None:
        """The calibration of logits, including the correction for sampled negatives; None if the run needs none."""
        found, rate = load_calibration(self.folder), self.config.train.negative_rate
        if rate == 1:
            return found
        return (found or Calibration.identity(self.sizes["domain"])).with_negatives_of(rate)

    def engine(self, vectors: Mapping[str, Tensor]) -> EagerEngine:
        """An engine that predicts with the run's structure.

        Args:
            vectors: fixed vectors by feature, see `mamdr_core.serving.opening.read_vectors`.
        """
        inputs = declare_inputs(self.config.model, self.features, self.sizes)
        module = build_model(self.config.model, inputs, self.config.train.seed)
        return EagerEngine(module, inputs.tables, vectors, self.config.train.batch_size)


class StripedTable:
    """A table stored in files of W ranks, row r in the file of rank r mod W, and never concatenated.

    Args:
        parts: the table's rows in each rank's file, in order of ranks.
    """

    def __init__(self, parts: Sequence[Tensor]) -> None:
        self._parts = parts

    def __getitem__(self, ids_U: Tensor) -> Tensor:
        """Rows of the table, [U, D]."""
        ranks = len(self._parts)
        rows_UD = self._parts[0].new_empty(len(ids_U), self._parts[0].shape[1])
        for rank, part in enumerate(self._parts):
            mine_U = owners_of(ids_U, ranks) == rank
            rows_UD[mine_U] = part[places_of(ids_U[mine_U], ranks)]
        return rows_UD
