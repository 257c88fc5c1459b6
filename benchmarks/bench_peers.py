"""The same examples through this package and through plain PyTorch programs with published settings: AUC and rate.

    .venv/bin/python benchmarks/bench_peers.py --sets ciao conflict_0.5 --seeds 0 1 2

A set of bench_recipe.py is built as a lake in --folder, unless it exists. Its examples are read once and passed to
every program as arrays: the ids for which this package's model has an embedding, numeric features, and the fixed
vectors of the row's user and item. Peers are an MLP and a DeepFM in plain PyTorch with the settings of FuxiCTR
(peer_models.py). Ours are train_mamdr with the settings of bench_recipe.py: joint training of the same two structures,
and the recommended method. All run in turn in one process, with the same number of threads.

--deepctr adds DeepFM of deepctr-torch (peer_deepctr.py), in a separate process and folder: the package is installed in
the cache outside the clone, without its dependencies, which are installed here. Whenever it is imported, it asks PyPI
for its newest version, and continues without an answer.

--plain runs only the peers, on lakes that bench_options.py has built in the same --folder, without Spark; its figures
of `joint` on the set are ours.

Rates are training rows over the time of steps, compilation included. AUC is that of the test split: mean over domains
and weighted by rows (domains with both classes), mean over seeds with the standard deviation.
"""

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_options import examples_of
from machine import machine
from peer_models import MODELS, SETTINGS, Rows, train
from pyspark.sql import SparkSession
from recipe_sets import METHODS, NAMED_SETS, config_of

from mamdr_core.config.job_config import Config, with_values
from mamdr_core.engine.columns import Columns
from mamdr_core.engine.metrics import domain_metrics
from mamdr_core.lake.core.session import spark_session
from mamdr_core.models.structures import declare_inputs
from mamdr_core.shards.loading import Share
from mamdr_core.shards.pinned import PinnedExamples
from mamdr_core.training.driver import train_mamdr
from mamdr_core.training.preparing import prepare_examples
from schemas import SPLITS

DEEPCTR = "deepctr-torch==0.3.0"
OURS = ("joint", "joint deepfm", "mixed")
PEERS = [f"{name} {setting}" for setting in SETTINGS for name in MODELS]


def main() -> None:
    options = _parse()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    torch.set_num_threads(options.threads)
    folder = Path(options.folder or tempfile.mkdtemp(prefix="mamdr-peers-"))
    found: list[dict[str, Any]] = []
    with nullcontext() if options.plain else spark_session("bench_peers") as spark:
        for name in options.sets:
            config = config_of(name, 0, options.scale, folder)
            pinned = prepare_examples(spark, config)[1] if spark else examples_of(config)
            columns, vectors = read(config, pinned)
            fields = fields_of(config, pinned)
            rows = {split: rows_of(columns[split], fields, config, vectors) for split in SPLITS}
            sizes = [pinned.sizes[field] + 1 for field in fields]
            limited = with_values(config, NAMED_SETS[name].limits)
            for seed in options.seeds:
                own = peers(options.peers, sizes, rows, columns["test"], seed)
                found += [{"set": name, "seed": seed, **each} for each in own]
                if options.deepctr:
                    each = deepctr(sizes, rows, columns["test"], seed, options.threads)
                    found.append({"set": name, "seed": seed, **each})
                if spark:
                    found += [{"set": name, "seed": seed, **each} for each in ours(spark, limited, seed)]
    print(report(found, options))
    print(json.dumps(found))


def read(config: Config, pinned: PinnedExamples) -> tuple[dict[str, Columns], dict[str, torch.Tensor]]:
    """All rows by split, and the fixed vectors."""
    everything = np.ones(len(pinned.domain_ids), dtype=np.bool_)
    share = Share(pinned, config.features, everything)
    return {split: share.columns(split) for split in SPLITS}, share.vectors()


def fields_of(config: Config, pinned: PinnedExamples) -> list[str]:
    """The id columns that get an embedding, the same as in this package's model."""
    inputs = declare_inputs(config.model, config.features, pinned.sizes)
    return [table.column for table in inputs.features if table.trainable]


def rows_of(columns: Columns, fields: list[str], config: Config, vectors: dict[str, torch.Tensor]) -> Rows:
    """A split as the peers read it."""
    ids = torch.stack([columns.ids[field].long() for field in fields], 1)
    of = {feature.name: feature.of for feature in config.features if feature.kind == "vector"}
    looked_up = [vectors[name][columns.ids[column].long()] for name, column in of.items()]
    return Rows(ids, torch.cat([columns.numeric, *looked_up], 1), columns.labels)


