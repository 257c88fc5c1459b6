"""Updates of inner optimizers, on dense parameters and on touched embedding rows; the outer optimizer of theta_S."""

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


@dataclass
class AdamMoments:
    """Adam's two moments of one tensor, same shape as it."""

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
    """Row-wise Adagrad's state of a table: by row, the sum of its gradients' mean squares, [rows, 1]."""

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
"""What optimizers of rows keep of a table."""


@dataclass
class InnerState:
    """The inner optimizers' state of theta_S: the step count, moments of dense parameters and of every embedding table.

    The count is one for all; a table's moments move only where a row is touched (lazy Adam). Sharded tables have none
    here: they would have to travel with the rows, so theirs are fresh in every trajectory; nor have tables whose rows
    move by plain descent.
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
            rules: by table that moves, how its rows do; None: all by Adam.
            memory: where the state of tables is stored.
        """
        tables: dict[str, RowState] = {}
        for name, table in shared.tables.items():
            if rules is not None and name not in rules:
                continue
            state = ROW_STATES.get(rules[name].optimizer if rules else "adam")
            if isinstance(table, Tensor) and state:
                tables[name] = state.zeros_like(table, memory)
        return cls(AdamMoments.zeros_like(shared.dense), tables)


def adam_change(gradient: Tensor, first: Tensor, second: Tensor, step: int, lr: float, beta1: float = BETA1) -> Tensor:
    """Kingma and Ba's update: advances both moments in place and returns what is to be subtracted.

    Args:
        gradient, first, second: same shape.
        step: 1 for the first update.
        lr: learning rate.
        beta1: decay of the first moment.
    """
    first.lerp_(gradient, 1 - beta1)
    second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
    denominator = (second / (1 - BETA2**step)).sqrt_().add_(EPSILON)
    return (first / denominator).mul_(lr / (1 - beta1**step))


def dense_change(gradient: Tensor, moments: AdamMoments | None, step: int, lr: float) -> Tensor:
    """An update of dense parameters by Adam, or without moments by gradient descent; see `adam_change`."""
    if moments is None:
        return lr * gradient
    return adam_change(gradient, moments.first, moments.second, step, lr)


def row_change(gradient: Tensor, state: Sequence[Tensor], rule: RowRule, step: int, lr: float) -> Tensor:
    """An update of embedding rows: advances their state in place and returns what is to be subtracted.

    Args:
        gradient: of the rows, [V, D].
        state: of the rows, what the rule's optimizer keeps.
        rule: how they move.
        step: 1 for the first update.
        lr: learning rate of the dense weights.
    """
    if rule.optimizer == "adam":
        first, second = state
        return adam_change(gradient, first, second, step, lr * rule.factor)
    if rule.optimizer == "adagrad":
        return adagrad_change(gradient, state[0], lr * rule.factor)
    return lr * rule.factor * gradient


def adagrad_change(gradient: Tensor, sums: Tensor, lr: float) -> Tensor:
    """Row-wise Adagrad's update, FBGEMM's EXACT_ROWWISE_ADAGRAD.

    Args:
        gradient: [V, D].
        sums: by row, of mean squares, [V, 1] or [V, D] with equal columns; advanced in place.
        lr: learning rate.

    Returns:
        What is to be subtracted.
    """
    sums += gradient.square().mean(1, keepdim=True)
    return gradient / sums.sqrt().add_(EPSILON) * lr


def move_by_adam(
    values: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    count: Tensor,
    lr: float,
    beta1: float = BETA1,
) -> None:
    """Kingma and Ba's update in one pass, in place, by the kernel of `torch.optim.Adam(fused=True)`.

    Args:
        values, gradient, first, second: contiguous, of one shape.
        count: 1 for the first update, a float32 scalar on their device, which is not advanced.
        lr: learning rate.
        beta1: decay of the first moment.
    """
    torch._fused_adam_(
        [values], [gradient], [first], [second], [], [count],
        lr=lr, beta1=beta1, beta2=BETA2, weight_decay=0.0, eps=EPSILON, amsgrad=False, maximize=False,
    )  # fmt: skip


