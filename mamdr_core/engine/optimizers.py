"""Inner optimizers of dense parameters and embedding rows, and the outer optimizer of theta_S."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mamdr_core.config.engine import OuterSettings
from mamdr_core.engine.parameter_state import held_rows, parameters_of, parameters_state, sharded_tables
from mamdr_core.engine.parameters import Change, Shared
from mamdr_core.engine.state_memory import IN_MEMORY, StateMemory
from mamdr_core.engine.step_options import RowRule
from mamdr_core.runtime.stateful import State

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
Tensors = list[Tensor] | tuple[Tensor, ...]
WIDE = 512
"""Minimum width of rows that are updated in place, one kernel each; narrower ones are faster to gather and store."""


@dataclass
class AdamMoments:
    """Adam's moments of one tensor, of its shape."""

    first: Tensor
    second: Tensor

    @classmethod
    def zeros_like(cls, tensor: Tensor, memory: StateMemory = IN_MEMORY) -> "AdamMoments":
        """Moments before the first step."""
        return cls(memory.zeros_like(tensor), memory.zeros_like(tensor))

    def named(self) -> dict[str, Tensor]:
        """Its tensors by attribute."""
        return {"first": self.first, "second": self.second}


@dataclass
class AdagradSums:
    """State of row-wise Adagrad for a table: for each row the sum of mean squared gradients, [rows, 1]."""

    sums: Tensor

    @classmethod
    def zeros_like(cls, table: Tensor, memory: StateMemory = IN_MEMORY) -> "AdagradSums":
        """Sums before the first step."""
        return cls(memory.zeros_like(table[:, :1]))

    def named(self) -> dict[str, Tensor]:
        """Its tensors by attribute."""
        return {"sums": self.sums}


RowState = AdamMoments | AdagradSums
ROW_STATES: dict[str, type[RowState]] = {"adam": AdamMoments, "adagrad": AdagradSums}
"""State of a table by optimizer; sgd has none."""


@dataclass
class InnerState:
    """State of the inner optimizers for theta_S: number of steps, and moments of dense parameters and tables.

    Moments of a row change only if a step touches it (lazy Adam), but all share the number of steps. Sharded tables,
    whose moments would have to be exchanged with their rows, start every trajectory with zeros and have no state
    here. Neither have tables that are updated by plain gradient descent.
    """

    dense: AdamMoments
    tables: dict[str, RowState]
    step: int = 0

    @classmethod
    def zeros_like(
        cls, shared: Shared, rules: Mapping[str, RowRule] | None = None, memory: StateMemory = IN_MEMORY
    ) -> "InnerState":
        """The state before the first step.

        Args:
            shared: theta_S.
            rules: update rules of the tables that are trained; None: Adam for all tables.
            memory: memory for the state of tables.
        """
        tables: dict[str, RowState] = {}
        for name, table in shared.tables.items():
            if rules is not None and name not in rules:
                continue
            state = ROW_STATES.get(rules[name].optimizer if rules else "adam")
            if isinstance(table, Tensor) and state:
                tables[name] = state.zeros_like(table, memory)
        return cls(AdamMoments.zeros_like(shared.dense), tables)


def adam_change(gradient: Tensor, first: Tensor, second: Tensor, step: int, lr: float) -> Tensor:
    """Adam (Kingma and Ba 2015): updates both moments in place and returns what to subtract from the parameters.

    Args:
        gradient, first, second: tensors of one shape.
        step: number of the update, from 1.
        lr: learning rate.
    """
    first.lerp_(gradient, 1 - BETA1)
    second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
    denominator = (second / (1 - BETA2**step)).sqrt_().add_(EPSILON)
    return (first / denominator).mul_(lr / (1 - BETA1**step))


def dense_change(gradient: Tensor, moments: AdamMoments | None, step: int, lr: float) -> Tensor:
    """What to subtract from dense parameters: by `adam_change`, or without moments by gradient descent."""
    if moments is None:
        return lr * gradient
    return adam_change(gradient, moments.first, moments.second, step, lr)