def peers(labels: list[str], sizes: list[int], rows: dict[str, Rows], test: Columns, seed: int) -> list[dict[str, Any]]:
    """Figures of some of `PEERS`."""
    found = []
    for name, setting in map(str.split, labels):
        logits, figures = train(name, SETTINGS[setting], sizes, rows, seed)
        found.append({"program": f"PyTorch {name}, {setting}", **aucs_of(logits, test), **figures})
        print(found[-1], file=sys.stderr, flush=True)
    return found


def aucs_of(logits: torch.Tensor, test: Columns) -> dict[str, float]:
    """AUCs by domain of predictions of the test rows."""
    measured = domain_metrics(logits, test.labels, test.offsets, None)
    return {"auc": measured.mean_auc(), "weighted_auc": measured.weighted_auc()}


def deepctr(sizes: list[int], rows: dict[str, Rows], test: Columns, seed: int, threads: int) -> dict[str, Any]:
    """Figures of DeepFM of deepctr-torch, which is installed where it is missing."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mamdr"
    cache = Path(os.environ.get("MAMDR_CACHE", home)) / "peers" / DEEPCTR
    if not cache.is_dir():
        install = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", str(cache), DEEPCTR]
        subprocess.run([sys.executable, *install], check=True)
    with tempfile.TemporaryDirectory(prefix="mamdr-peers-") as folder:
        export, predicted = Path(folder) / "export.npz", Path(folder) / "predicted.npz"
        arrays = {
            f"{split}_{part}": getattr(each, part).numpy()
            for split, each in rows.items()
            for part in ("ids", "dense", "labels")
        }
        np.savez(export, sizes=np.array(sizes), **arrays)
        command = [sys.executable, Path(__file__).with_name("peer_deepctr.py"), export, predicted]
        paths = os.pathsep.join([str(cache), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": paths}
        options = ["--seed", str(seed), "--threads", str(threads)]
        subprocess.run([*map(str, command), *options], check=True, env=environment, stdout=sys.stderr)
        found = np.load(predicted)
        figures = {name: float(found[name]) for name in ("rows_per_second", "epochs", "seconds")}
        each = {"program": f"{DEEPCTR} DeepFM", **aucs_of(torch.from_numpy(found["logits"]), test), **figures}
    print(each, file=sys.stderr)
    return each


def ours(spark: SparkSession, config: Config, seed: int) -> list[dict[str, Any]]:
    """Figures of train_mamdr."""
    found = []
    for label in OURS:
        method, _, model = label.partition(" ")
        values = {"train.method": METHODS[method].name, "model.name": model or "mlp", "train.seed": seed}
        figures = train_mamdr(spark, with_values(config, values))
        found.append(
            {
                "program": f"ours: {figures['method']} {figures['model']} ({figures['engine']})",
                "auc": figures["test_auc"],
                "weighted_auc": figures["weighted_test_auc"],
                "rows_per_second": figures["samples_per_second"],
                "epochs": figures["epochs"],
                "seconds": figures["seconds"]["ranks"],
            }
        )
        print(found[-1], file=sys.stderr)
    return found


def report(found: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """The table."""
    by_program: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for each in found:
        by_program[each["set"], each["program"]].append(each)
    lines = [
        f"{machine()}, {options.threads} threads, seeds {options.seeds}, load {os.getloadavg()[0]:.1f}",
        "",
        "| set | program | mean domain AUC | weighted AUC | rows a second | epochs | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for (name, program), runs in by_program.items():
        auc, weighted = ([run[key] for run in runs] for key in ("auc", "weighted_auc"))
        spread = statistics.stdev(auc) if len(auc) > 1 else float("nan")
        rate, epochs, seconds = (
            statistics.median(run[key] for run in runs) for key in ("rows_per_second", "epochs", "seconds")
        )
        lines.append(
            f"| {name} | {program} | {statistics.mean(auc):.4f} ± {spread:.4f} | {statistics.mean(weighted):.4f} "
            f"| {rate:,.0f} | {epochs:g} | {seconds:.1f} |"
        )
    return "\n".join(lines)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=sorted(NAMED_SETS), default=["conflict_0.5"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--scale", type=float, default=1.0, help="share of the rows, domains and ids of synthetic logs")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS, help="model and setting; default: all")
    parser.add_argument("--plain", action="store_true", help="without our programs, and without Spark")
    parser.add_argument("--deepctr", action="store_true", help="also DeepFM of deepctr-torch, installed from PyPI")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--folder", default="", help="of the lakes; default: a temporary one")
    return parser.parse_args()


if __name__ == "__main__":
    main()
