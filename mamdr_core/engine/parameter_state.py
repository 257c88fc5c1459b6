"""The state, for a checkpoint, of theta_S and of whatever else has one number for each of its parameters."""

from collections.abc import Mapping

from torch import Tensor

from mamdr_core.engine.parameters import Shared
from mamdr_core.runtime.stateful import State


def held_rows(shared: Shared) -> dict[str, Tensor]:
    """By embedding table, the rows that this rank holds: all of them, or of a sharded table its own."""
    return {name: table if isinstance(table, Tensor) else table.own for name, table in shared.tables.items()}


def sharded_tables(shared: Shared) -> frozenset[str]:
    """Names of the tables whose rows are divided over ranks."""
    return frozenset(name for name, table in shared.tables.items() if not isinstance(table, Tensor))


def parameters_state(dense_P: Tensor, tables: Mapping[str, Tensor], sharded: frozenset[str]) -> State:
    """The state of one number for each parameter.

    Args:
        dense_P: of dense parameters, [P].
        tables: by embedding table, of the rows that this rank holds, [rows, width].
        sharded: names of the tables whose rows are divided over ranks.
    """
    whole = {f"table.{name}": rows for name, rows in tables.items() if name not in sharded}
    parts = {f"table.{name}": rows for name, rows in tables.items() if name in sharded}
    return State(same={"dense": dense_P, **whole}, rows=parts)


def parameters_of(state: State, like: Shared) -> tuple[Tensor, dict[str, Tensor]]:
    """The numbers that `parameters_state` gave: dense [P], and by embedding table those of the rows held here.

    Raises:
        MamdrError: they are not of the shapes of theta_S `like`.
    """
    dense = state.tensor(state.same, "dense", like.dense)
    held = state.same | state.rows
    return dense, {name: state.tensor(held, f"table.{name}", rows) for name, rows in held_rows(like).items()}


def shared_state(shared: Shared) -> State:
    """The state of theta_S."""
    return parameters_state(shared.dense, held_rows(shared), sharded_tables(shared))


def shared_of(state: State, like: Shared) -> Shared:
    """The theta_S that `shared_state` gave, with tables as `like` has them.

    Raises:
        MamdrError: it is not of the shapes of `like`.
    """
    dense, rows = parameters_of(state, like)
    return Shared(
        dense,
        {
            name: rows[name] if isinstance(table, Tensor) else table.with_rows(rows[name])
            for name, table in like.tables.items()
        },
    )
