"""Predicting many small domains, each at its own theta_S + theta_i: in stacks, and one domain after another.

    .venv/bin/python benchmarks/bench_predict.py --domains 55555 --rows 381000

Log-normal domains; the network of the small production run (three embeddings of 16, hidden layers of 64 and 32), or
with --paper the paper's (embeddings of 128, 256-128-64). Both versions predict the same rows in turn, on as many
threads as torch uses, then again while a process keeps as many threads busy. Prints medians of seconds.
"""

import argparse
import statistics
import subprocess
import sys
import time

import numpy as np
import torch
from bench_domains import draw_columns
from machine import machine

from mamdr_core.config.models import ModelSettings
from mamdr_core.engine.columns import Columns, Visit
from mamdr_core.engine.drawing import initial_shared
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.parameters import Change, Rows, Shared, Theta
from mamdr_core.engine.prediction import predict_runs
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.engine.vector_buffers import MemoryBuffer
from mamdr_core.models.structures import build_model, declare_inputs

BUSY = "import torch\nx = torch.randn(600, 600)\nwhile True:\n    x = torch.tanh(x @ x)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domains", type=int, default=55_555)
    parser.add_argument("--rows", type=float, default=381_000)
    parser.add_argument("--paper", action="store_true", help="the paper's network")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    columns, sizes = draw_columns(int(options.rows), options.domains)
    settings = ModelSettings() if options.paper else ModelSettings(embedding_dim=16, hidden=(64, 32))
    inputs = declare_inputs(settings, (), sizes)
    engine = EagerEngine(build_model(settings, inputs), inputs.tables, {}, 1024)
    shared = initial_shared(engine.flat.module, inputs.tables, 0)
    store = _store(options.domains, shared)
    print(
        f"{machine()}; {len(columns):,} rows of {len(columns.occupied):,} domains, {torch.get_num_threads()} threads.\n"
    )
    print("| the cores | one domain after another, s | in stacks, s | ratio | largest difference of a logit |")
    print("|---|---|---|---|---|")
    _measure("free", engine, shared, store, columns, options.repeats)
    busy = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        time.sleep(5)
        _measure("shared with a busy process", engine, shared, store, columns, options.repeats)
    finally:
        busy.kill()
        busy.wait()


def _store(domains: int, shared: Shared) -> SpecificStore:
    """theta_i that are not zero, of dense parameters and the domain's embedding."""
    store = SpecificStore(range(domains), MemoryBuffer(shared.dense), shared.dense)
    width = shared.tables["domain"].shape[1]
    for domain in range(domains):
        rows = Rows(torch.tensor([domain + 1]), torch.full((1, width), 0.1))
        store[domain] = Change(0.1 * torch.randn(len(shared.dense)), {"domain": rows})
    return store


def _measure(
    cores: str, engine: EagerEngine, shared: Shared, store: SpecificStore, columns: Columns, repeats: int
) -> None:
    """One line of the table."""
    edges = columns.offsets.numpy()
    seconds: dict[str, list[float]] = {"alone": [], "stacks": []}
    alone_N = stacked_N = torch.zeros(0)
    for _ in range(repeats):
        started = time.perf_counter()
        alone_N = _one_after_another(engine, shared, store, columns)
        seconds["alone"].append(time.perf_counter() - started)
        started = time.perf_counter()
        stacked_N = predict_runs(engine, shared, store, columns, range(len(edges) - 1), edges)
        seconds["stacks"].append(time.perf_counter() - started)
    alone, stacks = (statistics.median(each) for each in seconds.values())
    gap = float((alone_N - stacked_N).abs().max())
    print(f"| {cores} | {alone:.1f} | {stacks:.2f} | {alone / stacks:.0f} | {gap:.1e} |", flush=True)


def _one_after_another(engine: EagerEngine, shared: Shared, store: SpecificStore, columns: Columns) -> torch.Tensor:
    """A call of the model for each domain, theta_i read by groups."""
    parts = []
    for group in store.read_groups(columns.occupied.tolist()):
        for domain, change in group.items():
            rows = torch.from_numpy(np.arange(*columns.offsets[domain : domain + 2].tolist()))
            parts.append(engine.predict(Theta(shared, change), Visit(columns, rows)))
    return torch.cat(parts)


if __name__ == "__main__":
    main()
