"""Classes for declarations of tables: columns, rules and layout, without Spark and Petastorm."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args

ColumnType = Literal[
    "string",
    "int",
    "bigint",
    "float",
    "double",
    "date",
    "timestamp",
    "boolean",
    "array<float>",
    "array<int>",
    "array<string>",
    "map<string,bigint>",
    "map<string,double>",
    "map<string,string>",
]


PRESENT = "required_present"
"""Name of the constraint that columns are not null, since the first write of a table cannot declare NOT NULL."""


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    type: ColumnType
    description: str
    nullable: bool = False
    is_declared: bool = False
    """Whether a configuration declares it, as a feature."""

    @property
    def is_required(self) -> bool:
        """Whether Delta must reject rows in which it is null."""
        return not (self.nullable or self.is_declared)

    def __post_init__(self) -> None:
        if self.type not in get_args(ColumnType):
            raise ValueError(f"column {self.name}: type {self.type!r} is not one of {', '.join(get_args(ColumnType))}")


@dataclass(frozen=True)
class Rule:
    """A named condition (Spark SQL over the table's columns) that every valid row satisfies.

    Delta enforces it as a CHECK constraint, and ingest records its name for rejected rows. Rules with `enforced` false
    are not constraints: the job decides whether they apply to a log. An empty condition depends on settings or on other
    rows, and is defined by the job.
    """

    name: str
    condition_sql: str
    description: str
    enforced: bool = True


def one_of(column: str, values: Iterable[str]) -> str:
    """The condition that a column has one of some values, which must not contain quotes."""
    return f"{column} IN ({', '.join(repr(value) for value in values)})"


@dataclass(frozen=True)
class DeclaredTable:
    """One table: its description, columns in order, rules and layout on disk.

    `skip_by` are the columns for which Delta keeps the minimum and maximum of each file, so that queries skip files.
    Statistics of all columns would take a third of the time of a write.

    Example:
        >>> from schemas import TABLES
        >>> TABLES["examples"].partition_by
        ('split', 'shard')
    """

    name: str
    description: str
    columns: tuple[Column, ...]
    rules: tuple[Rule, ...] = ()
    partition_by: tuple[str, ...] = ()
    sort_by: tuple[str, ...] = ()
    skip_by: tuple[str, ...] = ()
    made_by: str = ""

    def __post_init__(self) -> None:
        names = self.column_names
        if len(set(names)) != len(names):
            raise ValueError(f"table {self.name} declares a column twice: {', '.join(names)}")
        for name in (*self.partition_by, *self.sort_by, *self.skip_by):
            if name not in names:
                raise ValueError(f"the layout of table {self.name} uses {name}, which is not one of its columns")

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(column.name for column in self.columns)

    def column(self, name: str) -> Column:
        """The column of that name.

        Raises:
            KeyError: the table has no such column.
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"table {self.name} has no column {name}; it has {', '.join(self.column_names)}")

    def with_columns(self, columns: Iterable[Column]) -> "DeclaredTable":
        """This table with further columns at the end, for the features that a configuration declares.

        Raises:
            ValueError: a name is used twice.
        """
        return replace(self, columns=(*self.columns, *(replace(column, is_declared=True) for column in columns)))

    def constraints(self) -> dict[str, str]:
        """Names and conditions of Delta constraints: the enforced rules, and that columns are not null.

        Columns of `with_columns` have no constraint, because they change with the configuration.
        """
        required = " AND ".join(f"`{column.name}` IS NOT NULL" for column in self.columns if column.is_required)
        present = {PRESENT: required} if required else {}
        return present | {rule.name: rule.condition_sql for rule in self.rules if rule.enforced}
