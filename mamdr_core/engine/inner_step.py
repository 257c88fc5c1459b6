"""One step of the inner optimizers along a gradient that a method has combined, outside an engine's trajectories."""

from collections.abc import Mapping

from mamdr_core.engine.optimizers import InnerState, adam_change, row_change
from mamdr_core.engine.parameters import Change, Rows, Shared, Theta
from mamdr_core.engine.step_options import FOLLOW_GRADIENT, RowRule, StepOptions


def inner_step(
    shared: Shared,
    moved: Change,
    gradient: Change,
    state: InnerState | None,
    lr: float,
    optimizer: str,
    options: StepOptions,
    rules: Mapping[str, RowRule],
) -> None:
    """One step of the inner optimizers along a gradient.

    Args:
        shared: theta_S.
        moved: the trajectory's theta~ - theta, moved in place.
        gradient: where to.
        state: of the optimizers, advanced in place; None: they have none.
        lr: inner learning rate alpha.
        optimizer: of the dense weights.
        options: what else a step does.
        rules: by table, how its rows move.
    """
    if state is None and options == FOLLOW_GRADIENT:
        moved.move(gradient, -lr)
        return
    count = 1
    if state is not None:
        state.step += 1
        count = state.step
    theta = Theta(shared, moved)
    values = {
        name: theta.gather(name, rows.ids)
        for name, rows in gradient.rows.items()
        if rules[name].l2 or rules[name].decay
    }
    gradients = {
        name: rows.values + rules[name].l2 * values[name] if rules[name].l2 else rows.values
        for name, rows in gradient.rows.items()
    }
    dense = gradient.dense
    if options.clip_norm:
        factor = options.clip_factor(sum((own.square().sum() for own in gradients.values()), dense.square().sum()))
        dense, gradients = dense * factor, {name: own * factor for name, own in gradients.items()}
    if optimizer == "adam":
        assert state is not None
        step = Change(adam_change(dense, state.dense.first, state.dense.second, count, lr))
    else:
        step = Change(lr * dense)
    if options.weight_decay:
        step.dense += lr * options.weight_decay * theta.dense
    for name, rows in gradient.rows.items():
        whole = state.tables[name].named().values() if state and name in state.tables else ()
        own = [tensor[rows.ids] for tensor in whole]
        change = row_change(gradients[name], own, rules[name], count, lr)
        if rules[name].decay:
            change = change + lr * rules[name].decay * values[name]
        step.rows[name] = Rows(rows.ids, change)
        for tensor, moments in zip(whole, own, strict=True):
            tensor[rows.ids] = moments
    moved.move(step, -1.0)
