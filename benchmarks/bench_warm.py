"""The gain of a warm start from day to day, on logs with drift and a domain that appears late.

    .venv/bin/python benchmarks/bench_warm.py --seeds 0 1 2 --days 3 --rows 10000 --drift 0.1

For each seed (of the logs and of training), the examples of a day are all clicks until then, as in mamdr_daily. On the
first day one run starts cold. On every later day one run starts cold and one starts from the warm run of the day
before, with the same settings. Compute is rows descended on in inner loops, which does not depend on the machine or its
load.

Prints by day: test AUC of both; rows of both until early stopping; and, for theta_S alone, the rows after which the
warm run's validation AUC first reached the best one of the cold run, as a share of the rows that the cold run needed.
"""

import argparse
import statistics
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from machine import machine
from pyspark.sql import SparkSession

from mamdr_core.config.job_config import Config, load_config, with_values
from mamdr_core.datasets.synthetic import generate_logs
from mamdr_core.lake.core.session import spark_session
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.job import build_examples
from mamdr_core.lake.ingest.job import ingest_clicks
from mamdr_core.training.driver import train_mamdr

CONFIG = Path(__file__).parents[1] / "conf" / "demo.yaml"


@dataclass(frozen=True)
class Made:
    """A run.

    Attributes:
        figures: its JSON output.
        curve: by rows descended on, the validation AUC of theta_S alone.
        rows: that it descended on in all.
    """

    figures: dict[str, Any]
    curve: dict[int, float]
    rows: int

    def reaches(self, auc: float) -> int | None:
        """The rows after which the validation AUC is first as high."""
        return next((rows for rows, found in sorted(self.curve.items()) if found >= auc), None)


def main() -> None:
    options = _parse()
    pairs = []
    print(
        "| seed | day | test AUC, cold | warm | rows, cold | warm | rows to best, cold | warm | best, cold | parent |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    with spark_session("bench_warm") as spark:
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as folder:
                pairs += measure(spark, configure(folder, seed, options), options.days)
    print_result(pairs, options)


def configure(folder: str, seed: int, options: argparse.Namespace) -> Config:
    """conf/demo.yaml over more days, on one rank."""
    config = load_config(str(CONFIG))
    features = [
        {"name": f"{of}_vector", "kind": "vector", "of": of, "size": 16, "path": f"{folder}/raw_vectors/{of}s"}
        for of in ("user", "item")
    ]
    synthetic = {
        "rows": options.rows * options.days,
        "days": options.days,
        "drift": options.drift,
        "late_domains": 1,
        "seed": seed,
    }
    values = {f"synthetic.{name}": value for name, value in synthetic.items()}
    values |= {"lake.root": f"{folder}/lake", "input.path": f"{folder}/raw", "features": features}
    training = {"ranks": 1, "seed": seed, "engine": "eager"}  # so few rows do not repay compiling
    return with_values(config, values | {f"train.{name}": value for name, value in training.items()})


def measure(spark: SparkSession, config: Config, days: int) -> list[tuple[int, Made, Made]]:
    """By day from the second: its number, the cold run and the warm run."""
    assert config.synthetic is not None
    generate_logs(spark, config)
    ingest_clicks(spark, config)
    pairs = []
    before = ""
    for day in range(days):
        until = str(config.synthetic.first_day + timedelta(days=day))
        on_day = with_values(config, {"examples.until": until})
        build_examples(spark, on_day)
        cold = train(spark, on_day)
        warm = train(spark, with_values(on_day, {"train.warm_start": before})) if before else cold
        if before:
            pairs.append((day + 1, cold, warm))
            print(describe(config.synthetic.seed, *pairs[-1]), flush=True)
        before = warm.figures["run_id"]
    return pairs


def train(spark: SparkSession, config: Config) -> Made:
    figures = train_mamdr(spark, config)
    curves = Lake(spark, config.lake).read("training_curves")
    found = curves.where(curves.run_id == figures["run_id"]).collect()
    shared = {row["rows"]: row["val_auc"] for row in found if row["phase"] == "shared"}
    return Made(figures, shared, max(row["rows"] for row in found))


def describe(seed: int, day: int, cold: Made, warm: Made) -> str:
    best = max(cold.curve.values())
    return (
        f"| {seed} | {day} | {cold.figures['test_auc']:.4f} | {warm.figures['test_auc']:.4f} | {cold.rows:,} | "
        f"{warm.rows:,} | {cold.reaches(best):,} | {warm.reaches(best)} | {best:.4f} | {warm.curve[0]:.4f} |"
    )


def print_result(pairs: list[tuple[int, Made, Made]], options: argparse.Namespace) -> None:
    """The table of means over seeds and days, with their spread."""
    reached = [
        (cold.reaches(max(cold.curve.values())), warm.reaches(max(cold.curve.values()))) for _, cold, warm in pairs
    ]
    shares = [warm / cold for cold, warm in reached if cold and warm is not None]
    values = {
        "test AUC, cold": [cold.figures["test_auc"] for _, cold, _ in pairs],
        "test AUC, warm - cold": [warm.figures["test_auc"] - cold.figures["test_auc"] for _, cold, warm in pairs],
        "rows until early stop, warm over cold": [warm.rows / cold.rows for _, cold, warm in pairs],
        "theta_S: rows to the cold run's best validation AUC, warm over cold": shares,
    }
    print(f"\n{machine()}; {options.rows:,} rows a day, drift {options.drift}, seeds {options.seeds}.\n")
    print("| what | mean | standard deviation | least | most | runs |\n|---|---|---|---|---|---|")
    for what, found in values.items():
        spread = statistics.stdev(found) if len(found) > 1 else 0.0
        print(
            f"| {what} | {statistics.mean(found):.4f} | {spread:.4f} | {min(found):.4f} | {max(found):.4f} | "
            f"{len(found)} of {len(pairs)} |"
        )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--days", type=int, default=3)
    parser.add_argument("--rows", type=int, default=10_000, help="a day")
    parser.add_argument("--drift", type=float, default=0.1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