@dataclass
class OuterOptimizer:
    """Applies theta~ - theta to theta_S (Alg. 1, line 7).

    `sgd` is Eq. 4; `nesterov` (Sutskever et al. 2013, as torch.optim.SGD) and `adam` take -(theta~ - theta) as the
    gradient. Embedding rows move, and their momenta decay, only where the change touches them. Of a sharded table a
    rank has the momenta of its own rows, and a change holds own rows only.

    Attributes:
        settings: of the update.
        memory: where the momenta of tables are stored.
        step_count: updates so far.
        first, second: momenta, of optimizers that have them, from the first update on.
    """

    settings: OuterSettings
    memory: StateMemory = IN_MEMORY
    step_count: int = 0
    first: "Momenta | None" = field(default=None)
    second: "Momenta | None" = field(default=None)

    def step(self, shared: Shared, change: Change, factor: float = 1.0) -> None:
        """Move `shared` in place.

        Args:
            shared: theta_S.
            change: theta~ - theta.
            factor: of beta in this step.
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
        """The number of steps, and the momenta so far."""
        momenta = {"first": self.first, "second": self.second}
        parts = {name: own.state_dict() for name, own in momenta.items() if own is not None}
        return replace(State.join(parts), counters={"steps": self.step_count})

    def load_state_dict(self, state: State, like: Shared) -> None:
        """Take over a state.

        Args:
            state: to take over.
            like: theta_S, which the momenta must fit.

        Raises:
            MamdrError: it is of another model.
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
        first = _taken(first_all, place)
        if self.settings.optimizer == "nesterov":
            first = momentum * first + change
            _put(first_all, place, first)
            return beta * (change + momentum * first)
        assert self.second is not None
        second_all = self.second.dense if table is None else self.second.tables[table]
        second = _taken(second_all, place)
        update, count = torch.zeros_like(change), torch.tensor(float(self.step_count), device=change.device)
        move_by_adam(update, change, first, second, count, beta, momentum)
        _put(first_all, place, first)
        _put(second_all, place, second)
        return update.neg_()


def _taken(whole: Tensor, place: Tensor | slice) -> Tensor:
    """All of a tensor, or some of its rows: several times as fast as by indexing."""
    return whole if isinstance(place, slice) else whole.index_select(0, place)


def _put(whole: Tensor, place: Tensor | slice, values: Tensor) -> None:
    """Put back what was taken."""
    if isinstance(place, slice):
        whole.copy_(values)
    else:
        whole.index_copy_(0, place, values)


@dataclass
class Momenta:
    """One number for each of this rank's parameters.

    Attributes:
        dense: of dense parameters, [P].
        tables: by embedding table, of the rows that the rank holds.
        sharded: names of the tables whose rows are divided over ranks.
    """

    dense: Tensor
    tables: dict[str, Tensor]
    sharded: frozenset[str]

    @classmethod
    def zeros_like(cls, shared: Shared, memory: StateMemory = IN_MEMORY) -> "Momenta":
        """Before the first step."""
        rows = {name: memory.zeros_like(held) for name, held in held_rows(shared).items()}
        return cls(torch.zeros_like(shared.dense), rows, sharded_tables(shared))

    @classmethod
    def of_state(cls, state: State, like: Shared, memory: StateMemory = IN_MEMORY) -> "Momenta":
        """As `state_dict` gave them, to fit theta_S `like`."""
        dense, tables = parameters_of(state, like)
        return cls(dense, {name: memory.copy(rows) for name, rows in tables.items()}, sharded_tables(like))

    def state_dict(self) -> State:
        """All of them."""
        return parameters_state(self.dense, self.tables, self.sharded)
