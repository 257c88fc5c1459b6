"""A rank's share of the pinned examples: its rows as columns sorted by domain, and the fixed vectors as tables."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from mamdr_core.engine.columns import Columns
from mamdr_core.errors import MamdrError
from mamdr_core.features import Feature
from mamdr_core.pace import ProgressLog
from mamdr_core.shards.arrays import Arrays
from mamdr_core.shards.filling import ColumnsFiller, FilePlaces
from mamdr_core.shards.pinned import PinnedExamples, PinnedFile
from mamdr_core.shards.reading import RowGroup, read_batches
from mamdr_core.shards.row_groups import ReadFigures, all_row_groups, find_row_groups
from mamdr_core.shards.settings import ReaderName
from schemas import SAMPLE_WEIGHT, TABLES, examples_table, weights_of

logger = logging.getLogger(__name__)

GB = 1e9
MOST_THREADS = 4
"""Files read at a time by a rank, at most."""
_ROW_BYTES = 4 + 8 + 16
"""Of a row beside its ids and numeric features: label, true probability, and its key or its places in two orders."""


class Share:
    """What one rank reads of a pinned version.

    Args:
        pinned: the version.
        features: the declared features.
        own: by domain, whether its rows belong to the rank, [n].
        host_memory: GB that rows and vectors may take in memory; a larger share is memory-mapped. 0: no bound.
        scratch: folder of the mapped files; empty: the system's temporary folder.
        reader: what reads the row groups.

    Attributes:
        column_names: what is read of the examples.
        arrays: makes the arrays that grow with the rows.
        figures: what has been read so far.
    """

    def __init__(
        self,
        pinned: PinnedExamples,
        features: Sequence[Feature],
        own: NDArray[np.bool_],
        host_memory: float = 0.0,
        scratch: str = "",
        reader: ReaderName = "petastorm",
    ) -> None:
        self._pinned, self._features, self._own, self._reader = pinned, features, own, reader
        self._ids = ["user", "item", "domain", *(f.name for f in features if f.is_id)]
        self._several = [feature for feature in features if feature.has_several_ids]
        weights = [weights_of(feature.name) for feature in self._several if feature.weights]
        self.column_names = [*self._ids, *weights, "label", "key", "true_probability", *pinned.numeric]
        if pinned.has_weights:
            self.column_names.append(SAMPLE_WEIGHT)
        if any(file.days for file in pinned.files):
            self.column_names.append("ds")
        self.figures = ReadFigures()
        needed = self.needed_bytes() / GB
        self.arrays = Arrays(bool(host_memory) and needed > host_memory, scratch)
        if self.arrays.mapped:
            logger.info(
                "rows and vectors take %.3g GB, train.host_memory is %g: memory-mapped in %s",
                needed, host_memory, self.arrays.folder,
            )  # fmt: skip

    def needed_bytes(self) -> int:
        """Bytes of the rows of all splits and of the vectors."""
        rows = sum(int(counts[self._own].sum()) for counts in self._pinned.counts.values())
        single = len(self._ids) - len(self._several) + len(self._pinned.numeric) + self._pinned.has_weights
        lists = sum(feature.length * (2 if feature.weights else 1) for feature in self._several)
        width = 4 * (single + lists) + _ROW_BYTES
        vectors = sum((self._pinned.sizes[f.of] + 1) * f.size * 4 for f in self._features if f.kind == "vector")
        return rows * width + vectors

    def row_groups(self, split: str) -> list[RowGroup]:
        """The row groups that hold the rank's rows of a split, counted in `figures` as read."""
        return find_row_groups(self._files(split), self._own, self.column_names, self.figures)

    def columns(self, split: str) -> Columns:
        """Read the rank's rows of a split, from the row groups that hold them.

        Args:
            split: train, val or test.

        Returns:
            Rows sorted by domain, inside a domain by key: the same order however they were packed into files.

        Raises:
            MamdrError: files are gone or changed, examples do not fit their vocabularies, or no room in `scratch`.
        """
        held = [file.domains[self._own[file.domains]] for file in self._files(split)]
        are_shared = bool(held) and bool((np.bincount(np.concatenate(held)) > 1).any())
        filler = self._filled(split, keep_keys=are_shared)
        if filler.lost_keys:  # a file that is not as build_examples writes it
            logger.info("rows of a domain are not sorted by key: the %s split is read again, and sorted", split)
            del filler
            filler = self._filled(split, keep_keys=True)
        columns = filler.finish()
        if split == "train":
            self._warn_of_zero_weights(columns)
        return columns

    def _warn_of_zero_weights(self, columns: Columns) -> None:
        """Warn of domains whose training rows all have weight 0: they are read, and learn nothing."""
        if columns.weights is None:
            return
        total_n = np.bincount(columns.ids["domain"].numpy() - 1, columns.weights.numpy(), len(columns.offsets) - 1)
        unweighted = columns.occupied[total_n[columns.occupied] == 0]
        if len(unweighted):
            logger.warning(
                "the training rows of %d domains, such as %s, all have weight 0: these domains learn nothing",
                len(unweighted), self._pinned.domain_ids[unweighted[0]],
            )  # fmt: skip

    def _filled(self, split: str, keep_keys: bool) -> ColumnsFiller:
        """Columns of a split; rows of domains that several files hold are not sorted by key yet."""
        pinned, files = self._pinned, self._files(split)
        counts = np.where(self._own, pinned.counts[split], 0)
        sizes = {name: pinned.sizes[name] for name in self._ids}
        weights, numeric = pinned.has_weights, pinned.numeric
        filler = ColumnsFiller(counts, sizes, numeric, self.arrays, weights, self._several, keep_keys)
        places: dict[str, FilePlaces] = {}
        for file in files:
            mine = self._own[file.domains]
            places[file.url] = filler.open_file(file.domains[mine], file.rows[mine])
        found = sum(file.expected for file in places.values())
        if filler.reserved:
            self._fill(filler, places, {file.url: file.days for file in files}, self.row_groups(split))
            found = sum(file.taken for file in places.values())
        if not (filler.reserved and all(file.complete for file in places.values())):
            raise MamdrError(
                f"read {found} {split} rows of examples version {pinned.versions['examples']}, expected "
                f"{counts.sum()}: were its files removed? Run build_examples, or keep versions longer"
            )
        return filler

    def _fill(
        self,
        filler: ColumnsFiller,
        places: Mapping[str, FilePlaces],
        days: Mapping[str, tuple[int, int] | None],
        groups: Sequence[RowGroup],
    ) -> None:
        """Read row groups, each thread those of some files."""
        threads = min(MOST_THREADS, pa.cpu_count(), len(places)) or 1
        part_of = {url: number % threads for number, url in enumerate(places)}
        table = examples_table(self._features, self._pinned.has_weights)
        pace = ProgressLog("reading", sum(file.expected for file in places.values()))

        def read(part: int) -> None:
            mine = [group for group in groups if part_of[group.url] == part]
            for url, batch in read_batches(mine, table, self.column_names, self._reader):
                file = places[url]
                if chosen := days[url]:
                    batch = _of_days(batch, *chosen)
                before = file.taken
                if len(batch):
                    filler.add(file, batch)
                pace.add(file.taken - before)

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(read, range(threads)))

    def _files(self, split: str) -> list[PinnedFile]:
        return [file for file in self._pinned.files if file.split == split and self._own[file.domains].any()]

    def vectors(self, trainable: bool | None = None) -> dict[str, Tensor]:
        """The vectors by feature, float32 [vocabulary + 1, size]; zeros for ids without one, and for row 0.

        Args:
            trainable: those that are trained, or those that are fixed; None: all.

        Raises:
            MamdrError: the lake holds no vectors of that name and length.
        """
        asked = [feature for feature in self._features if feature.kind == "vector"]
        asked = [feature for feature in asked if trainable is None or feature.trainable == trainable]
        tables = {}
        for feature in asked:
            tables[feature.name] = self.arrays.empty((self._pinned.sizes[feature.of] + 1, feature.size), np.float32)
            tables[feature.name].fill(0.0)
        for of, urls in self._pinned.vector_files.items():
            declared = TABLES[f"{of}_features"]
            wanted = [feature for feature in asked if feature.of == of]
            if not wanted:
                continue
            found = set()
            groups = all_row_groups(urls, self.figures)
            for _, read in read_batches(groups, declared, ["index", "name", "vector"], self._reader):
                for feature in wanted:
                    mine = read.filter(pc.equal(read.column("name"), feature.name))
                    if len(mine) and _put_vectors(mine, tables[feature.name]):
                        found.add(feature.name)
            for feature in wanted:
                if feature.name not in found:
                    raise MamdrError(
                        f"{declared.name} holds no vectors {feature.name} of length {feature.size}: run build_examples "
                        "again"
                    )
        return {name: torch.from_numpy(vectors) for name, vectors in tables.items()}


def _of_days(batch: pa.RecordBatch, first: int, last: int) -> pa.RecordBatch:
    """The rows of some days (days since 1970), without `ds`."""
    day = batch.column("ds").cast(pa.int32())
    chosen = pc.and_(pc.greater_equal(day, first), pc.less_equal(day, last))
    return batch.select([name for name in batch.schema.names if name != "ds"]).filter(chosen)


def _put_vectors(read: pa.RecordBatch, table_VD: NDArray[Any]) -> bool:
    """Put vectors in the rows of their indices, unless their length is not the table's."""
    vectors = read.column("vector")
    if (np.diff(vectors.offsets) != table_VD.shape[1]).any():
        return False
    table_VD[read.column("index").to_numpy() + 1] = vectors.flatten().to_numpy().reshape(-1, table_VD.shape[1])
    return True
