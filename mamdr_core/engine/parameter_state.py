"""Conversion of theta_S, and of momenta of its parameters, to and from the State of a checkpoint."""

from collections.abc import Mapping

from torch import Tensor

from mamdr_core.engine.parameters import Shared
from mamdr_core.runtime.stateful import State


def held_rows(shared: Shared) -> dict[str, Tensor]:
    """The rows of each embedding table that this rank stores: all, or those that it owns of a sharded table."""
    return {name: table if isinstance(table, Tensor) else table.own for name, table in shared.tables.items()}


def sharded_tables(shared: Shared) -> frozenset[str]:
    """Names of the tables whose rows are divided over ranks."""
    return frozenset(name for name, table in shared.tables.items() if not isinstance(table, Tensor))


def parameters_state(dense_P: Tensor, tables: Mapping[str, Tensor], sharded: frozenset[str]) -> State:
    """Convert one number for each parameter to a State.

    Args:
        dense_P: numbers of dense parameters, [P].
        tables: numbers of the embedding rows that this rank stores, by table, [rows, D].
        sharded: names of the tables whose rows are divided over ranks.
    """
    whole = {f"table.{name}": rows for name, rows in tables.items() if name not in sharded}
    parts = {f"table.{name}": rows for name, rows in tables.items() if name in sharded}
    return State(same={"dense": dense_P, **whole}, rows=parts)


def parameters_of(state: State, like: Shared) -> tuple[Tensor, dict[str, Tensor]]:
    """The inverse of `parameters_state`: dense parameters [P], and rows by table.

    Raises:
        MamdrError: the shapes are not those of theta_S `like`.
    """
    dense = state.tensor(state.same, "dense", like.dense)
    held = state.same | state.rows
    return dense, {name: state.tensor(held, f"table.{name}", rows) for name, rows in held_rows(like).items()}


def shared_state(shared: Shared) -> State:
    """Convert theta_S to a State."""
    return parameters_state(shared.dense, held_rows(shared), sharded_tables(shared))


def shared_of(state: State, like: Shared) -> Shared:
    """The inverse of `shared_state`; tables are whole or sharded as in `like`.

    Raises:
        MamdrError: the shapes are not those of `like`.
    """
    dense, rows = parameters_of(state, like)
    return Shared(
        dense,
        {
            name: rows[name] if isinstance(table, Tensor) else table.with_rows(rows[name])
            for name, table in like.tables.items()
        },
    )
