"""What a feature beyond the three ids is: declared once in the config, known to the lake, the shards and the models."""

import math
from typing import Literal

from mamdr_core.settings import settings

WIDEST = 1 << 16
"""Of embeddings and vectors."""


@settings
class Feature:
    """One declared feature.

    `categorical` and `numeric` features are columns of the log; a `vector` is a fixed vector of each user or item (a
    pre-trained embedding, the paper's Taobao setting), read from its own table and never trained.
    """

    name: str
    """Column name in clicks and examples (categorical, numeric), or the name of the vector."""
    kind: Literal["categorical", "numeric", "vector"]
    """categorical: an id with a trained embedding; numeric: a number, standardised; vector: fixed numbers per id."""
    expression: str = ""
    """Spark SQL expression over the raw log; empty: the column `name`. Not for vectors."""
    size: int = 0
    """Width of the embedding (categorical; 0: model.embedding_dim) or length of the vector (required there)."""
    buckets: int = 0
    """categorical: hash values into so many buckets; 0: a growing vocabulary with contiguous indices."""
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

    def _check_bounds(self) -> None:
        bounds = [bound for bound in (self.minimum, self.maximum) if bound is not None]
        if bounds and self.kind != "numeric":
            raise ValueError(f"feature {self.name!r} is {self.kind}: minimum and maximum are for numeric features")
        if bounds != sorted(bounds) or not all(map(math.isfinite, bounds)):
            raise ValueError(f"feature {self.name!r}: minimum and maximum must be finite and ordered, got {bounds}")
