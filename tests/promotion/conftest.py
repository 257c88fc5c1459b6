"""A lake with two days: a run of each, the second with users and a domain that the first has not seen."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from mamdr_core.config.job_config import Config, parse_config, with_values
from mamdr_core.lake.core.tables import Lake
from mamdr_core.lake.examples.job import build_examples
from mamdr_core.lake.ingest.job import ingest_clicks
from mamdr_core.training.driver import train_mamdr

DAYS = ("2026-01-01", "2026-01-02")


@dataclass(frozen=True)
class TwoDays:
    """Configurations and figures of the runs by day."""

    configs: list[Config]
    runs: list[dict]
    lake: Lake

    @property
    def ids(self):
        return [run["run_id"] for run in self.runs]

    def gate(self, day, **limits):
        changes = {"gate.run_id": self.ids[day], **{f"gate.{name}": value for name, value in limits.items()}}
        return with_values(self.configs[day], changes)


def write_day(path, number):
    """A log whose clicks depend on its numeric column; day 2 has additional users, items and a domain."""
    random = np.random.default_rng(number)
    rows, domains = 3000, 3 + number
    taste = random.normal(loc=number, size=rows)
    log = pd.DataFrame(
        {
            "user": [f"u{n}" for n in random.integers(number * 10, 60 + number * 20, rows)],
            "item": [f"i{n}" for n in random.integers(0, 30 + number * 5, rows)],
            "domain": [f"d{n}" for n in random.integers(0, domains, rows)],
            "label": random.random(rows) < 1 / (1 + np.exp(1 - 1.5 * (taste - number))),
            "taste": taste,
            "t": pd.to_datetime(DAYS[number]).timestamp() + np.arange(rows),
        }
    )
    path.mkdir(parents=True)
    log.to_parquet(path / "log.parquet", index=False)


@pytest.fixture(scope="module")
def two_days(spark, tmp_path_factory) -> TwoDays:
    root = tmp_path_factory.mktemp("promoting")
    config = parse_config(
        {
            "lake": {"root": str(root / "lake")},
            "input": {"columns": {"label": "label", "event_time": "timestamp_seconds(t)"}},
            "features": [{"name": "taste", "kind": "numeric"}],
            "model": {"embedding_dim": 4, "hidden": [8], "dropout": 0.0, "train_ids": False},
            "train": {
                "method": "mamdr", "epochs": 10, "rounds_per_epoch": 8, "validate_every": 8,
                "batch_size": 64, "device": "cpu",
                "inner": {"lr": 0.02}, "dr": {"k": 1, "support_rows": 64, "epochs": 1},
            },
        }
    )  # fmt: skip
    configs, runs = [], []
    for number, day in enumerate(DAYS):
        write_day(root / "raw" / day, number)
        configs.append(with_values(config, {"input.path": str(root / "raw" / day), "examples.until": day}))
        ingest_clicks(spark, configs[-1])
        build_examples(spark, configs[-1])
        runs.append(train_mamdr(spark, configs[-1]))
    return TwoDays(configs, runs, Lake(spark, config.lake.root))
