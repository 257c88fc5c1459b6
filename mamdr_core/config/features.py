"""Declaration of features other than the three ids, which the lake, the shards and the models share."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Literal

from mamdr_core.config.settings import settings

WIDEST = 1 << 16
"""Maximum width of embeddings and vectors."""
LONGEST = 10_000
"""Maximum number of ids in a bag or sequence."""
MOST_QUANTILES = 1_000
_MULTI = ("bag", "sequence")
_KINDS = {
    "pooling": _MULTI,
    "length": _MULTI,
    "table": _MULTI,
    "separator": _MULTI,
    "weights": ("bag",),
    "history": ("sequence",),
    "history_days": ("sequence",),
    "quantiles": ("categorical",),
    "trainable": ("vector",),
    "project": ("vector",),
}
"""Kinds of features for which a setting may differ from its default."""


@settings
class Feature:
    """One declared feature.

    `categorical`, `bag`, `sequence` and `numeric` features are columns of the log. A `vector` is a vector of each user
    or item (a pre-trained embedding, as in the paper's Taobao setting), read from its own table, and fixed unless it is
    `trainable`.
    """

    name: str
    """Column name in clicks and examples, or the name of the vector."""
    kind: Literal["categorical", "bag", "sequence", "numeric", "vector"]
    """categorical: an id with a trained embedding; bag: several ids without order, whose embeddings are pooled;
    sequence: several ids in order of time, newest last, whose embeddings are pooled; numeric: a standardised number;
    vector: a fixed vector per id."""
    expression: str = ""
    """Spark SQL expression over the raw log; empty: the column `name`. Not for vectors."""
    size: int = 0
    """Width of the embedding (categorical; 0: model.embedding_dim) or length of the vector (required there)."""
    buckets: int = 0
    """categorical, bag, sequence: hash values into this number of buckets; 0: a growing vocabulary with contiguous
    indices."""
    length: int = 50
    """bag, sequence: maximum number of ids per row; the first ids of a longer bag, and the newest of a longer sequence,
    are kept."""
    pooling: Literal["mean", "sum", "max", "attention"] = "mean"
    """bag, sequence: how the embeddings of the ids of a row are pooled; attention (sequence with `table`): the sum
    weighted by a small network that compares each id with the row's id in the column `table` (DIN, Zhou et al.
    2018)."""
    table: str = ""
    """bag, sequence: the id column whose vocabulary and embeddings the feature shares, e.g. item; empty: its own."""
    separator: str = ""
    """bag, sequence: separator of the ids in a string; empty: the expression is an array."""
    weights: str = ""
    """bag: Spark SQL expression of an array with a weight for each id; empty: all weights are 1."""
    history: bool = False
    """sequence: the items that the user of the row clicked before the time of the row, newest last, from clicks; needs
    `table: item` and no expression."""
    history_days: int = 30
    """sequence with history: number of days before the day of the row from which clicks are taken."""
    quantiles: int = 0
    """categorical: number of equally frequent ranges, learned on the train split of the first build, into which the
    numeric expression is binned; 0: the value of the expression is an id."""
    trainable: bool = False
    """vector: the vectors are the initial values of a trained embedding; false: they are fixed."""
    project: int = 0
    """vector: width to which a learned matrix projects the vector before the structure; 0: no projection."""
    of: Literal["user", "item"] = "user"
    """vector: whether it is a vector of users or of items."""
    path: str = ""
    """vector: folder or file with columns `id` and `vector`."""
    format: str = "parquet"
    """vector: Spark format of `path`."""
    schema: str = ""
    """vector: columns and types of `path` as Spark DDL, e.g. `id string, vector array<float>`; empty: inferred, which
    reads JSON files twice."""
    optional: bool = False
    """Whether the log may lack the columns of the expression, so that the feature is null; otherwise this is an
    error."""
    minimum: float | None = None
    """numeric: rows with a smaller value or NaN are rejected by the rule `<name>_in_range`; null is valid."""
    maximum: float | None = None
    """numeric: rows with a greater value or NaN are rejected by the same rule."""

    @property
    def has_several_ids(self) -> bool:
        """Whether a row has several ids of the feature."""
        return self.kind in ("bag", "sequence")

    @property
    def is_id(self) -> bool:
        """Whether the feature consists of ids with trained embeddings."""
        return self.kind in ("categorical", "bag", "sequence")

    @property
    def has_vocabulary(self) -> bool:
        """Whether the feature has its own vocabulary."""
        return self.is_id and not (self.buckets or self.table or self.quantiles)

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"feature name {self.name!r} is not an identifier (letters, digits and _)")
        if self.kind == "vector" and (self.size < 1 or not self.path):
            raise ValueError(f"feature {self.name!r} is a vector: it needs `size` (its length) and `path`")
        if self.schema and (self.kind != "vector" or self.format == "delta"):
            raise ValueError(f"feature {self.name!r}: schema is only for vectors that are not in a Delta table")
        if not 0 <= self.size <= WIDEST or not 0 <= self.buckets < 1 << 31:
            raise ValueError(
                f"feature {self.name!r}: size must be in [0, {WIDEST}] and buckets in [0, 2^31), got {self.size}, "
                f"{self.buckets}"
            )
        self._check_bounds()
        for message in (*_kind_problems(self), *_value_problems(self)):
            raise ValueError(f"feature {self.name!r}: {message}")

    def _check_bounds(self) -> None:
        bounds = [bound for bound in (self.minimum, self.maximum) if bound is not None]
        if bounds and self.kind != "numeric":
            raise ValueError(f"feature {self.name!r} is {self.kind}: minimum and maximum are for numeric features")
        if bounds != sorted(bounds) or not all(map(math.isfinite, bounds)):
            raise ValueError(f"feature {self.name!r}: minimum and maximum must be finite and ordered, got {bounds}")


def _kind_problems(feature: Feature) -> Iterator[str]:
    """Problems with settings that are for other kinds of features."""
    for name, kinds in _KINDS.items():
        if _is_set(feature, name) and feature.kind not in kinds:
            yield f"{name} is for {' and '.join(kinds)} features, this one is {feature.kind}"


def _is_set(feature: Feature, name: str) -> bool:
    (default,) = (field.default for field in fields(feature) if field.name == name)
    return bool(getattr(feature, name) != default)


def _value_problems(feature: Feature) -> Iterator[str]:
    """Problems with values out of range, and with settings that exclude or need each other."""
    if feature.has_several_ids:
        yield from _id_problems(feature)
    if feature.history:
        yield from _history_problems(feature)
    if feature.quantiles:
        if not 2 <= feature.quantiles <= MOST_QUANTILES:
            yield f"quantiles must be in [2, {MOST_QUANTILES}], got {feature.quantiles}"
        if feature.buckets:
            yield "quantiles and buckets exclude each other: choose one"
    if not 0 <= feature.project <= feature.size:
        yield f"project must be in [0, size], got {feature.project} of {feature.size}"


def _id_problems(feature: Feature) -> Iterator[str]:
    if not 1 <= feature.length <= LONGEST:
        yield f"length must be in [1, {LONGEST}], got {feature.length}"
    if feature.table and (feature.buckets or feature.size):
        yield f"buckets and size are those of its table {feature.table!r}: remove them"
    if feature.table == "domain":
        yield "table is 'domain', expected user, item or a categorical feature"
    if _is_set(feature, "history_days") and not feature.history:
        yield "history_days is for a sequence with `history: true`"
    if feature.pooling == "attention" and not (feature.kind == "sequence" and feature.table):
        yield "pooling attention needs a sequence with `table`, the id column with which its ids are compared"


def _history_problems(feature: Feature) -> Iterator[str]:
    if feature.table != "item":
        yield f"a history is of items: set table: item (it is {feature.table!r})"
    if feature.expression or feature.separator:
        yield "a history is read from clicks: remove expression and separator"
    if feature.history_days < 1:
        yield f"history_days must be at least 1, got {feature.history_days}"


def problems_between_features(features: Sequence[Feature], user_buckets: int) -> Iterator[str]:
    """Problems with tables that features share with others, and with histories if users are hashed into buckets."""
    of_features = sorted({each.name for each in features if each.kind == "categorical" and not each.quantiles})
    tables = ["user", "item", *of_features]
    for number, feature in enumerate(features):
        if feature.table and feature.table not in tables:
            yield f"features.{number}.table is {feature.table!r}, expected one of {', '.join(tables)}"
        if feature.history and user_buckets:
            yield (
                f"features.{number}.history and examples.users.buckets exclude each other: users of a bucket would "
                "share their clicks"
            )
