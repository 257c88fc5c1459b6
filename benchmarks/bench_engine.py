"""The engine's inner loops against the limits of the machine, each ratio within one run.

    .venv/bin/python benchmarks/bench_engine.py matmul            # DN and DR against torch's own matrix products
    .venv/bin/python benchmarks/bench_engine.py tables            # step time against the size of embedding tables
    .venv/bin/python benchmarks/bench_engine.py ciao              # against a plain PyTorch loop, on ../shared/data
    .venv/bin/python benchmarks/bench_engine.py outer             # share of the outer update, two Horovod ranks
    .venv/bin/python benchmarks/bench_engine.py                   # all of them

On a machine with a GPU add --device cuda (and --precision tf32 or bf16) to matmul and tables.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from machine import machine
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from mamdr_core.config.engine import OuterSettings
from mamdr_core.config.models import ModelSettings
from mamdr_core.engine.columns import Columns, Visit, offsets_of
from mamdr_core.engine.drawing import initial_shared
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.fast import FastEngine
from mamdr_core.engine.metrics import segmented_auc
from mamdr_core.engine.optimizers import InnerState, OuterOptimizer
from mamdr_core.engine.parameters import Change, Scope, Theta
from mamdr_core.models.structures import build_model
from mamdr_core.models.tables import Inputs, Table

BATCH = 1024
RATINGS = Path(__file__).parents[1] / "../shared/data/ciao/ratings.csv.gz"


def seconds_of(task: Callable[[], object], repeats: int = 7) -> list[float]:
    """Wall time of some calls, after one that is not counted."""
    took = []
    for repeat in range(repeats + 1):
        started = time.perf_counter()
        task()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if repeat:
            took.append(time.perf_counter() - started)
    return took


def draw_columns(domains: int, rows_each: int, users: int, items: int) -> Columns:
    generator = torch.Generator().manual_seed(0)
    rows = domains * rows_each
    counts = torch.full((domains,), rows_each)
    return Columns(
        ids={
            "user": torch.randint(1, users + 1, (rows,), generator=generator, dtype=torch.int32),
            "item": torch.randint(1, items + 1, (rows,), generator=generator, dtype=torch.int32),
            "domain": torch.repeat_interleave(torch.arange(1, domains + 1, dtype=torch.int32), counts),
        },
        numeric=torch.zeros(rows, 0),
        labels=torch.randint(0, 2, (rows,), generator=generator).float(),
        offsets=offsets_of(counts),
    )


def paper_engine(kind: type[EagerEngine], users: int, items: int, domains: int, trains: bool, options) -> tuple:
    """The paper's network over three fields of 128: users and items as fixed vectors, or trained."""
    tables = (
        Table("user", "user", users + 1, 128, trains),
        Table("item", "item", items + 1, 128, trains),
        Table("domain", "domain", domains + 1, 128),
    )
    frozen = {table.name: torch.randn(table.rows, 128) for table in tables if not table.trainable}
    module = build_model(ModelSettings(), Inputs(tables))
    more = {"precision": options.precision} if kind is FastEngine else {}
    engine = kind(module, tables, frozen, BATCH, options.device, **more)
    return engine, initial_shared(module, tables, 0, options.device)


def matmul_rate(device: str) -> tuple[float, float]:
    """FLOPs a second of the products of one step, forward and backward, and the seconds of a step."""
    widths = [384, 256, 128, 64, 1]
    x = {width: torch.randn(BATCH, width, device=device) for width in widths}
    w = {pair: torch.randn(pair, device=device) for pair in pairwise(widths)}

    def step() -> None:
        for (wide, narrow), weight in w.items():
            torch.mm(x[wide], weight)
            torch.mm(x[wide].t(), x[narrow])
            torch.mm(x[narrow], weight.t())

    seconds = statistics.median(seconds_of(lambda: [step() for _ in range(20)])) / 20
    return 6 * BATCH * sum(weight.numel() for weight in w.values()) / seconds, seconds


