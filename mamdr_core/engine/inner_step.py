"""One step of the inner optimizers along a gradient that a learning method has combined."""

from collections.abc import Mapping

from mamdr_core.engine.optimizers import InnerState, dense_change, row_change
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
    """Make one step of the inner optimizers along a gradient.

    Args:
        shared: theta_S.
        moved: theta~ - theta of the trajectory, updated in place.
        gradient: the gradient.
        state: state of the optimizers, updated in place; None if they have none.
        lr: inner learning rate alpha.
        optimizer: optimizer of the dense weights.
        options: what the step does in addition to following the gradient.
        rules: update rule of each table's rows.
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
    assert state is not None or optimizer != "adam"
    step = Change(dense_change(dense, state.dense if state and optimizer == "adam" else None, count, lr))
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
