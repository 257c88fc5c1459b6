"""score against a bare Spark job that reads and writes the same rows and multiplies by the same network.

    .venv/bin/python benchmarks/bench_score.py --rows 1e6 --domains 141 2000 --repeats 3

The network is the paper's (three embeddings of 128, then 256-128-64-1: 140,000 dense parameters) with random values and
a theta_i for every domain; one user per 5 rows, one item per 26, domains of heavy-tailed sizes. The bare job selects
embeddings by a hash of the raw id, where score looks ids up in the lake's vocabularies; it has one theta for all rows,
where score groups rows by domain and adds its theta_i; it writes the same columns to a Delta table. Both run in one
session, in turn. Then the latency of a request of 500 items to the exported files is measured.

    .venv/bin/python benchmarks/bench_score.py --rows 1e6 --domains 2000 --top-k 20 --candidates 500

With --top-k, the K best of --candidates candidates of each domain are chosen for as many users as give `rows` pairs, in
turn with score of the same pairs, which are written beforehand. Rates are over the phases count and write: top_k reads
and looks up its candidates in the first, score looks up ids in the second.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from machine import machine
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mamdr_core.config.datasets import SyntheticSettings
from mamdr_core.config.job_config import Config, dump_config, parse_config, with_values
from mamdr_core.datasets.world import domain_sizes
from mamdr_core.engine.drawing import initial_shared
from mamdr_core.engine.parameters import Change, Rows, Shared
from mamdr_core.engine.pieces import PIECE_ROWS
from mamdr_core.engine.specific_store import SpecificStore
from mamdr_core.engine.vector_buffers import FileBuffer
from mamdr_core.lake.core.caching import kept_frames
from mamdr_core.lake.core.session import make_session, overriding
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.vocabularies import Ids, add_new_ids, find_new_ids
from mamdr_core.models.structures import build_model, declare_inputs
from mamdr_core.serving.exporting import export_model
from mamdr_core.serving.scoring import BATCH_ROWS, score
from mamdr_core.training.package import publish_package, save_rank
from mamdr_core.training.records import record_run
from schemas import TABLES


def main() -> None:
    options = _parse()
    memory = f"--master local[{options.cores}] --driver-memory 6g pyspark-shell"
    os.environ["PYSPARK_SUBMIT_ARGS"] = memory
    spark = make_session("bench_score")
    spark.sparkContext.setLogLevel("ERROR")
    folder = Path(options.folder or tempfile.mkdtemp(prefix="mamdr-bench-"))
    found = []
    try:
        for domains in options.domains:
            place, rows = folder / str(domains), int(options.rows)
            if options.top_k:
                candidates = min(options.candidates, rows // 26)
                found.append(measure_top_k(spark, place, rows, domains, options.repeats, options.top_k, candidates))
            else:
                found.append(measure(spark, place, rows, domains, options.repeats))
    finally:
        spark.stop()
        if not options.folder:
            shutil.rmtree(folder)
    if options.top_k:
        _print_top_k(found, options)
        return
    print(f"\n{machine()}, local[{options.cores}], {options.rows:.0e} rows, load {os.getloadavg()[0]:.1f}\n")
    print("| domains | bare s | score s | its write s | bare / score | rows a second |\n|---|---|---|---|---|---|")
    for each in found:
        print("| {domains} | {bare:.1f} | {score:.1f} | {write:.1f} | {ratio:.2f} | {rate:,.0f} |".format(**each))
    print(json.dumps(found))


def measure(spark: SparkSession, folder: Path, rows: int, domains: int, repeats: int) -> dict[str, Any]:
    """Both jobs in turns, and the export."""
    config = make_config(folder, rows, domains)
    lake = Lake(spark, config.lake)
    requests = make_requests(lake, config, rows, domains)
    save_run(lake, config, {"user": rows // 5, "item": rows // 26, "domain": domains})
    bare, ours, writes = [], [], []
    for turn in range(repeats + 1):
        started = time.perf_counter()
        write_bare(requests, config, str(folder / "bare"))
        between = time.perf_counter()
        figures = score(spark, config)
        ended = time.perf_counter()
        print(f"{domains} domains, turn {turn}: {between - started:.1f} s bare, {figures['seconds']}", file=sys.stderr)
        if turn:  # the first warms both up
            bare.append(between - started)
            ours.append(ended - between)
            writes.append(figures["seconds"]["write"])
    exported = export_model(spark, config)
    ratio = statistics.median(one / other for one, other in zip(bare, ours, strict=True))
    return {
        "domains": domains,
        "bare": statistics.median(bare),
        "score": statistics.median(ours),
        "write": statistics.median(writes),
        "ratio": ratio,
        "rate": rows / statistics.median(ours),
        **{name: exported[name] for name in ("latency_ms", "largest_difference", "gb")},
    }


def measure_top_k(
    spark: SparkSession, folder: Path, rows: int, domains: int, repeats: int, k: int, candidates: int
) -> dict[str, Any]:
    """top_k and score of the same pairs, in turns."""
    config = make_config(folder, rows, domains)
    lake = Lake(spark, config.lake)
    make_requests(lake, config, rows, domains)
    save_run(lake, config, {"user": rows // 5, "item": rows // 26, "domain": domains})
    random = np.random.default_rng(1)
    sizes = domain_sizes(SyntheticSettings(rows=max(domains, rows // candidates), domains=domains))
    domain = np.repeat(np.arange(domains), sizes)
    users = pa.table({"user": _named("u", random.integers(0, rows // 5, len(domain))), "domain": _named("d", domain)})
    offered = np.stack([random.permutation(rows // 26)[:candidates] for _ in range(domains)])
    of = np.repeat(np.arange(domains), candidates)
    items = pa.table({"item": _named("i", offered.flatten()), "domain": _named("d", of)})
    for name, table in (("users", users), ("candidates", items)):
        (folder / name).mkdir()
        edges = [part * len(table) // 8 for part in range(9)]
        for part, (first, last) in enumerate(pairwise(edges)):
            pa.parquet.write_table(table.slice(first, last - first), folder / name / f"{part}.parquet")
    read = {name: spark.read.parquet(str(folder / name)) for name in ("users", "candidates")}
    read["users"].join(read["candidates"], "domain").write.parquet(str(folder / "pairs"))
    plain = with_values(config, {"score.input.path": str(folder / "pairs"), "score.batch": "pairs"})
    values = {
        "score.input.path": str(folder / "users"),
        "score.candidates.path": str(folder / "candidates"),
        "score.candidates.columns.domain": "domain",
        "score.candidates.most": max(2_000_000, len(items)),
        "score.top_k": k,
    }
    best = with_values(config, values)
    writes: dict[str, list[float]] = {"pairs": [], "top_k": []}
    for turn in range(repeats + 1):
        for name, each in (("pairs", plain), ("top_k", best)):
            figures = score(spark, each)
            print(f"{domains} domains, turn {turn}, {name}: {figures['seconds']}", file=sys.stderr)
            if turn:  # the first warms both up
                writes[name].append(figures["seconds"]["count"] + figures["seconds"]["write"])
    pairs = figures["pairs"]
    rates = {f"{name}_rate": pairs / statistics.median(seconds) for name, seconds in writes.items()}
    ratio = statistics.median(one / other for one, other in zip(writes["pairs"], writes["top_k"], strict=True))
    sizes = {"domains": domains, "users": figures["users"], "pairs": pairs, "rows": figures["rows"]}
    return {**sizes, **rates, "ratio": ratio}


def _named(letter: str, numbers: NDArray[np.int64]) -> list[str]:
    return [f"{letter}{number}" for number in numbers.tolist()]


def _print_top_k(found: list[dict[str, Any]], options: argparse.Namespace) -> None:
    print(f"\n{machine()}, local[{options.cores}], K = {options.top_k}, load {os.getloadavg()[0]:.1f}\n")
    print("| domains | rows of users | pairs | score, pairs a second | top_k, pairs a second | top_k / score |")
    print("|---|---|---|---|---|---|")
    for each in found:
        line = "| {domains} | {users:,} | {pairs:,} | {score:,.0f} | {top_k:,.0f} | {ratio:.2f} |"
        print(line.format(**{**each, "score": each["pairs_rate"], "top_k": each["top_k_rate"]}))
    print(json.dumps(found))


def make_config(folder: Path, rows: int, domains: int) -> Config:
    return parse_config(
        {
            "lake": {"root": str(folder / "lake")},
            "synthetic": {"rows": rows, "domains": domains, "users": rows // 5, "items": rows // 26},
            "model": {"name": "mlp"},
            "train": {"method": "mamdr"},
            "score": {"batch": "bench", "input": {"path": str(folder / "requests")}},
        }
    )


def make_requests(lake: Lake, config: Config, rows: int, domains: int) -> DataFrame:
    """Raw rows in no order, all of whose ids are in the lake's vocabularies."""
    sizes = domain_sizes(SyntheticSettings(rows=rows, domains=domains))
    random = np.random.default_rng(0)
    drawn = {
        "user": random.integers(0, rows // 5, rows),
        "item": random.integers(0, rows // 26, rows),
        "domain": random.permutation(np.repeat(np.arange(domains), sizes)),
    }
    path = Path(config.score.input.path)
    path.mkdir(parents=True, exist_ok=True)
    for part in range(8):
        named = {name: [f"{name[0]}{number}" for number in ids[part::8]] for name, ids in drawn.items()}
        pa.parquet.write_table(pa.table(named), path / f"{part}.parquet")
    for name, count in (("user", rows // 5), ("item", rows // 26), ("domain", domains)):
        ids = lake.spark.range(count).select(
            F.concat(F.lit(name[0]), "id").alias(name), F.lit("2026-01-01").cast("date").alias("ds")
        )
        with kept_frames() as keep:
            add_new_ids(lake, find_new_ids(lake, [Ids(TABLES[f"{name}s"], name)], ids, keep), keep)
    return lake.spark.read.parquet(str(path))


def save_run(lake: Lake, config: Config, sizes: dict[str, int]) -> None:
    """A run with drawn parameters, recorded as training would."""
    inputs = declare_inputs(config.model, (), sizes)
    shared = initial_shared(build_model(config.model, inputs), inputs.tables, 0)
    scratch, final = Path(lake.path_of("packages", ".bench.part")), lake.path_of("packages", "bench")
    scratch.mkdir(parents=True)
    store = SpecificStore(range(sizes["domain"]), FileBuffer(shared.dense, str(scratch)), shared.dense)
    random = torch.Generator().manual_seed(0)
    for domain in store:
        own = Rows(torch.tensor([domain + 1]), torch.randn(1, config.model.embedding_dim, generator=random) * 0.01)
        store[domain] = Change(torch.randn(len(shared.dense), generator=random) * 0.01, {"domain": own})
    saved = save_rank(str(scratch), 0, Shared(shared.dense, shared.tables), store)
    pinned = {"versions": {}, "sizes": sizes, "numeric": {}}
    texts = {"config.yaml": dump_config(config), "pinned.json": json.dumps(pinned), "metrics.json": "{}"}
    publish_package(str(scratch), final, saved, texts)
    run = {"run_id": "bench", "status": "ok", "method": "mamdr", "model": "mlp", "config": "", "input_versions": {}}
    record_run(lake, {**run, "package": final, "started_at": datetime.now(UTC)})


def write_bare(requests: DataFrame, config: Config, path: str) -> None:
    """The bare job."""
    synthetic = config.synthetic
    sizes = {"user": synthetic.users, "item": synthetic.items, "domain": synthetic.domains}
    hashed = [F.pmod(F.xxhash64(name), F.lit(size)).cast("int").alias(f"{name}_row") for name, size in sizes.items()]
    kept = ", ".join(f"{name} string" for name in sizes)
    flags = ", ".join(f"{name}_known boolean" for name in sizes)
    schema = f"run_id string, batch string, key string, {kept}, {flags}, specific boolean, score double"

    def multiply(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        tables = {name: torch.randn(size, 128) for name, size in sizes.items()}
        inputs = declare_inputs(config.model, (), sizes)
        network = build_model(config.model, inputs).eval()
        for batch in batches:
            rows = {name: torch.from_numpy(batch.column(f"{name}_row").to_numpy()).long() for name in sizes}
            with torch.no_grad():
                parts = [
                    network({name: tables[name][rows[name][first : first + PIECE_ROWS]] for name in sizes})
                    for first in range(0, len(batch), PIECE_ROWS)
                ]
            yes = pa.array(np.ones(len(batch), dtype=bool))
            named = {name: batch.column(name) for name in sizes}
            constant = {"run_id": pa.array(["bench"] * len(batch)), "batch": pa.array(["bench"] * len(batch))}
            nothing = {"key": pa.nulls(len(batch), pa.string())}
            known = {f"{name}_known": yes for name in sizes} | {"specific": yes}
            score = {"score": pa.array(torch.cat(parts).double().sigmoid().numpy())}
            yield pa.RecordBatch.from_pydict({**constant, **nothing, **named, **known, **score})

    with overriding(requests.sparkSession, {"spark.sql.execution.arrow.maxRecordsPerBatch": BATCH_ROWS}):
        made = requests.select(*sizes, *hashed).mapInArrow(multiply, schema)
        made.write.format("delta").mode("overwrite").save(path)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, default=3e5)
    parser.add_argument("--domains", type=int, nargs="+", default=[42])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--top-k", type=int, default=0, help="K: measure score.top_k against score of the same pairs")
    parser.add_argument("--candidates", type=int, default=500, help="of each domain, with --top-k")
    parser.add_argument("--folder", default="", help="for the lakes; default: a temporary one")
    return parser.parse_args()


if __name__ == "__main__":
    main()
