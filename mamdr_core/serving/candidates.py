"""The candidates of score.top_k: read and encoded by Spark, sent to every machine as one file, looked up by domain."""

import atexit
import shutil
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mamdr_core.errors import MamdrError
from mamdr_core.features import Feature
from mamdr_core.lake.core.tables import Lake
from mamdr_core.serving.requests import MALFORMED, encode_requests, requests_of
from mamdr_core.serving.scorer import index_of
from mamdr_core.serving.served import Served
from mamdr_core.serving.settings import CandidateSettings, ScoreColumns
from schemas import UNKNOWN_INDEX

EVERY = -2
"""Stands for the domain of a candidate of every domain; no index."""
ORDER = "_order"
"""Column of an item's place among all items by their ids."""
ALIKE = "_alike"
"""Column of the place of the first candidate that a model cannot tell from this one, such as of another unknown id."""
_AS_TEXT = "_as_text"
"""Behind the name of a column of lists: the same lists as text, which can be sorted."""
_NOTHING = np.zeros(0, dtype=np.int64)


class Candidates:
    """Items by domain.

    Args:
        table: from `sorted_candidates`.

    Attributes:
        batch: its columns, in one piece.
        alike: of each, the place of the first one that a model cannot tell from it, int32.
    """

    def __init__(self, table: pa.Table) -> None:
        batches = table.combine_chunks().to_batches()
        self.batch: pa.RecordBatch = batches[0] if batches else pa.RecordBatch.from_pylist([], table.schema)
        domains = self.batch.column(index_of("domain")).to_numpy(zero_copy_only=False)
        self._order = self.batch.column(ORDER).to_numpy(zero_copy_only=False)
        self.alike = self.batch.column(ALIKE).to_numpy(zero_copy_only=False)
        distinct, first = np.unique(domains, return_index=True)
        edges = pairwise([*first.tolist(), len(domains)])
        self._ranges = {int(domain): range(*ends) for domain, ends in zip(distinct, edges, strict=True)}
        self._every = self._places(EVERY)

    def __len__(self) -> int:
        """Number of pairs of an item and a domain, or of an item and all domains."""
        return len(self.batch)

    def of(self, domain: int) -> NDArray[np.int64]:
        """Places of a domain's candidates by item id, int64 [C]; one that is also of every domain counts once.

        Args:
            domain: its index; UNKNOWN_INDEX has none.
        """
        own, repeated = self._own(domain)
        if not len(own):
            return self._every if domain != UNKNOWN_INDEX else own
        both = np.concatenate([own, np.delete(self._every, repeated)])
        by_item: NDArray[np.int64] = both[self._order[both].argsort(kind="stable")]
        return by_item

    def count(self, domain: int) -> int:
        """Number of a domain's candidates."""
        own, repeated = self._own(domain)
        return len(own) + (len(self._every) - len(repeated) if domain != UNKNOWN_INDEX else 0)

    def _own(self, domain: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places of a domain's own candidates, and which of those of every domain are the same items."""
        own = self._places(domain) if domain != UNKNOWN_INDEX else _NOTHING
        order, every = self._order[own], self._order[self._every]
        place = np.searchsorted(every, order)
        within = place < len(every)
        return own, place[within][every[place[within]] == order[within]]

    def _places(self, domain: int) -> NDArray[np.int64]:
        found = self._ranges.get(domain, range(0))
        return np.arange(found.start, found.stop)


def read_candidates(
    raw: DataFrame, settings: CandidateSettings, lake: Lake, served: Served, features: Sequence[Feature]
) -> tuple[pa.Table, int]:
    """The candidates on the driver, as `Candidates` takes them, and how many rows are left out.

    Left out are rows without an item, of a domain that the run does not know, and lines that are no whole records.

    Args:
        raw: the rows.
        settings: expressions of their ids, and how many are read at most.
        lake: that the run was recorded in.
        served: the run.
        features: those of its features that candidates have.

    Raises:
        MamdrError: they cannot be read, lack a column, or are more than `settings.most`.
    """
    columns = ScoreColumns(user="null", item=settings.columns.item, domain=settings.columns.domain or "null")
    requests = requests_of(raw, columns, served, features).drop("key", "user")
    encoded = encode_requests(requests, lake, served, ("item", "domain"), features)
    unknown, every = F.col(index_of("domain")) == UNKNOWN_INDEX, F.col("domain").isNull()
    encoded = encoded.withColumn(index_of("domain"), F.when(every, EVERY).otherwise(F.col(index_of("domain"))))
    left_out = F.col(MALFORMED) | F.col("item").isNull() | (unknown & ~every)
    found = _collect(encoded.withColumn("_left_out", left_out).drop(MALFORMED), settings.most)
    kept = found.filter(pc.invert(found.column("_left_out"))).drop(["_left_out", "domain"])
    return sorted_candidates(kept), len(found) - len(kept)


def _collect(rows: DataFrame, most: int) -> pa.Table:
    found: pa.Table = rows.limit(most + 1).toArrow()
    if len(found) > most:
        raise MamdrError(
            f"candidates.path: holds more than {most} rows, and every machine keeps all of them in memory: name fewer "
            "items, or raise score.candidates.most (docs/serving.md)"
        )
    return found


def sorted_candidates(table: pa.Table) -> pa.Table:
    """Candidates by domain, within it by item id, each once; with the columns ORDER and ALIKE.

    Args:
        table: `item`, index of the domain (EVERY: of all), and what is known of the item.
    """
    domain, names = index_of("domain"), table.schema.names
    # Of rows of the same item and domain the first by the other columns stays, whatever order they were read in.
    for number, field in enumerate(table.schema):
        if pa.types.is_nested(field.type):
            text = pc.binary_join(pc.cast(table.column(number), pa.list_(pa.string())), ",")
            table = table.append_column(f"{field.name}{_AS_TEXT}", text)
    others = [
        field.name
        for field in table.schema
        if field.name not in (domain, "item") and not pa.types.is_nested(field.type)
    ]
    table = table.sort_by([(name, "ascending") for name in (domain, "item", *others)])
    distinct = pc.unique(table.column("item"))
    place = np.empty(len(distinct), dtype=np.int64)
    place[pc.sort_indices(distinct).to_numpy()] = np.arange(len(distinct))
    order = place[pc.index_in(table.column("item"), distinct).to_numpy()]
    domains = table.column(domain).to_numpy()
    is_first = np.ones(len(table), dtype=np.bool_)
    is_first[1:] = (np.diff(domains) != 0) | (np.diff(order) != 0)
    table = table.append_column(ORDER, pa.array(order.astype(np.int32))).filter(pa.array(is_first))
    alike = _first_alike(table.select(others))
    return table.select([*names, ORDER]).append_column(ALIKE, pa.array(alike.astype(np.int32)))


def _first_alike(table: pa.Table) -> NDArray[np.int64]:
    """By row, the place of the first row that has the same values."""
    codes = np.zeros(len(table), dtype=np.int64)
    for column in table.columns:
        own = pc.fill_null(pc.index_in(column, pc.unique(column)), -1).to_numpy().astype(np.int64) + 1
        codes = np.unique(codes * (own.max(initial=0) + 1) + own, return_inverse=True)[1]
    _, first, place = np.unique(codes, return_index=True, return_inverse=True)
    alike: NDArray[np.int64] = first[place]
    return alike


def send_candidates(spark: SparkSession, table: pa.Table) -> str:
    """Send candidates to every machine as a file, which its processes map into memory; returns the file's name."""
    folder = mkdtemp(prefix="mamdr-candidates-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # Spark fetches it whenever an executor starts
    file = Path(folder) / f"{Path(folder).name}.arrow"
    whole = table.combine_chunks()
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, whole.schema) as writer:
        writer.write_table(whole)
    spark.sparkContext.addFile(str(file))
    return file.name


@lru_cache(maxsize=1)
def open_candidates(path: str) -> Candidates:
    """The candidates of a file, mapped into memory; workers live on from task to task."""
    with pa.memory_map(path) as source:
        return Candidates(pa.ipc.open_file(source).read_all())
