"""Which row groups of the pinned files hold rows of a rank's domains, by the statistics in their footers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mamdr_core.shards.pinned import PinnedFile
from mamdr_core.shards.reading import RowGroup, read_footers


@dataclass
class ReadFigures:
    """What was read.

    Attributes:
        rows: rows of the row groups that were read, those of other ranks' domains included.
        read_bytes: of the columns read, in their row groups, as they lie in the files (compressed).
        file_bytes: of the same columns in all row groups of the files that hold rows of the rank.
        row_groups: read.
        file_row_groups: of the files that hold rows of the rank.
    """

    rows: int = 0
    read_bytes: int = 0
    file_bytes: int = 0
    row_groups: int = 0
    file_row_groups: int = 0

    def count(self, rows: int, size: int, read: bool) -> None:
        """Count a row group of a file that holds rows of the rank."""
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
) -> list[RowGroup]:
    """The row groups that may hold a row of some domains, in the files' order.

    A row group counts if one of the file's domains lies between its least and greatest; where a writer left no
    statistics, always.

    Args:
        files: of one split.
        own: by domain, whether its rows are wanted, [n].
        columns: that will be read.
        figures: counts them.

    Raises:
        MamdrError: a file is gone or damaged.
    """
    held = {file.url: file.domains[own[file.domains]] for file in files}
    urls = [url for url, domains in held.items() if len(domains)]
    groups = []
    for url, footer in zip(urls, read_footers(urls), strict=True):
        # A list's values have a path below the name of their column.
        paths = [footer.row_group(0).column(place).path_in_schema for place in range(footer.num_columns)]
        places = {path.partition(".")[0]: place for place, path in enumerate(paths)}
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            size = sum(group.column(places[name]).total_compressed_size for name in columns)
            read = group.num_rows > 0 and _meets(held[url], group.column(places["domain"]).statistics)
            figures.count(group.num_rows, size, read)
            if read:
                groups.append(RowGroup(url, number))
    return groups


def all_row_groups(urls: Sequence[str], figures: ReadFigures) -> list[RowGroup]:
    """All row groups of some files, of which all columns will be read.

    Args:
        urls: files of the pinned version.
        figures: counts them.

    Raises:
        MamdrError: a file is gone or damaged.
    """
    groups = []
    for url, footer in zip(urls, read_footers(urls), strict=True):
        for number in range(footer.num_row_groups):
            group = footer.row_group(number)
            groups.append(RowGroup(url, number))
            size = sum(group.column(place).total_compressed_size for place in range(group.num_columns))
            figures.count(group.num_rows, size, read=True)
    return groups


def _meets(domains: NDArray[np.int32], statistics: Any) -> bool:
    """Whether one of the domains, ascending, lies in a row group's range."""
    if statistics is None or not statistics.has_min_max:
        return True
    place = np.searchsorted(domains, statistics.min)
    return bool(place < len(domains) and domains[place] <= statistics.max)
