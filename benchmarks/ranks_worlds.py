"""The logs of bench_ranks.py: synthetic logs as columns in memory, drawn and split without Spark."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from recipe_sets import config_of
from torch import Tensor

from mamdr_core.config.job_config import Config, with_values
from mamdr_core.datasets.world import DAY, LogRows, draw_rows, make_world, published_vectors
from mamdr_core.engine.columns import Columns, offsets_of
from mamdr_core.engine.hashing import derive_seed, splitmix64
from mamdr_core.models.structures import declare_inputs
from mamdr_core.models.tables import Inputs

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Kind:
    """A kind of world.

    Attributes:
        data_set: of recipe_sets.
        scale: share of the rows, domains, users and items of that set.
        values: config keys over those of the set.
    """

    data_set: str
    scale: float = 1.0
    values: Mapping[str, Any] = field(default_factory=dict)


def _conflict(conflict: float, epochs: int) -> Kind:
    return Kind(f"conflict_{conflict:g}", values={"synthetic.rows": 100_000, "train.epochs": epochs})


KINDS: dict[str, Kind] = {
    "conflict_0.5": _conflict(0.5, 3),
    "conflict_1": _conflict(1, 12),
    # 69 domains of 6,079 training rows on average. One pass, as in the set.
    "production": Kind("production", 0.1, {"train.epochs": 1}),
}


@dataclass(frozen=True)
class Log:
    """A world's log.

    Attributes:
        config: of a run on it.
        columns: by split.
        frozen: fixed vectors by table.
    """

    config: Config
    columns: dict[str, Columns]
    frozen: dict[str, Tensor]

    @property
    def inputs(self) -> Inputs:
        """What feeds the network."""
        log = self.config.synthetic
        sizes = {"user": log.users, "item": log.items, "domain": log.domains}
        return declare_inputs(self.config.model, self.config.features, sizes)


def draw_log(name: str, world: int, values: Mapping[str, Any] | None = None) -> Log:
    """A log, the same for the same arguments.

    Args:
        name: of `KINDS`.
        world: seed of the generator and of the split.
        values: config keys over those of the kind.
    """
    kind = KINDS[name]
    config = config_of(kind.data_set, world, kind.scale, Path("-"))
    config = with_values(config, {**kind.values, **(values or {})})
    settings = config.synthetic
    drawn = make_world(settings)
    rows = draw_rows(drawn, np.arange(int(drawn.offsets[-1])))
    part_N = _days_split(config, rows) if config.examples.split.kind == "time" else _random_split(config, rows)
    columns = {split: _columns(rows, part_N == number, settings.domains) for number, split in enumerate(SPLITS)}
    frozen = {}
    for feature in config.features:
        vectors = published_vectors(settings, feature.of, np.arange(getattr(settings, f"{feature.of}s")))
        frozen[feature.name] = torch.from_numpy(np.vstack([np.zeros_like(vectors[:1]), vectors]))
    return Log(config, columns, frozen)


def _days_split(config: Config, rows: LogRows) -> NDArray[np.int64]:
    split, first = config.examples.split, config.synthetic.first_day
    day_N = (rows.time - np.datetime64(first, "us").astype(np.int64)) // DAY
    return np.searchsorted([(each - first).days for each in (split.val_from, split.test_from)], day_N, side="right")


def _random_split(config: Config, rows: LogRows) -> NDArray[np.int64]:
    """Number of each row's split; a pair of user and item in a domain is in one split only."""
    key_N = np.full(len(rows.user), derive_seed(config.examples.seed, 1), dtype=np.uint64)
    for ids_N in (rows.user, rows.item, rows.domain):
        key_N = splitmix64(key_N ^ ids_N.astype(np.uint64))
    ends = np.cumsum(config.examples.split.fractions)[:-1]
    return np.searchsorted(ends, key_N / 2.0**64, side="right")


def _columns(rows: LogRows, chosen_N: NDArray[np.bool_], domains: int) -> Columns:
    part = np.flatnonzero(chosen_N)
    order = part[np.argsort(rows.domain[part], kind="stable")]
    ids = {
        name: torch.from_numpy((getattr(rows, name)[order] + 1).astype(np.int32)) for name in ("user", "item", "domain")
    }
    counts = torch.from_numpy(np.bincount(rows.domain[order], minlength=domains))
    labels = torch.from_numpy(rows.label[order].astype(np.float32))
    return Columns(ids, torch.zeros(len(order), 0), labels, offsets_of(counts))