def row_change(gradient: Tensor, state: Sequence[Tensor], rule: RowRule, step: int, lr: float) -> Tensor:
    """Updates the state of embedding rows in place and returns what to subtract from the rows.

    Args:
        gradient: gradients of the rows, [V, D].
        state: tensors of the state of the rows; their number depends on the optimizer of the rule.
        rule: how the rows are updated.
        step: number of the update, from 1.
        lr: learning rate of the dense weights.
    """
    if rule.optimizer == "adam":
        first, second = state
        return adam_change(gradient, first, second, step, lr * rule.factor)
    if rule.optimizer == "adagrad":
        return adagrad_change(gradient, state[0], lr * rule.factor)
    return lr * rule.factor * gradient


def adagrad_change(gradient: Tensor, sums: Tensor, lr: float) -> Tensor:
    """Row-wise Adagrad, EXACT_ROWWISE_ADAGRAD of FBGEMM; returns what to subtract from the rows.

    Args:
        gradient: [V, D].
        sums: sums of mean squared gradients, [V, 1], or [V, D] with equal columns; updated in place.
        lr: learning rate.
    """
    sums += gradient.square().mean(1, keepdim=True)
    return gradient / sums.sqrt().add_(EPSILON) * lr


def move_by_adam(
    values: Tensors,
    gradient: Tensors,
    first: Tensors,
    second: Tensors,
    count: Tensor,
    lr: float,
    beta1: float = BETA1,
) -> None:
    """Update values and moments in place by Adam, with the kernel of `torch.optim.Adam(fused=True)`.

    Args:
        values, gradient, first, second: contiguous tensors, those of one position of one shape.
        count: number of the update, from 1, a float32 scalar on their device, which is not changed.
        lr: learning rate.
        beta1: decay of the first moment.
    """
    torch._fused_adam_(
        values, gradient, first, second, [], [count] * len(values),
        lr=lr, beta1=beta1, beta2=BETA2, weight_decay=0.0, eps=EPSILON, amsgrad=False, maximize=False,
    )  # fmt: skip


