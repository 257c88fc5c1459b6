"""What feeds a model: embedding tables, fixed vectors and numeric features, from the declared features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mamdr_core.features import Feature
from mamdr_core.models.settings import ModelSettings


@dataclass(frozen=True)
class Table:
    """An embedding table, fixed vectors, or weights of a structure, looked up by an id column.

    Attributes:
        name: the field that it feeds.
        column: the id column that selects its rows.
        rows: vocabulary size + 1; row 0 is the unknown id's.
        width: length D of a row.
        trainable: false for fixed vectors.
        feature: whether its field describes a row of the batch; false for weights, which a structure's layer declares.
        per_domain: a row is weights of one domain and too wide to be read for every row of a batch: the field is
            [1, width], and whoever calls the model shows it rows of one domain at a time.
        std: of the normal numbers, of mean 0, that it starts from.

    Raises:
        ValueError: per_domain, but a feature or not looked up by domain.
    """

    name: str
    column: str
    rows: int
    width: int
    trainable: bool = True
    feature: bool = True
    per_domain: bool = False
    std: float = 0.01

    def __post_init__(self) -> None:
        """Check what belongs together."""
        if self.per_domain and (self.feature or self.column != "domain"):
            raise ValueError(f"table {self.name} is per_domain: it must hold weights and be looked up by domain")


@dataclass(frozen=True)
class Inputs:
    """The fields of a batch.

    Attributes:
        tables: embedding tables, fixed vectors and a structure's weights; each is a field [B, width], or [1, width] of
            a table per domain.
        numeric: number of numeric features; with any, a field "numeric" [B, K] follows.
    """

    tables: tuple[Table, ...]
    numeric: int = 0

    @property
    def features(self) -> tuple[Table, ...]:
        """The tables whose fields describe rows."""
        return tuple(table for table in self.tables if table.feature)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the fields that describe rows, in the order in which models see them."""
        return tuple(table.name for table in self.features) + (("numeric",) if self.numeric else ())

    @property
    def width(self) -> int:
        """Width of these fields side by side."""
        return sum(table.width for table in self.features) + self.numeric

    @property
    def domain_rows(self) -> int:
        """Rows of a table that is looked up by domain."""
        return next(table.rows for table in self.features if table.column == "domain")


def declare_features(settings: ModelSettings, features: Sequence[Feature], sizes: Mapping[str, int]) -> Inputs:
    """The declared features as inputs, without weights of a structure; see `structures.declare_inputs`.

    Args:
        settings: embedding sizes, and whether users and items have embeddings of their own.
        features: the declared features.
        sizes: vocabulary size by id column: "user", "item", "domain" and every categorical feature.
    """
    ids = ("user", "item", "domain") if settings.train_ids else ("domain",)
    tables = [Table(name, name, sizes[name] + 1, settings.embedding_dim) for name in ids]
    for feature in features:
        if feature.kind == "categorical":
            width = feature.size or settings.embedding_dim
            tables.append(Table(feature.name, feature.name, sizes[feature.name] + 1, width))
        elif feature.kind == "vector":
            tables.append(Table(feature.name, feature.of, sizes[feature.of] + 1, feature.size, trainable=False))
    return Inputs(tuple(tables), sum(feature.kind == "numeric" for feature in features))
