"""Small structures over random rows with every kind of feature."""

import torch

from mamdr_core.config.features import Feature
from mamdr_core.config.models import (
    AutoIntSettings,
    CGCSettings,
    MMOESettings,
    ModelSettings,
    PLESettings,
    RAWSettings,
    SharedBottomSettings,
    STARSettings,
)
from mamdr_core.engine.columns import Columns, offsets_of
from mamdr_core.engine.drawing import initial_shared
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.parameters import Shared
from mamdr_core.models.structures import build_model, declare_inputs
from mamdr_core.models.tables import Inputs

FEATURES = (
    Feature(name="type", kind="numeric"),  # also the name of a module's method
    Feature(name="age", kind="numeric"),
    Feature(name="city", kind="categorical", size=2),
    Feature(name="values", kind="vector", of="user", size=5, path="x"),
)
USERS, ITEMS, CITIES = 9, 7, 4
SMALL_OPTIONS = {
    "masknet": {"blocks": 2, "width": 4},
    "pepnet": {"gate": (3,)},
    "hamur": {"adapters": 1, "rank": 2, "width": 3, "hyper": (4,)},
    "m3oe": {"representation": 5, "shared_experts": 2, "domain_experts": 3, "expert_hidden": (4,), "tower": (3,)},
}
MULTI_DOMAIN = ("shared_bottom", "mmoe", "cgc", "ple", "star")
PARTITIONED = "star partitioned"
"""STAR with statistics by domain, for `small_settings`."""


def small_settings(name: str, dropout: float = 0.0, **changes) -> ModelSettings:
    """Few and narrow layers of every structure; PLE has two levels."""
    name, _, normalization = name.partition(" ")
    narrow = {"shared_experts": 2, "specific_experts": 3, "expert_hidden": (4,), "gate": (3,), "tower": (3,)}
    return ModelSettings(
        **{
            "name": name,
            "options": SMALL_OPTIONS.get(name, {}),
            "embedding_dim": 4,
            "hidden": (5, 3),
            "dropout": dropout,
            "autoint": AutoIntSettings(heads=2, layers=2, width=3),
            "shared_bottom": SharedBottomSettings(hidden=(5, 4), tower=(3,)),
            "mmoe": MMOESettings(experts=2, expert_hidden=(5, 4), gate=(3,), tower=(3,)),
            "cgc": CGCSettings(**narrow),
            "ple": PLESettings(**narrow, levels=2),
            "star": STARSettings(auxiliary=(3,), normalization=normalization or "layer"),
            "raw": RAWSettings(gate=(3,)),
            **changes,
        }
    )


def small_inputs(settings: ModelSettings, domains: int) -> Inputs:
    """Inputs over `FEATURES`."""
    return declare_inputs(settings, FEATURES, {"user": USERS, "item": ITEMS, "domain": domains, "city": CITIES})


def featured_columns(counts: list[int], seed: int = 0) -> Columns:
    """Random rows of some domains with the columns of `FEATURES`, in float64."""
    generator = torch.Generator().manual_seed(seed)
    rows = sum(counts)
    domains = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    sizes = {"user": USERS, "item": ITEMS, "city": CITIES}
    ids = {
        name: torch.randint(0, size + 1, (rows,), generator=generator, dtype=torch.int32)
        for name, size in sizes.items()
    }
    return Columns(
        ids={**ids, "domain": (domains + 1).int()},
        numeric=torch.randn(rows, 2, generator=generator).double(),
        labels=torch.randint(0, 2, (rows,), generator=generator).double(),
        offsets=offsets_of(torch.tensor(counts)),
    )


def small_engine(
    settings: ModelSettings, domains: int, engine: type[EagerEngine] = EagerEngine, batch_size: int = 4, **options
) -> tuple[EagerEngine, Shared]:
    """An engine over `featured_columns` in float64, and theta_S at its start: tables well away from zero."""
    inputs = small_inputs(settings, domains)
    module = build_model(settings, inputs, seed=1).double()
    vectors = torch.randn(USERS + 1, 5, generator=torch.Generator().manual_seed(3)).double()
    shared = initial_shared(module, inputs.tables, seed=2)
    generator = torch.Generator().manual_seed(4)
    tables = {
        name: (values + 0.3 * torch.randn(values.shape, generator=generator)).double()
        for name, values in shared.tables.items()
    }
    tables |= {table.name: tables[table.name].abs() for table in inputs.tables if table.measured}
    return engine(module, inputs.tables, {"values": vectors}, batch_size, **options), Shared(shared.dense, tables)