def row_views(matrices: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """Views of every row of matrices [T, D] for `move_rows_by_adam`; empty if copying the rows is faster."""
    wide = matrices[0].shape[1] >= WIDE and matrices[0].device.type == "cpu"
    return [matrix.unbind(0) for matrix in matrices] if wide else []


def move_rows_by_adam(
    views: Sequence[Sequence[Tensor]], place_V: Tensor, gradient_VD: Tensor, count: Tensor, lr: float, keep: float
) -> None:
    """Update some rows of a matrix and of its moments by `move_by_adam`, without copies of them.

    Args:
        views: the rows of the matrix and of both moments, see `row_views`.
        place_V: rows to update.
        gradient_VD: their gradients.
        count, lr: see `move_by_adam`.
        keep: factor of the rows before the update, for decoupled weight decay.
    """
    places = place_V.tolist()
    if not places:  # a list that the kernel refuses
        return
    values, first, second = ([rows[place] for place in places] for rows in views)
    if keep != 1:
        torch._foreach_mul_(values, keep)
    move_by_adam(values, gradient_VD.contiguous().unbind(0), first, second, count, lr)


@dataclass
class OuterOptimizer:
    """Applies theta~ - theta to theta_S (Alg. 1, line 7).

    `sgd` is Eq. 4. `nesterov` (Sutskever et al. 2013, as in torch.optim.SGD) and `adam` use -(theta~ - theta) as the
    gradient. Embedding rows and their momenta are updated only if the change contains them. For a sharded table, a
    rank stores the momenta of the rows that it owns, and changes contain only these rows.

    Attributes:
        settings: settings of the update.
        memory: memory for the momenta of tables.
        step_count: number of updates.
        first, second: momenta, if the optimizer has them, from the first update on.
    """

    settings: OuterSettings
    memory: StateMemory = IN_MEMORY
    step_count: int = 0
    first: "Momenta | None" = field(default=None)
    second: "Momenta | None" = field(default=None)

    def step(self, shared: Shared, change: Change, factor: float = 1.0) -> None:
        """Update theta_S in place.

        Args:
            shared: theta_S.
            change: theta~ - theta.
            factor: multiplies beta in this step.
        """
        self.step_count += 1
        beta = self.settings.beta * factor
        if self.settings.optimizer != "sgd" and self.first is None:
            self.first = Momenta.zeros_like(shared, self.memory)
            self.second = Momenta.zeros_like(shared, self.memory) if self.settings.optimizer == "adam" else None
        shared.dense += self._update(change.dense, None, slice(None), beta)
        for name, rows in change.rows.items():
            table = shared.tables[name]
            place_U = rows.ids if isinstance(table, Tensor) else table.places(rows.ids)
            table.index_add_(0, place_U, self._update(rows.values, name, place_U, beta))

    def state_dict(self) -> State:
        """The number of updates, and the momenta."""
        momenta = {"first": self.first, "second": self.second}
        parts = {name: own.state_dict() for name, own in momenta.items() if own is not None}
        return replace(State.join(parts), counters={"steps": self.step_count})

    def load_state_dict(self, state: State, like: Shared) -> None:
        """Load a state.

        Args:
            state: the state.
            like: theta_S, which has the shapes of the momenta.

        Raises:
            MamdrError: the state belongs to another model.
        """
        self.step_count = state.counter("steps")
        parts = {name: state.part(name) for name in ("first", "second")}
        momenta = {
            name: None if part.is_empty() else Momenta.of_state(part, like, self.memory) for name, part in parts.items()
        }
        self.first, self.second = momenta["first"], momenta["second"]

    def _update(self, change: Tensor, table: str | None, place: Tensor | slice, beta: float) -> Tensor:
        momentum = self.settings.momentum
        if self.first is None:
            return beta * change
        first_all = self.first.dense if table is None else self.first.tables[table]
        first = _read(first_all, place)
        if self.settings.optimizer == "nesterov":
            first = momentum * first + change
            _write(first_all, place, first)
            return beta * (change + momentum * first)
        assert self.second is not None
        second_all = self.second.dense if table is None else self.second.tables[table]
        second = _read(second_all, place)
        update, count = torch.zeros_like(change), torch.tensor(float(self.step_count), device=change.device)
        move_by_adam([update], [change], [first], [second], count, beta, momentum)
        _write(first_all, place, first)
        _write(second_all, place, second)
        return update.neg_()


def _read(whole: Tensor, place: Tensor | slice) -> Tensor:
    """A whole tensor, or a copy of some of its rows; index_select is several times as fast as indexing."""
    return whole if isinstance(place, slice) else whole.index_select(0, place)


def _write(whole: Tensor, place: Tensor | slice, values: Tensor) -> None:
    """Store values that were read with `_read`."""
    if isinstance(place, slice):
        whole.copy_(values)
    else:
        whole.index_copy_(0, place, values)


@dataclass
class Momenta:
    """One number for each parameter that this rank stores.

    Attributes:
        dense: numbers of dense parameters, [P].
        tables: numbers of embedding rows by table.
        sharded: names of the tables whose rows are divided over ranks.
    """

    dense: Tensor
    tables: dict[str, Tensor]
    sharded: frozenset[str]

    @classmethod
    def zeros_like(cls, shared: Shared, memory: StateMemory = IN_MEMORY) -> "Momenta":
        """Zeros for theta_S."""
        rows = {name: memory.zeros_like(held) for name, held in held_rows(shared).items()}
        return cls(torch.zeros_like(shared.dense), rows, sharded_tables(shared))

    @classmethod
    def of_state(cls, state: State, like: Shared, memory: StateMemory = IN_MEMORY) -> "Momenta":
        """Load the momenta of `state_dict` for theta_S of the shapes of `like`."""
        dense, tables = parameters_of(state, like)
        return cls(dense, {name: memory.copy(rows) for name, rows in tables.items()}, sharded_tables(like))

    def state_dict(self) -> State:
        """The momenta as a State."""
        return parameters_state(self.dense, self.tables, self.sharded)
