"""Joint training of multi-domain structures over mixed batches, against the MLP.

    .venv/bin/python benchmarks/bench_mixed_batches.py                  # small sizes, both engines
    .venv/bin/python benchmarks/bench_mixed_batches.py --sizes paper --engines fast
    .venv/bin/python benchmarks/bench_mixed_batches.py --by-domain      # one call for each domain of a batch, as before

Domains have log-normal numbers of rows, so that most of a batch's domains have one to three. Structures run in turn,
and rates are per CPU time, since other work may share the machine.
"""

import argparse
import statistics
import time
from functools import partial

import torch
from machine import machine

from mamdr_core.config.features import Feature
from mamdr_core.config.models import MMOESettings, ModelSettings, PLESettings
from mamdr_core.engine.columns import Columns, Visit, offsets_of
from mamdr_core.engine.drawing import initial_shared
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.fast import FastEngine
from mamdr_core.engine.optimizers import InnerState
from mamdr_core.engine.parameters import Theta
from mamdr_core.models.structures import build_model, declare_inputs

STRUCTURES = ("mlp", "star", "mmoe", "ple")
USERS, ITEMS = 20_000, 5_000
FEATURES: tuple[Feature, ...] = ()


def draw_columns(domains: int, rows: int, sigma: float) -> Columns:
    generator = torch.Generator().manual_seed(0)
    shares_n = torch.exp(sigma * torch.randn(domains, generator=generator))
    counts_n = (shares_n / shares_n.sum() * rows).long().clamp_min(1)
    total = int(counts_n.sum())
    return Columns(
        ids={
            "user": torch.randint(1, USERS + 1, (total,), generator=generator, dtype=torch.int32),
            "item": torch.randint(1, ITEMS + 1, (total,), generator=generator, dtype=torch.int32),
            "domain": torch.repeat_interleave(torch.arange(1, domains + 1, dtype=torch.int32), counts_n),
        },
        numeric=torch.zeros(total, 0),
        labels=torch.randint(0, 2, (total,), generator=generator).float(),
        offsets=offsets_of(counts_n),
    )


def settings_of(name: str, sizes: str) -> ModelSettings:
    if sizes == "paper":
        return ModelSettings(name=name)
    return ModelSettings(
        name=name,
        embedding_dim=16,
        hidden=(64, 32),
        mmoe=MMOESettings(expert_hidden=(64, 32), gate=(), tower=(16,)),
        ple=PLESettings(shared_experts=2, specific_experts=2, expert_hidden=(32,), gate=(), tower=(16,)),
    )


def trainer(name: str, kind: type[EagerEngine], columns: Columns, options):
    """A call that trains jointly over all rows, batches in a random order; and the network's parameters."""
    settings = settings_of(name, options.sizes)
    domains = len(columns.offsets) - 1
    inputs = declare_inputs(settings, FEATURES, {"user": USERS, "item": ITEMS, "domain": domains})
    module = build_model(settings, inputs)
    engine = kind(module, inputs.tables, {}, options.batch_size)
    if options.by_domain:
        engine.mixes = not engine.per_domain
    shared = initial_shared(module, inputs.tables, 0)
    rows = torch.randperm(len(columns), generator=torch.Generator().manual_seed(1))
    state = InnerState.zeros_like(shared)
    own = sum(table.width for table in inputs.tables if table.per_domain)
    return partial(engine.descend, Theta(shared), [Visit(columns, rows)], 1e-3, "adam", state), len(shared.dense), own


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--domains", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--sigma", type=float, default=1.0, help="of the logarithm of a domain's rows")
    parser.add_argument("--sizes", choices=("small", "paper"), default="small")
    parser.add_argument("--engines", nargs="+", choices=("eager", "fast"), default=["eager", "fast"])
    parser.add_argument("--structures", nargs="+", choices=STRUCTURES, default=list(STRUCTURES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--by-domain", action="store_true", help="one call for each domain of a batch")
    options = parser.parse_args()
    columns = draw_columns(options.domains, options.batch_size * options.steps, options.sigma)
    batch = torch.randperm(len(columns))[: options.batch_size]
    met = columns.ids["domain"][batch].unique(return_counts=True)[1]
    print(f"{machine()}; {options}")
    print(f"{len(met)} domains in a batch of {options.batch_size}, {int((met <= 3).sum())} of them with 1 to 3 rows")
    print("\n| engine | structure | dense | of each domain | rows a second | of the MLP's |\n|---|---|---|---|---|---|")
    for engine in options.engines:
        kind = {"eager": EagerEngine, "fast": FastEngine}[engine]
        runs = {name: trainer(name, kind, columns, options) for name in options.structures}
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for repeat in range(options.repeats + 1):
            for name, (run, _, _) in runs.items():
                started = time.process_time()
                run()
                if repeat:  # the first one compiles
                    seconds[name].append(time.process_time() - started)
        rates = {name: len(columns) / statistics.median(took) for name, took in seconds.items()}
        for name, (_, dense, own) in runs.items():
            ratio = rates[name] / rates["mlp"] if "mlp" in rates else float("nan")
            print(f"| {engine} | {name} | {dense:,} | {own:,} | {rates[name]:,.0f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
