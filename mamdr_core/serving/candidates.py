"""Candidates of `score.top_k`: read and encoded by Spark, sent to every machine as one file, looked up by domain."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from mamdr_core.config.features import Feature
from mamdr_core.config.serving import CandidateSettings, ScoreColumns
from mamdr_core.lake.core.tables import Lake
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.serving.opening import send_file
from mamdr_core.serving.requests import MALFORMED, encode_requests, requests_of
from mamdr_core.serving.scorer import index_of
from mamdr_core.serving.served import Served
from schemas import UNKNOWN_INDEX

ALL_DOMAINS = -2
"""Domain index of candidates that are offered in every domain."""
ORDER = "_order"
"""Column of an item's position among all items, sorted by id."""
REPRESENTATIVE = "_representative"
"""Column of the position of the first candidate with the same encoded values, which gets the same prediction."""
_AS_TEXT = "_as_text"
"""Suffix of a column that holds lists as text, which can be sorted."""
_NO_POSITIONS = np.zeros(0, dtype=np.int64)


class Candidates:
    """Items by domain.

    Args:
        table: from `sort_candidates`.

    Attributes:
        batch: the table as one record batch of C candidates.
        representatives: for each candidate, the position of the first one with the same encoded values, int32 [C].
    """

    def __init__(self, table: pa.Table) -> None:
        batches = table.combine_chunks().to_batches()
        self.batch: pa.RecordBatch = batches[0] if batches else pa.RecordBatch.from_pylist([], table.schema)
        domains = self.batch.column(index_of("domain")).to_numpy(zero_copy_only=False)
        self._order = self.batch.column(ORDER).to_numpy(zero_copy_only=False)
        self.representatives = self.batch.column(REPRESENTATIVE).to_numpy(zero_copy_only=False)
        distinct, first = np.unique(domains, return_index=True)
        edges = pairwise([*first.tolist(), len(domains)])
        self._ranges = {int(domain): range(*ends) for domain, ends in zip(distinct, edges, strict=True)}
        self._in_all_domains = self._range(ALL_DOMAINS)

    def __len__(self) -> int:
        """Number of pairs of an item and a domain, or of an item and all domains."""
        return len(self.batch)

    def positions(self, domain: int) -> NDArray[np.int64]:
        """Positions of a domain's candidates, sorted by item id, int64; each item once.

        Args:
            domain: index of the domain; UNKNOWN_INDEX has no candidates.
        """
        if domain == UNKNOWN_INDEX:
            return _NO_POSITIONS
        own, duplicates = self._own(domain)
        if not len(own):
            return self._in_all_domains
        both = np.concatenate([own, np.delete(self._in_all_domains, duplicates)])
        by_item: NDArray[np.int64] = both[self._order[both].argsort(kind="stable")]
        return by_item

    def count(self, domain: int) -> int:
        """Length of `positions(domain)`, without sorting the candidates."""
        if domain == UNKNOWN_INDEX:
            return 0
        own, duplicates = self._own(domain)
        return len(own) + len(self._in_all_domains) - len(duplicates)

    def _own(self, domain: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions of the candidates of this domain alone, and which of `_in_all_domains` are the same items."""
        own = self._range(domain)
        order, order_in_all = self._order[own], self._order[self._in_all_domains]
        found = np.searchsorted(order_in_all, order)
        within = found < len(order_in_all)
        return own, found[within][order_in_all[found[within]] == order[within]]

    def _range(self, domain: int) -> NDArray[np.int64]:
        found = self._ranges.get(domain, range(0))
        return np.arange(found.start, found.stop)


def read_candidates(
    raw: DataFrame, settings: CandidateSettings, lake: Lake, served: Served, features: Sequence[Feature]
) -> tuple[pa.Table, int]:
    """Read the candidates to the driver.

    Rows without an item, rows of a domain that the run was not trained on, and malformed records are left out.

    Args:
        raw: the rows.
        settings: expressions of their ids, and the largest number of rows.
        lake: the lake in which the run was recorded.
        served: the run.
        features: the run's features that are read from candidates.

    Returns:
        The candidates as a table for `Candidates`, and the number of rows that were left out.

    Raises:
        MamdrError: the rows cannot be read, lack a column, or are more than `settings.most`.
    """
    columns = ScoreColumns(user="null", item=settings.columns.item, domain=settings.columns.domain or "null")
    requests = requests_of(raw, columns, served, features).drop("key", "user")
    encoded = encode_requests(requests, lake, served, ("item", "domain"), features)
    unknown, in_all = F.col(index_of("domain")) == UNKNOWN_INDEX, F.col("domain").isNull()
    encoded = encoded.withColumn(index_of("domain"), F.when(in_all, ALL_DOMAINS).otherwise(F.col(index_of("domain"))))
    left_out = F.col(MALFORMED) | F.col("item").isNull() | (unknown & ~in_all)
    found: pa.Table = encoded.withColumn("_left_out", left_out).drop(MALFORMED).limit(settings.most + 1).toArrow()
    if len(found) > settings.most:
        raise MamdrError(
            f"candidates.path: holds more than {settings.most} rows, and every machine keeps all of them in memory: "
            "reduce the items, or raise score.candidates.most (docs/serving.md)"
        )
    kept = found.filter(pc.invert(found.column("_left_out"))).drop(["_left_out", "domain"])
    return sort_candidates(kept), len(found) - len(kept)


def sort_candidates(table: pa.Table) -> pa.Table:
    """Sort candidates by domain and item id, remove duplicates, and add the columns ORDER and REPRESENTATIVE.

    Args:
        table: `item`, the index of the domain or ALL_DOMAINS, and the item's encoded values.
    """
    domain, names = index_of("domain"), table.schema.names
    # Duplicates of an item in a domain are sorted by the other columns, so the kept row does not depend on read order.
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
    position = np.empty(len(distinct), dtype=np.int64)
    position[pc.sort_indices(distinct).to_numpy()] = np.arange(len(distinct))
    order = position[pc.index_in(table.column("item"), distinct).to_numpy()]
    domains = table.column(domain).to_numpy()
    is_first = np.ones(len(table), dtype=np.bool_)
    is_first[1:] = (np.diff(domains) != 0) | (np.diff(order) != 0)
    table = table.append_column(ORDER, pa.array(order.astype(np.int32))).filter(pa.array(is_first))
    representatives = _first_equal_rows(table.select(others))
    return table.select([*names, ORDER]).append_column(REPRESENTATIVE, pa.array(representatives.astype(np.int32)))


def _first_equal_rows(table: pa.Table) -> NDArray[np.int64]:
    """For each row, the position of the first row with the same values."""
    codes = np.zeros(len(table), dtype=np.int64)
    for column in table.columns:
        own = pc.fill_null(pc.index_in(column, pc.unique(column)), -1).to_numpy().astype(np.int64) + 1
        codes = np.unique(codes * (own.max(initial=0) + 1) + own, return_inverse=True)[1]
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    found: NDArray[np.int64] = first[inverse]
    return found


def send_candidates(spark: SparkSession, table: pa.Table) -> str:
    """Send candidates to every machine as a file, which its processes map into memory; returns the file's name."""
    whole = table.combine_chunks()

    def write(file: Path) -> None:
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, whole.schema) as writer:
            writer.write_table(whole)

    return send_file(spark, "candidates", ".arrow", write)


@lru_cache(maxsize=1)
def open_candidates(path: str) -> Candidates:
    """The candidates of a file, mapped into memory; cached, because Python workers run several tasks."""
    with pa.memory_map(path) as source:
        return Candidates(pa.ipc.open_file(source).read_all())
