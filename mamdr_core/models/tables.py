"""The inputs of a model, from the declared features: embedding tables, fixed vectors and numeric features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mamdr_core.config.features import Feature
from mamdr_core.config.models import ModelSettings
from mamdr_core.runtime.errors import MamdrError

Pooling = Literal["mean", "sum", "max", "attention"]


@dataclass(frozen=True)
class Table:
    """An embedding table, fixed vectors, or weights of a structure, looked up by an id column.

    Attributes:
        name: name of its field.
        column: the id column that selects its rows.
        rows: vocabulary size + 1; row 0 is for unknown ids.
        width: length D of a row.
        trainable: false for fixed vectors.
        feature: whether the field describes rows of the batch; false for weights, which are declared by a layer.
        per_domain: whether a row contains weights of one domain that are too wide to be read for every row of a batch.
            The field is then [1, width], and a call of the model contains rows of one domain.
        measured: whether its rows are statistics of training rows by domain: part of theta_S, but changed by no step;
            see `mamdr_core.models.statistics`.
        std: standard deviation of the initial values, which are normal with mean 0.
        length: number of ids of a row in a bag or sequence, padding included; 0: the column has one id for each row.
        pooling: how the embeddings of several ids are combined; see `mamdr_core.models.pooling`.
        shares: name of the table whose rows it reads and trains; empty: it has rows itself.
        project: width to which a learned matrix maps the field before the structure reads it; 0: no projection.

    Raises:
        ValueError: the table is per_domain, but is a feature or not looked up by domain; or measured, but not
            per_domain.
    """

    name: str
    column: str
    rows: int
    width: int
    trainable: bool = True
    feature: bool = True
    per_domain: bool = False
    measured: bool = False
    std: float = 0.01
    length: int = 0
    pooling: Pooling = "mean"
    shares: str = ""
    project: int = 0

    def __post_init__(self) -> None:
        if self.per_domain and (self.feature or self.column != "domain"):
            raise ValueError(f"table {self.name} is per_domain: it must hold weights and be looked up by domain")
        if self.per_domain and self.shares:
            raise ValueError(f"table {self.name} is per_domain: it cannot share the rows of {self.shares}")
        if self.measured and not (self.per_domain and self.trainable):
            raise ValueError(f"table {self.name} is measured: it must be per_domain and no fixed vectors")

    @property
    def source(self) -> str:
        """Name of the table whose rows it reads: `shares`, or its own."""
        return self.shares or self.name

    @property
    def weight(self) -> str:
        """Name of the field with the weights of several ids, [B, length]; 0 for padding."""
        return f"{self.column}.weight"


@dataclass(frozen=True)
class Inputs:
    """The fields of a batch.

    Attributes:
        tables: embedding tables, fixed vectors and a structure's weights. Each is a field [B, width], or [1, width] for
            a table per domain. For a bag or sequence, the engine reads [B, length, width], and the structure reads the
            pooled field [B, width].
        numeric: number K of numeric features; if there are any, they form the last field, "numeric" [B, K].
    """

    tables: tuple[Table, ...]
    numeric: int = 0

    @property
    def features(self) -> tuple[Table, ...]:
        """The tables whose fields describe rows."""
        return tuple(table for table in self.tables if table.feature)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the fields that describe rows, in the order in which models concatenate them."""
        return tuple(table.name for table in self.features) + (("numeric",) if self.numeric else ())

    @property
    def width(self) -> int:
        """Total width of the fields that describe rows."""
        return sum(table.width for table in self.features) + self.numeric

    @property
    def domain_rows(self) -> int:
        """Number of rows of a table that is looked up by domain."""
        return next(table.rows for table in self.features if table.column == "domain")


def owners(tables: Sequence[Table]) -> list[Table]:
    """The tables with rows, without those that share the rows of another table."""
    return [table for table in tables if not table.shares]


def readers(tables: Sequence[Table], owner: str) -> list[Table]:
    """The tables that read the rows of the one named `owner`, itself included."""
    return [table for table in tables if table.source == owner]


def projected(inputs: Inputs) -> Inputs:
    """The inputs of a structure, with the widths of fields after projection; see `PooledStructure`."""
    return replace(inputs, tables=tuple(replace(t, width=t.project or t.width, project=0) for t in inputs.tables))


def declare_features(settings: ModelSettings, features: Sequence[Feature], sizes: Mapping[str, int]) -> Inputs:
    """The declared features as inputs, without weights of a structure; see `structures.declare_inputs`.

    Args:
        settings: embedding sizes, and whether users and items have embeddings.
        features: the declared features.
        sizes: vocabulary size by id column: "user", "item", "domain" and every categorical feature, bag and sequence
            that does not share a table.

    Raises:
        MamdrError: a bag or sequence shares a table that does not exist.
    """
    ids = ("user", "item", "domain") if settings.train_ids else ("domain",)
    tables = [Table(name, name, sizes[name] + 1, settings.embedding_dim) for name in ids]
    for feature in features:
        if feature.kind == "categorical":
            width = feature.size or settings.embedding_dim
            tables.append(Table(feature.name, feature.name, sizes[feature.name] + 1, width))
        elif feature.kind == "vector":
            tables.append(
                Table(
                    feature.name,
                    feature.of,
                    sizes[feature.of] + 1,
                    feature.size,
                    trainable=feature.trainable,
                    project=feature.project,
                )
            )
        elif feature.has_several_ids and not feature.table:
            width = feature.size or settings.embedding_dim
            rows = sizes[feature.name] + 1
            tables.append(
                Table(feature.name, feature.name, rows, width, length=feature.length, pooling=feature.pooling)
            )
    named = {table.name: table for table in tables if not table.project}
    for feature in features:
        if feature.has_several_ids and feature.table:
            tables.append(_sharing(feature, named))
    in_order = {feature.name: place for place, feature in enumerate(features)}
    tables[len(ids) :] = sorted(tables[len(ids) :], key=lambda table: in_order[table.name])
    return Inputs(tuple(tables), sum(feature.kind == "numeric" for feature in features))


def _sharing(feature: Feature, named: Mapping[str, Table]) -> Table:
    """The table of a bag or sequence that shares the rows of another table."""
    shared = named.get(feature.table)
    if shared is None or shared.column != feature.table:
        left_out = " (model.train_ids: false leaves it out)" if feature.table in ("user", "item") else ""
        raise MamdrError(
            f"features.{feature.name}.table: there is no embedding table {feature.table}{left_out}: set an id column "
            "that has one, or leave it empty for separate embeddings"
        )
    return replace(
        shared,
        name=feature.name,
        column=feature.name,
        length=feature.length,
        pooling=feature.pooling,
        shares=shared.name,
    )