def bench_matmul(options) -> None:
    print("\n| inner loop, batch 1024 | engine | rows/s | GFLOP/s | share of torch's matrix products |")
    print("|---|---|---|---|---|")
    domains = 64
    for trains in (False, True):
        columns = draw_columns(domains, BATCH, 20_000, 5_000).to(options.device)
        edges = columns.offsets.tolist()
        visits = [Visit(columns, torch.arange(a, b, device=options.device)) for a, b in pairwise(edges)]
        supports = [[Visit(columns, visits[d - 1].rows, as_domain=d), visits[d]] for d in range(domains)]
        scopes = [
            Scope(frozenset({"domain"}), {"domain": torch.tensor([d + 1], device=options.device)})
            for d in range(domains)
        ]
        for kind in (FastEngine, EagerEngine):
            engine, shared = paper_engine(kind, 20_000, 5_000, domains, trains, options)
            state = InnerState.zeros_like(shared)
            thetas = [Theta(shared, Change(torch.zeros_like(shared.dense))) for _ in range(domains)]
            loops = {
                "DN": (partial(engine.descend, Theta(shared), visits, 1e-3, "adam", state), len(columns)),
                "DR": (
                    partial(engine.descend_many, thetas, supports, 1e-3, "adam", scopes, list(range(domains))),
                    2 * len(columns),
                ),
            }
            for name, (loop, rows) in loops.items():
                reference, _ = matmul_rate(options.device)
                took = statistics.median(seconds_of(loop, 5))
                flops = 6 * len(shared.dense) * rows / took
                fields = "trained embeddings" if trains else "fixed vectors"
                print(
                    f"| {name}, {fields} | {kind.__name__} | {rows / took:,.0f} | {flops / 1e9:.0f} "
                    f"| {flops / reference:.2f} (of {reference / 1e9:.0f}) |",
                    flush=True,
                )


