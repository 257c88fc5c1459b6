"""Selects the row groups with rows of a rank's domains, by the statistics in the files' footers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mamdr_core.shards.pinned import PinnedFile
from mamdr_core.shards.reading import RowGroupRun, read_footers


@dataclass
class ReadFigures:
    """Counts of the data that was read.

    Attributes:
        rows: rows of the row groups that were read, other ranks' rows included.
        read_bytes: compressed size of the columns that were read.
        file_bytes: compressed size of the same columns in all row groups of the files with rows of the rank.
        row_groups: row groups that were read.
        file_row_groups: row groups of the files with rows of the rank.
    """

    rows: int = 0
    read_bytes: int = 0
    file_bytes: int = 0
    row_groups: int = 0
    file_row_groups: int = 0

    def count(self, rows: int, size: int, read: bool) -> None:
        """Count a row group of a file with rows of the rank; `size`: compressed size of the columns in bytes."""
        self.file_row_groups += 1
        self.file_bytes += size
        if read:
            self.rows += rows
            self.row_groups += 1
            self.read_bytes += size

    def summary(self) -> str:
        """The counts as text for a log line."""
        return (
            f"{self.row_groups} of {self.file_row_groups} row groups, "
            f"{self.read_bytes / 1e6:.1f} of {self.file_bytes / 1e6:.1f} MB"
        )


def find_row_groups(
    files: Sequence[PinnedFile], own: NDArray[np.bool_], columns: Sequence[str], figures: ReadFigures
) -> list[RowGroupRun]:
    """The row groups that may contain rows of some domains, in the files' order.

    A row group is selected if one of the file's domains is within its range of domains, or if it has no statistics.

    Args:
        files: files of one split.
        own: by domain, whether its rows are read, [n].
        columns: columns that will be read.
        figures: updated by the counts.

    Raises:
        MamdrError: a file is missing or damaged.
    """
    domains_of = {file.url: file.domains[own[file.domains]] for file in files}
    urls = [url for url, domains in domains_of.items() if len(domains)]
    runs = []
    for url, footer in zip(urls, read_footers(urls), strict=True):
        # The path of a list's values starts with the name of the column.
        paths = [footer.row_group(0).column(index).path_in_schema for index in range(footer.num_columns)]
        index_of = {path.partition(".")[0]: index for index, path in enumerate(paths)}
        chosen = []
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            size = sum(group.column(index_of[name]).total_compressed_size for name in columns)
            read = group.num_rows > 0 and _overlaps(domains_of[url], group.column(index_of["domain"]).statistics)
            figures.count(group.num_rows, size, read)
            if read:
                chosen.append(number)
        runs += [RowGroupRun(url, tuple(chosen), footer)] if chosen else []
    return runs


def all_row_groups(urls: Sequence[str], figures: ReadFigures) -> list[RowGroupRun]:
    """All row groups of some files, counted in `figures` with all columns.

    Raises:
        MamdrError: a file is missing or damaged.
    """
    runs = []
    for url, footer in zip(urls, read_footers(urls), strict=True):
        numbers = range(footer.num_row_groups)
        for group in map(footer.row_group, numbers):
            size = sum(group.column(index).total_compressed_size for index in range(group.num_columns))
            figures.count(group.num_rows, size, read=True)
        runs += [RowGroupRun(url, tuple(numbers), footer)] if numbers else []
    return runs


def _overlaps(domains: NDArray[np.int32], statistics: Any) -> bool:
    """Whether one of the domains, ascending, is within the range of a row group's statistics."""
    if statistics is None or not statistics.has_min_max:
        return True
    first = np.searchsorted(domains, statistics.min)
    return bool(first < len(domains) and domains[first] <= statistics.max)
