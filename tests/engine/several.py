"""Columns with bags and a sequence, and an engine over them, that several test modules share."""

import torch
from torch import Tensor

from mamdr_core.config.features import Feature
from mamdr_core.config.models import ModelSettings
from mamdr_core.engine.columns import Columns, offsets_of
from mamdr_core.engine.drawing import initial_shared
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.parameters import Shared
from mamdr_core.models.structures import build_model, declare_inputs
from mamdr_core.models.tables import Inputs
from tests.models.small_structures import small_settings

SIZES = {"user": 9, "item": 7, "tags": 5, "words": 6}
LENGTHS = {"tags": 3, "words": 2, "history": 4}


def several_features(pooling: str, bag_pooling: str = "mean") -> tuple[Feature, ...]:
    """A bag with weights, another that reads its rows, and a sequence that reads the items'; and a numeric feature."""
    return (
        Feature(name="tags", kind="bag", length=3, pooling=bag_pooling, weights="w", size=2),
        Feature(name="history", kind="sequence", length=4, pooling=pooling, table="item"),
        Feature(name="words", kind="bag", length=2, pooling="max" if bag_pooling == "max" else "sum", table="tags"),
        Feature(name="age", kind="numeric"),
    )


def ragged(rows: int, length: int, size: int, generator: torch.Generator) -> Tensor:
    """Ids [rows, length] from 1 to `size`, zeros behind the first few of a row; some rows have none."""
    ids = torch.randint(1, size + 1, (rows, length), generator=generator, dtype=torch.int32)
    count_N1 = torch.randint(0, length + 1, (rows, 1), generator=generator)
    return ids * (torch.arange(length) < count_N1)


def several_columns(counts: list[int], seed: int = 0, double: bool = True, **sizes: int) -> Columns:
    """Random rows of some domains."""
    sizes = SIZES | sizes
    generator = torch.Generator().manual_seed(seed)
    rows = sum(counts)
    domains = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    ids = {
        name: torch.randint(0, sizes[name] + 1, (rows,), generator=generator, dtype=torch.int32)
        for name in ("user", "item")
    }
    of = {"tags": "tags", "words": "tags", "history": "item"}
    several = {name: ragged(rows, length, sizes[of[name]], generator) for name, length in LENGTHS.items()}
    dtype = torch.float64 if double else torch.float32
    return Columns(
        ids={**ids, "domain": (domains + 1).int(), **several},
        numeric=torch.randn(rows, 1, generator=generator).to(dtype),
        labels=torch.randint(0, 2, (rows,), generator=generator).to(dtype),
        offsets=offsets_of(torch.tensor(counts)),
        bag_weights={"tags": torch.rand(rows, 3, generator=generator) * (several["tags"] > 0)},
    )


def several_inputs(settings: ModelSettings, pooling: str, domains: int, bag_pooling: str = "mean") -> Inputs:
    """Inputs for `several_columns`."""
    return declare_inputs(settings, several_features(pooling, bag_pooling), SIZES | {"domain": domains})


def several_engine(
    pooling: str,
    domains: int,
    kind: type[EagerEngine] = EagerEngine,
    bag_pooling: str = "mean",
    name: str = "mlp",
    batch_size: int = 4,
    double: bool = True,
    **options,
) -> tuple[EagerEngine, Shared]:
    """An engine in float64, and theta_S at its start: tables well away from zero."""
    settings = small_settings(name, embedding_dim=3, hidden=(5,))
    inputs = several_inputs(settings, pooling, domains, bag_pooling)
    dtype = torch.float64 if double else torch.float32
    module = build_model(settings, inputs, seed=1).to(dtype)
    shared = initial_shared(module, inputs.tables, seed=2)
    generator = torch.Generator().manual_seed(4)
    tables = {
        name: (values + 0.5 * torch.randn(values.shape, generator=generator)).to(dtype)
        for name, values in shared.tables.items()
    }
    return kind(module, inputs.tables, {}, batch_size, **options), Shared(shared.dense, tables)
