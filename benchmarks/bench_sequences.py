"""Rows per second of DN's rounds with ids alone, and with two bags and a sequence; without reading.

Ids alone are user, item, domain and two categorical features. The other cases add two bags of at most 5 ids and a
sequence of at most 50 items, which reads the items' rows and is pooled by mean or by attention. Runs of all cases
alternate; figures are medians. Lengths are uniform from 0 to the maximum.

    python benchmarks/bench_sequences.py [--rows 120000] [--repeats 5] [--profile]
"""

import argparse
import statistics
import time
from itertools import pairwise

import torch
from machine import machine
from torch import Tensor

from mamdr_core.config.features import Feature
from mamdr_core.config.models import ModelSettings
from mamdr_core.engine.columns import Columns, Visit, offsets_of
from mamdr_core.engine.drawing import initial_shared
from mamdr_core.engine.fast import FastEngine
from mamdr_core.engine.parameters import Shared, Theta
from mamdr_core.models.structures import build_model, declare_inputs

SIZES = {"user": 50_000, "item": 20_000, "city": 300, "brand": 2000, "tags": 1000, "words": 5000}
LENGTHS = {"tags": 5, "words": 5, "history": 50}
DOMAINS = 20
IDS = tuple(Feature(name=name, kind="categorical") for name in ("city", "brand"))
BAGS = tuple(Feature(name=name, kind="bag", length=LENGTHS[name]) for name in ("tags", "words"))


def features_of(pooling: str) -> tuple[Feature, ...]:
    """Ids alone, or with bags and a sequence pooled in that way."""
    if pooling == "ids alone":
        return IDS
    history = Feature(name="history", kind="sequence", length=LENGTHS["history"], pooling=pooling, table="item")
    return (*IDS, *BAGS, history)


def draw(rows: int, size: int, length: int, random: torch.Generator) -> Tensor:
    """Ids as popular as in a log: their logarithms are uniform; behind a row's last one there are zeros."""
    ids = torch.exp(torch.rand(rows, length, generator=random) * torch.tensor(float(size)).log()).int()
    most = torch.randint(0, length + 1, (rows, 1), generator=random)
    return ids.clamp_(1, size) * (torch.arange(length) < most)


def draw_columns(rows: int, pooling: str) -> Columns:
    """Rows of `DOMAINS` domains."""
    random = torch.Generator().manual_seed(0)
    single = ("user", "item", *(feature.name for feature in IDS))
    ids = {name: draw(rows, SIZES[name], 1, random).squeeze(1).clamp_(min=1) for name in single}
    several = {} if pooling == "ids alone" else LENGTHS
    of = {"history": "item"}
    ids |= {name: draw(rows, SIZES[of.get(name, name)], length, random) for name, length in several.items()}
    counts = torch.full((DOMAINS,), rows // DOMAINS)
    ids["domain"] = torch.repeat_interleave(torch.arange(1, DOMAINS + 1, dtype=torch.int32), counts)
    labels = torch.randint(0, 2, (rows,), generator=random).float()
    return Columns(ids, torch.zeros(rows, 0), labels, offsets_of(counts))


def engine_of(pooling: str, width: int, batch: int) -> tuple[FastEngine, Shared]:
    """The paper's MLP."""
    settings = ModelSettings(embedding_dim=width)
    inputs = declare_inputs(settings, features_of(pooling), SIZES | {"domain": DOMAINS})
    module = build_model(settings, inputs)
    return FastEngine(module, inputs.tables, {}, batch), initial_shared(module, inputs.tables, 0)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=120_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--widths", type=int, nargs="*", default=[16, 128])
    parser.add_argument("--batches", type=int, nargs="*", default=[64, 512])
    parser.add_argument("--profile", action="store_true", help="print where the time of the last case goes")
    options = parser.parse_args()
    print(f"{machine()}, {torch.get_num_threads()} threads, {options.rows} rows of {DOMAINS} domains a round\n")
    print("| embedding | rows a step | features | rows/s | share of ids alone |\n|---|---|---|---|---|")
    for width in options.widths:
        for batch in options.batches:
            rounds = {}
            for pooling in ("ids alone", "mean", "attention"):
                engine, shared = engine_of(pooling, width, batch)
                columns = draw_columns(options.rows, pooling)
                visits = [Visit(columns, torch.arange(a, b)) for a, b in pairwise(columns.offsets.tolist())]
                rounds[pooling] = (engine, shared, visits)
                engine.descend(Theta(shared), visits[:2], 1e-3)  # compiles
            took: dict[str, list[float]] = {pooling: [] for pooling in rounds}
            for _ in range(options.repeats):
                for pooling, (engine, shared, visits) in rounds.items():
                    started = time.perf_counter()
                    engine.descend(Theta(shared), visits, 1e-3)
                    took[pooling].append(time.perf_counter() - started)
            rates = {pooling: options.rows / statistics.median(own) for pooling, own in took.items()}
            for pooling, rate in rates.items():
                print(f"| {width} | {batch} | {pooling} | {rate:,.0f} | {rate / rates['ids alone']:.2f} |", flush=True)
    if options.profile:
        with torch.profiler.profile(with_stack=False) as profile:
            engine.descend(Theta(shared), visits, 1e-3)
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=25))


if __name__ == "__main__":
    main()
