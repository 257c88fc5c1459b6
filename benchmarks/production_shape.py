"""The production shape for bench_production.py: configuration, rows by domain, and columns that take no memory."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mamdr_core.config.features import Feature
from mamdr_core.config.job_config import Config, load_config
from mamdr_core.config.training import TrainSettings
from mamdr_core.datasets.world import domain_sizes
from mamdr_core.engine.columns import Columns, offsets_of
from mamdr_core.models.structures import declare_inputs
from mamdr_core.models.tables import Inputs
from mamdr_core.training.stages import Stage, make_stages

CONFIG = Path(__file__).parents[1] / "conf" / "production.yaml"
SET = ("train.method=mamdr", "train.dr.k=5")
Ints = NDArray[np.int64]


def production_config(sets: list[str], domains: int = 0) -> Config:
    """conf/production.yaml with MAMDR and k = 5, and all other settings as they are set or by default.

    Args:
        sets: `a.b=value` each.
        domains: their number, and rows, users and items in proportion; 0: all.
    """
    config = load_config(str(CONFIG), [*SET, *sets])
    log = config.synthetic
    if not domains:
        return config
    part = domains / log.domains
    sizes = {name: max(1, round(part * getattr(log, name))) for name in ("rows", "users", "items")}
    return replace(config, synthetic=replace(log, domains=domains, **sizes))


def with_fixed_vectors(config: Config) -> Config:
    """The same network over fixed vectors of users and items, as wide as the embeddings are."""
    width = config.model.embedding_dim
    vectors = (Feature(name=f"{of}_vector", kind="vector", of=of, size=width, path="-") for of in ("user", "item"))
    return replace(config, features=tuple(vectors), model=replace(config.model, train_ids=False))


def rows_by_domain(config: Config) -> tuple[Ints, Ints]:
    """Training and validation rows by domain [n], their days' share of a domain's rows."""
    log, split = config.synthetic, config.examples.split
    ends = np.cumsum(domain_sizes(log))
    train, before_test = ((day - log.first_day).days for day in (split.val_from, split.test_from))
    first, last = (np.diff(ends * days // log.days, prepend=0) for days in (train, before_test))
    return first, last - first


def sizes_of(config: Config) -> dict[str, int]:
    """Vocabulary sizes."""
    return {"user": config.synthetic.users, "item": config.synthetic.items, "domain": config.synthetic.domains}


def inputs_of(config: Config) -> Inputs:
    """What feeds the network."""
    return declare_inputs(config.model, config.features, sizes_of(config))


def row_bytes(config: Config) -> int:
    """Bytes of a row that ranks send: ids and numbers of four bytes, and the label."""
    inputs = inputs_of(config)
    columns = len({"user", "item", "domain"} | {table.column for table in inputs.tables})
    return 4 * (columns + inputs.numeric + 1)


def stages_of(train: TrainSettings) -> tuple[Stage, Stage]:
    """The stage of theta_S, and that of theta_i."""
    if train.dr.schedule != "settled":
        raise SystemExit("this benchmark knows train.dr.schedule settled alone")
    shared, specific = make_stages(train, train.dr, shared=True, specific=True)
    return shared, specific


def empty_columns(counts_n: Ints) -> Columns:
    """Columns with given rows by domain that have a length and no content: they take no memory."""
    return Columns(
        {}, torch.zeros(1, 0), torch.zeros(1).expand(int(counts_n.sum())), offsets_of(torch.tensor(counts_n))
    )


def print_table(columns: str, rows: list[list[object]]) -> None:
    """Print a Markdown table."""
    print(f"\n| {columns} |\n|{'---|' * (columns.count('|') + 1)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |", flush=True)


def gb(count: float) -> str:
    """Bytes as GB."""
    return f"{count / 1e9:,.3g} GB" if count < 1e12 else f"{count / 1e9:,.0f} GB"
