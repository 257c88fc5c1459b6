"""Pinned versions of Parquet files that tests define, without Spark."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mamdr_core.config.features import Feature
from mamdr_core.shards.pinned import PinnedExamples, PinnedFile
from schemas import SPLITS

FEATURES = (
    Feature(name="hour", kind="numeric"),
    Feature(name="weekday", kind="categorical", buckets=7),
    Feature(name="taste", kind="vector", of="user", size=3, path="nowhere"),
)
USERS, ITEMS = 50, 20
LISTS = {"tags": pa.int32(), "tags_weights": pa.float32(), "seen": pa.int32()}


@pytest.fixture
def features() -> tuple[Feature, ...]:
    """A numeric, a categorical and a vector feature."""
    return FEATURES


@pytest.fixture
def make_rows() -> Callable[..., pd.DataFrame]:
    """A function that makes examples, sorted by domain and key, from the number of rows by domain."""

    def make(counts: list[int], seed: int = 0) -> pd.DataFrame:
        random = np.random.default_rng(seed)
        rows = sum(counts)
        frame = pd.DataFrame(
            {
                "user": random.integers(-1, USERS, rows).astype(np.int32),
                "item": random.integers(-1, ITEMS, rows).astype(np.int32),
                "domain": np.repeat(np.arange(len(counts)), counts).astype(np.int32),
                "label": random.integers(0, 2, rows).astype(np.int32),
                "key": random.integers(-(2**62), 2**62, rows),
                "true_probability": random.random(rows),
                "hour": np.where(random.random(rows) < 0.1, np.nan, random.normal(12, 5, rows)).astype(np.float32),
                "weekday": random.integers(-1, 7, rows).astype(np.int32),
            }
        )
        return frame.sort_values(["domain", "key"], ignore_index=True)

    return make


@pytest.fixture
def make_pinned(tmp_path: Path) -> Callable[..., PinnedExamples]:
    """A function that makes a pinned version from frames, one file of the train split for each."""

    def make(frames: list[pd.DataFrame], domains: int, row_group: int = 10, name: str = "part") -> PinnedExamples:
        files = []
        for number, frame in enumerate(frames):
            path = tmp_path / f"{name} {number}.parquet"
            table = pa.Table.from_pandas(frame.drop(columns=LISTS, errors="ignore"), preserve_index=False)
            for name, kind in LISTS.items():
                if name in frame:
                    table = table.append_column(name, pa.array(frame[name].tolist(), pa.list_(kind)))
            pq.write_table(table, path, row_group_size=row_group)
            url = "file:" + str(path).replace(" ", "%20")  # the encoding of Spark
            domains_of_file, rows = np.unique(frame["domain"], return_counts=True)
            files.append(PinnedFile(url, "train", domains_of_file.astype(np.int32), rows))
        vectors = tmp_path / "vectors.parquet"
        random = np.random.default_rng(1)
        table = pa.table(
            {
                "index": pa.array([3, 0, 49], pa.int32()),
                "name": ["taste"] * 3,
                "vector": pa.array(random.random((3, 3)).tolist(), pa.list_(pa.float32())),
            }
        )
        pq.write_table(table, vectors, row_group_size=2)
        together = pd.concat(frames)
        counts = {split: np.zeros(domains, dtype=np.int64) for split in SPLITS}
        counts["train"] = np.bincount(together["domain"], minlength=domains)
        sizes = {"user": USERS, "item": ITEMS, "domain": domains, "weekday": 7, "tags": 9, "seen": ITEMS}
        known = together["hour"].dropna().astype(float)
        return PinnedExamples(
            versions={"examples": 3},
            files=tuple(files),
            domain_ids=tuple(f"d{number}" for number in range(domains)),
            counts=counts,
            sizes=sizes,
            vector_files={"user": (f"file:{vectors}",)},
            numeric={"hour": (known.mean(), known.std(ddof=0) or 1.0)},
        )

    return make