def bench_tables(options) -> None:
    print("\n| rows of the user table | ms a step | of the smallest table's |")
    print("|---|---|---|")
    sizes = [100_000, 1_000_000, 10_000_000]
    columns = draw_columns(16, BATCH, sizes[0], 5_000).to(options.device)
    edges = columns.offsets.tolist()
    visits = [Visit(columns, torch.arange(a, b, device=options.device)) for a, b in pairwise(edges)]
    engines = {}
    for size in sizes:
        inputs = Inputs(
            (Table("user", "user", size + 1, 16), Table("item", "item", 5_001, 16), Table("domain", "domain", 17, 16))
        )
        module = build_model(ModelSettings(embedding_dim=16), inputs)
        engine = FastEngine(module, inputs.tables, {}, BATCH, options.device, precision=options.precision)
        shared = initial_shared(engine.flat.module, inputs.tables, 0, options.device)
        spread = columns.ids["user"].long() * (size // sizes[0])  # the same batch, over the whole table
        own = Columns({**columns.ids, "user": spread.int()}, columns.numeric, columns.labels, columns.offsets)
        own_visits = [Visit(own, visit.rows) for visit in visits]
        state = InnerState.zeros_like(shared)
        engines[size] = partial(engine.descend, Theta(shared), own_visits, 1e-3, "adam", state)
    took = {size: [] for size in sizes}
    for _ in range(7):  # in turn, so that noise hits all alike
        for size, loop in engines.items():
            took[size] += seconds_of(loop, 1)
    for size in sizes:
        median = statistics.median(took[size])
        ratio = median / statistics.median(took[sizes[0]])
        print(f"| {size:,} | {1e3 * median / len(visits):.2f} | {ratio:.2f} |", flush=True)


class PlainModel(nn.Module):
    """What a user writes today: nn.Embedding, nn.Dropout and a network, trained by torch.optim.Adam."""

    def __init__(self, sizes: dict[str, int]) -> None:
        super().__init__()
        self.tables = nn.ModuleDict({name: nn.Embedding(size, 16) for name, size in sizes.items()})
        for table in self.tables.values():
            nn.init.normal_(table.weight, std=0.01)
        layers: list[nn.Module] = []
        for wide, narrow in pairwise([48, 256, 128, 64]):
            layers += [nn.Linear(wide, narrow), nn.ReLU(), nn.Dropout(0.2)]
        self.layers = nn.Sequential(*layers, nn.Linear(64, 1))

    def forward(self, ids: dict[str, Tensor]) -> Tensor:
        return self.layers(torch.cat([table(ids[name]) for name, table in self.tables.items()], 1)).squeeze(1)


def load_ciao() -> tuple[Columns, Columns, dict[str, int]]:
    """Train and validation rows, 60/20 at random, and table sizes."""
    import pandas as pd

    ratings = pd.read_csv(RATINGS)
    codes = {
        name: pd.factorize(ratings[column])[0] + 1
        for name, column in (("user", "uid"), ("item", "pid"), ("domain", "domain"))
    }
    labels = (ratings["score"] >= 4).to_numpy(np.float32)
    drawn = np.random.default_rng(0).random(len(ratings))
    sizes = {name: int(code.max()) + 1 for name, code in codes.items()}

    def part(chosen) -> Columns:
        rows = np.flatnonzero(chosen)
        rows = rows[np.argsort(codes["domain"][rows], kind="stable")]
        counts = np.bincount(codes["domain"][rows] - 1, minlength=sizes["domain"] - 1)
        ids = {name: torch.from_numpy(code[rows].astype(np.int32)) for name, code in codes.items()}
        return Columns(
            ids, torch.zeros(len(rows), 0), torch.from_numpy(labels[rows]), offsets_of(torch.from_numpy(counts))
        )

    return part(drawn < 0.6), part((drawn >= 0.6) & (drawn < 0.8)), sizes


def bench_ciao(options) -> None:
    if not RATINGS.exists():
        print(f"\nciao: skipped, {RATINGS} is not there")
        return
    train, val, sizes = load_ciao()
    print(f"\n| Ciao, {len(train):,} rows, joint, 2 epochs | seed | rows/s | val AUC |")
    print("|---|---|---|---|")
    rates, aucs = {}, {}
    runs = {
        "plain PyTorch, dense Adam": train_plain,
        "eager": partial(train_ours, EagerEngine, {}),
        "fast": partial(train_ours, FastEngine, {}),
        "fast, bf16": partial(train_ours, FastEngine, {"precision": "bf16"}),
    }
    for seed in range(3):
        for name, run in runs.items():
            rate, logits = run(train, val, sizes, seed)
            auc = segmented_auc(logits, val.labels, val.offsets)
            rates.setdefault(name, []).append(rate)
            aucs.setdefault(name, []).append(auc[~auc.isnan()].mean().item())
            print(f"| {name} | {seed} | {rate:,.0f} | {aucs[name][-1]:.4f} |", flush=True)
    plain = statistics.median(rates["plain PyTorch, dense Adam"])
    for name in runs:
        mean, spread = statistics.mean(aucs[name]), max(aucs[name]) - min(aucs[name])
        times = statistics.median(rates[name]) / plain
        print(f"{name}: {times:.2f} times the plain loop's rate; val AUC {mean:.4f}, spread {spread:.4f}")


def orders(rows: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(rows, generator=generator) for _ in range(2)]


def train_plain(train: Columns, val: Columns, sizes: dict[str, int], seed: int) -> tuple[float, Tensor]:
    torch.manual_seed(seed)
    model = PlainModel(sizes)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    ids = {name: column.long() for name, column in train.ids.items()}
    started = time.perf_counter()
    for order in orders(len(train), seed):
        for rows in order.split(BATCH):
            adam.zero_grad()
            logits = model({name: column[rows] for name, column in ids.items()})
            binary_cross_entropy_with_logits(logits, train.labels[rows]).backward()
            adam.step()
    rate = 2 * len(train) / (time.perf_counter() - started)
    with torch.no_grad():
        return rate, model.eval()({name: column.long() for name, column in val.ids.items()})


def train_ours(
    kind: type[EagerEngine],
    options: dict[str, str],
    train: Columns,
    val: Columns,
    sizes: dict[str, int],
    seed: int,
) -> tuple[float, Tensor]:
    inputs = Inputs(tuple(Table(name, name, size, 16) for name, size in sizes.items()))
    module = build_model(ModelSettings(embedding_dim=16, dropout=0.2), inputs, seed)
    engine = kind(module, inputs.tables, {}, BATCH, **options)
    shared = initial_shared(module, inputs.tables, seed)
    engine.descend(Theta(shared), [Visit(train, torch.arange(2 * BATCH))], 1e-3)  # compiles
    state, outer = InnerState.zeros_like(shared), OuterOptimizer(OuterSettings(beta=1.0))
    started = time.perf_counter()
    for epoch, order in enumerate(orders(len(train), seed)):
        outer.step(shared, engine.descend(Theta(shared), [Visit(train, order)], 1e-3, "adam", state, seed=epoch))
    rate = 2 * len(train) / (time.perf_counter() - started)
    return rate, engine.predict(Theta(shared), Visit(val, torch.arange(len(val))))


def outer_rank(trains: bool, collective) -> tuple[float, float, int]:
    """Seconds of one rank's inner loops, and of the outer updates with their exchange, over some rounds."""
    from mamdr_core.parallel.averaging import mean_change

    rows, rounds = 51_200, 6  # 420 M rows over 8 ranks and 1,024 rounds
    options = argparse.Namespace(device="cpu", precision="fp32")
    columns = draw_columns(50, rows // 50, 200_000, 40_000)
    visits = [Visit(columns, torch.arange(a, b)) for a, b in pairwise(columns.offsets.tolist())]
    engine, shared = paper_engine(FastEngine, 200_000, 40_000, 50, trains, options)
    state, outer = InnerState.zeros_like(shared), OuterOptimizer(OuterSettings())
    inner = update = 0.0
    for number in range(rounds):
        started = time.perf_counter()
        change = engine.descend(Theta(shared), visits, 1e-3, "adam", state, seed=number)
        collective.all_reduce(torch.zeros(1))  # ranks wait for each other here, not in what is measured next
        middle = time.perf_counter()
        outer.step(shared, mean_change(collective, change, float(rows)))
        if number:  # the first compiles
            inner, update = inner + middle - started, update + time.perf_counter() - middle
    return inner, update, len(shared.dense)


def bench_outer(options) -> None:
    from pyspark.sql import SparkSession

    from mamdr_core.parallel.launch import run_ranks

    print("\n| a round of 51,200 rows a rank, 2 Horovod ranks of one thread | inner s | outer and exchange s | share |")
    print("|---|---|---|---|")
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    for trains in (False, True):
        results = run_ranks(spark, partial(outer_rank, trains), 2, 120)
        inner, update = max(r[0] for r in results), max(r[1] for r in results)
        fields = "trained embeddings, rows exchanged" if trains else "fixed vectors"
        print(f"| {fields} | {inner:.2f} | {update:.3f} | {update / (inner + update):.2%} |", flush=True)
    spark.stop()


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "matmul": bench_matmul,
    "tables": bench_tables,
    "ciao": bench_ciao,
    "outer": bench_outer,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}; none: all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "tf32", "bf16"])
    options = parser.parse_args()
    for part in set(options.parts).difference(PARTS):
        parser.error(f"no part {part}: known are {', '.join(PARTS)}")
    torch.set_num_threads(min(2, torch.get_num_threads()))
    hardware = torch.cuda.get_device_name() if options.device == "cuda" else machine()
    print(f"{hardware}, {torch.get_num_threads()} threads, torch {torch.__version__}, {options.precision}")
    for part in options.parts or PARTS:
        PARTS[part](options)


if __name__ == "__main__":
    main()
