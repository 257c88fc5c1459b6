"""A rank's share of the pinned examples as columns sorted by domain, and the fixed vectors as tables."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mamdr_core.engine.columns import Columns, offsets_of
from mamdr_core.errors import MamdrError
from mamdr_core.features import Feature
from mamdr_core.shards.pinned import PinnedExamples
from mamdr_core.shards.reading import read_columns
from schemas import TABLES, examples_table


def load_columns(pinned: PinnedExamples, features: Sequence[Feature], split: str, own: NDArray[np.bool_]) -> Columns:
    """Read the rows of some domains in a split.

    Args:
        pinned: the version.
        features: the declared features.
        split: train, val or test.
        own: by domain, whether its rows are wanted, [n].

    Returns:
        Rows sorted by domain, inside a domain by key: the same order however they were packed into files.
    """
    owned = frozenset(np.flatnonzero(own).tolist())
    urls = [file.url for file in pinned.files if file.split == split and file.domains & owned]
    id_columns = ["user", "item", "domain", *(f.name for f in features if f.kind == "categorical")]
    names = [*id_columns, "label", "key", "true_probability", *pinned.numeric]
    read = read_columns(urls, examples_table(features), names)
    for name in id_columns:
        if len(read[name]) and read[name].max() >= pinned.sizes[name]:
            raise MamdrError(f"examples have a {name} beyond its {pinned.sizes[name]} values: run build_examples again")
    wanted = own[read["domain"].astype(np.int64)]
    order = np.flatnonzero(wanted)
    order = order[np.lexsort((read["key"][order], read["domain"][order]))]
    counts = np.bincount(read["domain"][order].astype(np.int64), minlength=len(own))
    expected = np.where(own, pinned.counts[split], 0)
    if not np.array_equal(counts, expected):
        raise MamdrError(
            f"read {counts.sum()} {split} rows of examples version {pinned.versions['examples']}, expected "
            f"{expected.sum()}: were its files removed? Run build_examples, or keep versions longer"
        )
    probability = torch.from_numpy(read["true_probability"][order].astype(np.float64))
    return Columns(
        ids={name: torch.from_numpy(read[name][order].astype(np.int32) + 1) for name in id_columns},
        numeric=_standardised(read, order, pinned),
        labels=torch.from_numpy(read["label"][order].astype(np.float32)),
        offsets=offsets_of(torch.from_numpy(counts.astype(np.int64))),
        true_probability=None if probability.isnan().any() or not len(probability) else probability,
    )


def _standardised(read: dict[str, NDArray[np.generic]], order: NDArray[np.int64], pinned: PinnedExamples) -> Tensor:
    """Numeric features with mean 0 and deviation 1 over the train split, missing values at the mean, float32 [N, K]."""
    made = np.zeros((len(order), len(pinned.numeric)))
    for place, (name, (mean, deviation)) in enumerate(pinned.numeric.items()):
        made[:, place] = (read[name][order].astype(np.float64) - mean) / deviation
    return torch.from_numpy(np.nan_to_num(made, posinf=0.0, neginf=0.0).astype(np.float32))


def load_vectors(pinned: PinnedExamples, features: Sequence[Feature]) -> dict[str, Tensor]:
    """The fixed vectors by feature, float32 [vocabulary + 1, size]; zeros for ids without one, and for row 0.

    Raises:
        MamdrError: the lake holds no vectors of that name and length.
    """
    tables = {}
    for feature in features:
        if feature.kind != "vector":
            continue
        table = TABLES[f"{feature.of}_features"]
        read = read_columns(pinned.vector_files[feature.of], table, ["index", "name", "vector"])
        vectors = torch.zeros(pinned.sizes[feature.of] + 1, feature.size)
        mine = np.flatnonzero(read["name"] == feature.name)
        if not len(mine) or {len(vector) for vector in read["vector"][mine]} != {feature.size}:
            raise MamdrError(
                f"{table.name} holds no vectors {feature.name} of length {feature.size}: run build_examples again"
            )
        values = np.stack([np.asarray(vector, dtype=np.float32) for vector in read["vector"][mine]])
        vectors[torch.from_numpy(read["index"][mine].astype(np.int64)) + 1] = torch.from_numpy(values)
        tables[feature.name] = vectors
    return tables
