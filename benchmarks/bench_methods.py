"""Test AUC of learning methods on a config, over seeds: each cell is a train_mamdr run, the spread is over seeds.

    .venv/bin/python benchmarks/bench_methods.py conf/ciao.yaml --methods joint mamdr --seeds 0 1 2 \
        --set input.path=../shared/data/ciao/ratings.csv.gz

A seed decides training; `--split-seeds` rebuilds the examples with other splits first.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def train(options: argparse.Namespace, lake: str, *sets: str) -> dict:
    """Run train_mamdr; its JSON line, with the seconds that the command took."""
    command = [str(ROOT / ".venv/bin/spark-submit"), str(ROOT / "jobs/train_mamdr.py"), "--config", options.config]
    for item in (*options.set, f"lake.root={lake}", *sets):
        command += ["--set", item]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return {**json.loads(done.stdout.rstrip().rsplit("\n", 1)[-1]), "wall_seconds": time.perf_counter() - started}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default="conf/demo.yaml")
    parser.add_argument("--methods", nargs="+", default=["joint", "mamdr"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--split-seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--set", action="append", default=[], metavar="a.b=value")
    options = parser.parse_args()
    print("| split seed | method | test AUC by seed | mean | spread | weighted | val AUC | rows/s | wall s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for split_seed in options.split_seeds:
        with tempfile.TemporaryDirectory() as folder:
            for method in options.methods:
                sets = (f"examples.seed={split_seed}", f"train.method={method}")
                runs = [train(options, f"{folder}/lake", *sets, f"train.seed={seed}") for seed in options.seeds]
                aucs = [run["test_auc"] for run in runs]
                print(
                    f"| {split_seed} | {method} | {' '.join(f'{auc:.4f}' for auc in aucs)} "
                    f"| {statistics.mean(aucs):.4f} | {max(aucs) - min(aucs):.4f} "
                    f"| {statistics.mean(run['weighted_test_auc'] for run in runs):.4f} "
                    f"| {statistics.mean(run['val_auc'] for run in runs):.4f} "
                    f"| {statistics.median(run['samples_per_second'] for run in runs):,.0f} "
                    f"| {' '.join(str(round(run['wall_seconds'])) for run in runs)} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
