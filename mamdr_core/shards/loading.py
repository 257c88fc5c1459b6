"""A rank's share of the pinned examples: its rows as columns sorted by domain, and the fixed vectors as tables."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from mamdr_core.config.features import Feature
from mamdr_core.config.training import ReaderName
from mamdr_core.engine.columns import Columns
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.runtime.pace import ProgressLog
from mamdr_core.shards.arrays import Arrays
from mamdr_core.shards.filling import ColumnsFiller, FilePlaces
from mamdr_core.shards.pinned import PinnedExamples, PinnedFile
from mamdr_core.shards.reading import RowGroupRun, read_batches, read_runs
from mamdr_core.shards.row_groups import ReadFigures, all_row_groups, find_row_groups
from schemas import SAMPLE_WEIGHT, TABLES, examples_table, weights_of

logger = logging.getLogger(__name__)

GB = 1e9
MAX_THREADS = 4
"""Largest number of files that a rank reads concurrently."""
_ROW_BYTES = 4 + 8 + 16
"""Bytes of a row besides ids and numeric features: label, true probability, and its key or its place in two orders."""


class Share:
    """The part of a pinned version that one rank reads.

    Args:
        own: by domain, whether its rows belong to the rank, [n].
        host_memory: GB that rows and vectors may take in memory; a larger share is memory-mapped. 0: no bound.
        holds_fixed: whether fixed vectors count towards the size; false if the ranks of a machine map one copy of them.
        scratch: folder of the mapped files; empty: the system's temporary folder.

    Attributes:
        column_names: columns that are read from examples.
        arrays: allocates the arrays that grow with the rows.
        figures: counts of the data read so far.
    """

    def __init__(
        self,
        pinned: PinnedExamples,
        features: Sequence[Feature],
        own: NDArray[np.bool_],
        host_memory: float = 0.0,
        scratch: str = "",
        reader: ReaderName = "petastorm",
        holds_fixed: bool = True,
    ) -> None:
        self._holds_fixed = holds_fixed
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
        """Size in bytes of the rows of all splits and of the vectors that this process holds."""
        rows = sum(int(counts[self._own].sum()) for counts in self._pinned.counts.values())
        single = len(self._ids) - len(self._several) + len(self._pinned.numeric) + self._pinned.has_weights
        lists = sum(feature.length * (2 if feature.weights else 1) for feature in self._several)
        width = 4 * (single + lists) + _ROW_BYTES
        shapes = self.vector_shapes(None if self._holds_fixed else True)
        return rows * width + sum(4 * ids * size for ids, size in shapes.values())

    def row_groups(self, split: str) -> list[RowGroupRun]:
        """The row groups that contain the rank's rows of a split; they are counted in `figures` as read."""
        return find_row_groups(self._files(split), self._own, self.column_names, self.figures)

    def columns(self, split: str) -> Columns:
        """Read the rank's rows of a split, from the row groups that contain them.

        Returns:
            Rows sorted by domain and key, an order that does not depend on the files.

        Raises:
            MamdrError: files were removed or changed, indices exceed their vocabularies, or `scratch` is full.
        """
        domains = [file.domains[self._own[file.domains]] for file in self._files(split)]
        are_shared = bool(domains) and bool((np.bincount(np.concatenate(domains)) > 1).any())
        filler = self._read(split, keep_keys=are_shared)
        if filler.lost_keys:  # a file that build_examples did not write
            logger.info("rows of a domain are not sorted by key: reading the %s split again to sort them", split)
            del filler
            filler = self._read(split, keep_keys=True)
        columns = filler.finish()
        if split == "train":
            self._warn_of_zero_weights(columns)
        return columns

    def _warn_of_zero_weights(self, columns: Columns) -> None:
        """Warn about domains whose training rows all have weight 0, so that nothing is learned from them."""
        if columns.weights is None:
            return
        total_n = np.bincount(columns.ids["domain"].numpy() - 1, columns.weights.numpy(), len(columns.offsets) - 1)
        unweighted = columns.occupied[total_n[columns.occupied] == 0]
        if len(unweighted):
            logger.warning(
                "the training rows of %d domains, such as %s, all have weight 0: nothing is learned from these domains",
                len(unweighted), self._pinned.domain_ids[unweighted[0]],
            )  # fmt: skip

    def _read(self, split: str, keep_keys: bool) -> ColumnsFiller:
        """Read the columns of a split; domains of several files are not sorted by key yet."""
        pinned, files = self._pinned, self._files(split)
        counts = np.where(self._own, pinned.counts[split], 0)
        sizes = {name: pinned.sizes[name] for name in self._ids}
        weights, numeric = pinned.has_weights, pinned.numeric
        filler = ColumnsFiller(counts, sizes, numeric, self.arrays, weights, self._several, keep_keys)
        places: dict[str, FilePlaces] = {}
        for file in files:
            own = self._own[file.domains]
            places[file.url] = filler.open_file(file.domains[own], file.rows[own])
        found = sum(file.expected for file in places.values())
        if filler.reserved:
            self._fill(filler, places, {file.url: file.days for file in files}, self.row_groups(split))
            found = sum(file.taken for file in places.values())
        if not (filler.reserved and all(file.complete for file in places.values())):
            raise MamdrError(
                f"read {found} {split} rows of examples version {pinned.versions['examples']}, expected "
                f"{counts.sum()}: were its files removed? Run build_examples, or increase the retention of versions"
            )
        return filler

    def _fill(
        self,
        filler: ColumnsFiller,
        places: Mapping[str, FilePlaces],
        days: Mapping[str, tuple[int, int] | None],
        runs: Sequence[RowGroupRun],
    ) -> None:
        """Read row groups in several threads, each of which takes the next file when it has read one."""
        threads = min(MAX_THREADS, pa.cpu_count(), len(runs)) or 1
        table = examples_table(self._features, self._pinned.has_weights)
        pace = ProgressLog("reading", sum(file.expected for file in places.values()))

        def read(run: tuple[str, Iterator[pa.RecordBatch]]) -> None:
            url, batches = run
            for batch in batches:
                selected = _select_days(batch, *limits) if (limits := days[url]) else batch
                pace.add(filler.add(places[url], selected) if len(selected) else 0)

        readable = list(read_runs(runs, table, self.column_names, self._reader))
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(read, readable))

    def _files(self, split: str) -> list[PinnedFile]:
        return [file for file in self._pinned.files if file.split == split and self._own[file.domains].any()]

    def vector_shapes(self, trainable: bool | None = None) -> dict[str, tuple[int, int]]:
        """Number of rows and size of the vectors by feature; see `vectors`."""
        return {
            feature.name: (self._pinned.sizes[feature.of] + 1, feature.size)
            for feature in self._vector_features(trainable)
        }

    def _vector_features(self, trainable: bool | None) -> list[Feature]:
        vectors = [feature for feature in self._features if feature.kind == "vector"]
        return [feature for feature in vectors if trainable is None or feature.trainable == trainable]

    def vectors(self, trainable: bool | None = None) -> dict[str, Tensor]:
        """The vectors by feature, float32 [vocabulary + 1, size]; zeros in row 0 and for ids without a vector.

        Args:
            trainable: return trained vectors only, or fixed ones only; None: all.

        Raises:
            MamdrError: the lake holds no vectors of that name and length.
        """
        tables = {}
        for name, shape in self.vector_shapes(trainable).items():
            tables[name] = self.arrays.empty(shape, np.float32)
            tables[name].fill(0.0)
        for _ in self.fill_vectors(tables, trainable):
            pass
        return {name: torch.from_numpy(vectors) for name, vectors in tables.items()}

    def fill_vectors(self, tables: Mapping[str, NDArray[np.float32]], trainable: bool | None = None) -> Iterator[None]:
        """Write the vectors to arrays of zeros; yields after every batch that is read.

        Raises:
            MamdrError: the lake holds no vectors of that name and length.
        """
        features = self._vector_features(trainable)
        for of, urls in self._pinned.vector_files.items():
            declared = TABLES[f"{of}_features"]
            missing = {feature.name: feature.size for feature in features if feature.of == of}
            names = list(missing)
            runs = all_row_groups(urls, self.figures) if names else []
            for _, batch in read_batches(runs, declared, ["index", "name", "vector"], self._reader):
                for name in names:
                    rows = batch.filter(pc.equal(batch.column("name"), name))
                    if len(rows) and _write_vectors(rows, tables[name]):
                        missing.pop(name, None)
                yield
            for name, size in missing.items():
                raise MamdrError(f"{declared.name} holds no vectors {name} of length {size}: run build_examples again")


def _select_days(batch: pa.RecordBatch, first: int, last: int) -> pa.RecordBatch:
    """The rows of some days (days since 1970)."""
    day = batch.column("ds").cast(pa.int32())
    selected = pc.and_(pc.greater_equal(day, first), pc.less_equal(day, last))
    # Windows contain most files completely, whose rows need not be copied.
    return batch if pc.all(selected, skip_nulls=False).as_py() else batch.filter(selected)


def _write_vectors(rows: pa.RecordBatch, table_VD: NDArray[Any]) -> bool:
    """Write vectors to the rows of their indices; returns False if their length differs from the table's."""
    vectors = rows.column("vector")
    if (np.diff(vectors.offsets) != table_VD.shape[1]).any():
        return False
    table_VD[rows.column("index").to_numpy() + 1] = vectors.flatten().to_numpy().reshape(-1, table_VD.shape[1])
    return True
