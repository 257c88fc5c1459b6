"""Rows of a table that are divided over W ranks in stripes: rank r owns the rows r, r + W, ..."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Stripe:
    """The rows that one rank owns; by default all rows, those of a single rank.

    Attributes:
        rank: r.
        ranks: W.
    """

    rank: int = 0
    ranks: int = 1

    @property
    def slice(self) -> slice:
        """Selects the rank's rows of a whole table."""
        return slice(self.rank, None, self.ranks)

    def ids(self, rows: int) -> Tensor:
        """The rank's rows of a table of `rows` rows, int64 [K]."""
        return torch.arange(self.rank, rows, self.ranks) if rows > self.rank else torch.zeros(0, dtype=torch.long)

    def count(self, rows: int) -> int:
        """Number of the rank's rows of a table of `rows` rows."""
        return len(range(self.rank, rows, self.ranks))


WHOLE = Stripe()
"""All rows."""


def owners_of(ids: Tensor, ranks: int) -> Tensor:
    """The ranks that own some rows."""
    return ids % ranks


def places_of(ids: Tensor, ranks: int) -> Tensor:
    """The positions of some rows among all rows of their owners."""
    return ids // ranks
