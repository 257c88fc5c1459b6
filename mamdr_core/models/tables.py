"""What feeds a model: embedding tables, fixed vectors and numeric features, from the declared features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mamdr_core.features import Feature
from mamdr_core.models.settings import ModelSettings


@dataclass(frozen=True)
class Table:
    """An embedding table, or fixed vectors, looked up by an id column.

    Attributes:
        name: the field that it feeds.
        column: the id column that selects its rows.
        rows: vocabulary size + 1; row 0 is the unknown id's.
        width: length D of a row.
        trainable: false for fixed vectors.
    """

    name: str
    column: str
    rows: int
    width: int
    trainable: bool = True


@dataclass(frozen=True)
class Inputs:
    """The fields of a batch.

    Attributes:
        tables: embedding tables and fixed vectors; each is a field [B, width].
        numeric: number of numeric features; with any, a field "numeric" [B, K] follows.
    """

    tables: tuple[Table, ...]
    numeric: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The fields' names, in the order in which models see them."""
        return tuple(table.name for table in self.tables) + (("numeric",) if self.numeric else ())

    @property
    def width(self) -> int:
        """Width of all fields side by side."""
        return sum(table.width for table in self.tables) + self.numeric


def declare_inputs(settings: ModelSettings, features: Sequence[Feature], sizes: Mapping[str, int]) -> Inputs:
    """The inputs of a model for the declared features.

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
