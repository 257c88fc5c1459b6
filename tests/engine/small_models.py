"""Small columns and models that several test modules share."""

from dataclasses import replace

import torch

from mamdr_core.config.features import Feature
from mamdr_core.config.models import ModelSettings
from mamdr_core.engine.columns import Columns, offsets_of
from mamdr_core.engine.drawing import initial_shared
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.parameters import Shared
from mamdr_core.models.structures import build_model, declare_inputs
from mamdr_core.models.tables import Inputs


def random_columns(counts: list[int], users: int = 9, items: int = 7, seed: int = 0) -> Columns:
    """Random rows of some domains."""
    generator = torch.Generator().manual_seed(seed)
    rows = sum(counts)
    domains = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return Columns(
        ids={
            "user": torch.randint(0, users + 1, (rows,), generator=generator, dtype=torch.int32),
            "item": torch.randint(0, items + 1, (rows,), generator=generator, dtype=torch.int32),
            "domain": (domains + 1).int(),
        },
        numeric=torch.randn(rows, 1, generator=generator),
        labels=torch.randint(0, 2, (rows,), generator=generator).float(),
        offsets=offsets_of(torch.tensor(counts)),
    )


def small_inputs(domains: int, users: int = 9, items: int = 7, width: int = 3) -> Inputs:
    """Tables for `random_columns`, with its numeric feature."""
    sizes = {"user": users, "item": items, "domain": domains}
    return declare_inputs(ModelSettings(embedding_dim=width), (Feature(name="age", kind="numeric"),), sizes)


def small_engine(domains: int, batch_size: int = 4, dropout: float = 0.0) -> tuple[EagerEngine, Shared]:
    """An engine for `random_columns` in float64, and theta_S at its start."""
    inputs = small_inputs(domains)
    module = build_model(ModelSettings(hidden=(5,), dropout=dropout), inputs, seed=1).double()
    engine = EagerEngine(module, inputs.tables, {}, batch_size)
    shared = initial_shared(module, inputs.tables, seed=2)
    return engine, Shared(shared.dense, {name: 50 * table.double() for name, table in shared.tables.items()})


def as_double(columns: Columns) -> Columns:
    """The same rows in float64."""
    columns.numeric, columns.labels = columns.numeric.double(), columns.labels.double()
    return columns


def with_base(columns: Columns, seed: int = 0) -> Columns:
    """The same rows with random base logits."""
    generator = torch.Generator().manual_seed(seed)
    return replace(columns, base_logits=torch.randn(len(columns), generator=generator))
