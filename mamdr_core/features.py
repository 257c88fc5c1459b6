"""What a feature beyond the three ids is: declared once in the config, known to the lake, the shards and the models."""

import math
from typing import Literal

from mamdr_core.feature_checks import wrong_kinds, wrong_together
from mamdr_core.settings import settings

WIDEST = 1 << 16
"""Of embeddings and vectors."""


@settings
class Feature:
    """One declared feature.

    `categorical`, `bag`, `sequence` and `numeric` features are columns of the log; a `vector` is a vector of each user
    or item (a pre-trained embedding, the paper's Taobao setting), read from its own table, and fixed unless it is
    `trainable`.
    """

    name: str
    """Column name in clicks and examples, or the name of the vector."""
    kind: Literal["categorical", "bag", "sequence", "numeric", "vector"]
    """categorical: an id with a trained embedding; bag: several ids without an order, their embeddings pooled;
    sequence: several ids in the order of time, the newest last, their embeddings pooled; numeric: a number,
    standardised; vector: fixed numbers per id."""
    expression: str = ""
    """Spark SQL expression over the raw log; empty: the column `name`. Not for vectors."""
    size: int = 0
    """Width of the embedding (categorical; 0: model.embedding_dim) or length of the vector (required there)."""
    buckets: int = 0
    """categorical, bag, sequence: hash values into this number of buckets; 0: a growing vocabulary with contiguous
    indices."""
    length: int = 50
    """bag, sequence: ids of a row at most; of a longer bag the first are kept, of a longer sequence the newest."""
    pooling: Literal["mean", "sum", "max", "attention"] = "mean"
    """bag, sequence: how the embeddings of a row's ids become one; attention (sequence with `table`): the sum weighted
    by a small network that compares each with the row's own id of `table` (DIN, Zhou et al. 2018)."""
    table: str = ""
    """bag, sequence: the id column whose vocabulary and embeddings they share, e.g. item; empty: ones of their own."""
    separator: str = ""
    """bag, sequence: what separates the ids in a string; empty: the expression is an array."""
    weights: str = ""
    """bag: Spark SQL expression of an array with a weight for each id; empty: 1 each."""
    history: bool = False
    """sequence: the items that the row's user clicked before the row's time, newest last, from clicks; needs `table:
    item` and no expression."""
    history_days: int = 30
    """sequence with history: days before a row's day from which its clicks are taken."""
    quantiles: int = 0
    """categorical: the expression is a number, replaced by its place among this number of equally frequent ranges,
    learned on the train split of the first build; 0: its value is an id."""
    trainable: bool = False
    """vector: the vectors are where a trained embedding starts; false: fixed."""
    project: int = 0
    """vector: width that a learned matrix maps it to before the structure; 0: none."""
    of: Literal["user", "item"] = "user"
    """vector: whose vector it is."""
    path: str = ""
    """vector: folder or file with columns `id` and `vector`."""
    format: str = "parquet"
    """vector: Spark format of `path`."""
    schema: str = ""
    """vector: columns and types of `path` as Spark DDL, e.g. `id string, vector array<float>`; empty: inferred, of JSON
    by reading the files once more."""
    optional: bool = False
    """The log may lack the columns of the expression; the feature is null then. Otherwise that is an error."""
    minimum: float | None = None
    """numeric: a row with a smaller value, or NaN, is rejected under `<name>_in_range`; null passes."""
    maximum: float | None = None
    """numeric: a row with a greater value, or NaN, is rejected likewise."""

    @property
    def is_multi(self) -> bool:
        """Whether a row has several ids of it."""
        return self.kind in ("bag", "sequence")

    @property
    def is_id(self) -> bool:
        """Whether a row has one id of it, or several, which embeddings are trained for."""
        return self.kind in ("categorical", "bag", "sequence")

    @property
    def has_vocabulary(self) -> bool:
        """Whether its ids have a vocabulary of their own."""
        return self.is_id and not (self.buckets or self.table or self.quantiles)

    def __post_init__(self) -> None:
        """Check what depends on the kind."""
        if not self.name.isidentifier():
            raise ValueError(f"feature name {self.name!r} is not an identifier (letters, digits and _)")
        if self.kind == "vector" and (self.size < 1 or not self.path):
            raise ValueError(f"feature {self.name!r} is a vector: it needs `size` (its length) and `path`")
        if self.schema and (self.kind != "vector" or self.format == "delta"):
            raise ValueError(
                f"feature {self.name!r}: schema is for vectors, and not of a Delta table, which has its own"
            )
        if not 0 <= self.size <= WIDEST or not 0 <= self.buckets < 1 << 31:
            raise ValueError(
                f"feature {self.name!r}: size must lie in [0, {WIDEST}] and buckets in [0, 2^31), got {self.size}, "
                f"{self.buckets}"
            )
        self._check_bounds()
        for message in (*wrong_kinds(self), *wrong_together(self)):
            raise ValueError(f"feature {self.name!r}: {message}")

    def _check_bounds(self) -> None:
        bounds = [bound for bound in (self.minimum, self.maximum) if bound is not None]
        if bounds and self.kind != "numeric":
            raise ValueError(f"feature {self.name!r} is {self.kind}: minimum and maximum are for numeric features")
        if bounds != sorted(bounds) or not all(map(math.isfinite, bounds)):
            raise ValueError(f"feature {self.name!r}: minimum and maximum must be finite and ordered, got {bounds}")
