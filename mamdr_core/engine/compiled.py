"""One inner step of the dense parameters of G trajectories at once, compiled."""

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.functional import binary_cross_entropy_with_logits

from mamdr_core.engine.bags import SEVERAL
from mamdr_core.engine.compiler import remove_truncated_library
from mamdr_core.engine.direct_calls import DirectCalls
from mamdr_core.engine.flat import FlatModule
from mamdr_core.engine.optimizers import BETA1, BETA2, EPSILON, move_by_adam
from mamdr_core.engine.threads import is_to_compile_alone
from mamdr_core.engine.vector_isa import keep_checks
from mamdr_core.models.checking import is_checked
from mamdr_core.models.groups import SIZES
from mamdr_core.runtime.heartbeat import beat

logger = logging.getLogger(__name__)
Fields = dict[str, Tensor]
RECOMPILE_LIMIT = 64
"""Maximum number of graphs of one function in a process; every engine needs a few. The default of torch is 8."""


@dataclass
class DenseState:
    """Dense parameters of G trajectories and their moments, each [G, P], which steps update in place.

    Attributes:
        adam: whether steps use Adam; otherwise plain gradient descent.
        first, second: Adam's moments of the trajectories that have a step; None: zero, before the first step.
    """

    values: Tensor
    adam: bool
    first: Tensor | None = None
    second: Tensor | None = None


class PaddedBatch(NamedTuple):
    """The rows of a step of G trajectories.

    Attributes:
        embedded: concatenated trained fields, one tensor per width: [G, F * B, D], or [G, F, D] for tables per domain,
            or [1, F * groups, D] for these if the batch, of a single trajectory, contains several domains.
        names: the F fields of each of these tensors. The name of a field that the model pools, with the suffix
            `SEVERAL`, is repeated for every id of a row.
        constant: all other fields by name, [G, B, D]; for a batch of several domains also [1, B] and [1, groups], see
            `mamdr_core.models.groups`.
        labels: [G, B].
        base: base logits [G, B].
        weights: [G, B]; their sum over a trajectory is 1, or 0 if all are 0; padding has 0.
        keys: keys of dropout, int32 [G].
    """

    embedded: list[Tensor]
    names: list[tuple[str, ...]]
    constant: Fields
    labels: Tensor
    base: Tensor
    weights: Tensor
    keys: Tensor


class DenseStep:
    """A step of dense parameters: gradients of G models at once by torch.func, and the update by their optimizer.

    They are two graphs: if one graph both reads parameters and updates them in place, torch 2.9 may compute the
    gradients of fields after the update, from the new parameters.

    Args:
        flat: the model.
        bf16: compute logits and gradients in bfloat16; parameters, moments and losses keep their type.
        compiles: use torch.compile; otherwise the same operations run one by one.

    Attributes:
        compiled: whether gradients are compiled.
    """

    def __init__(self, flat: FlatModule, bf16: bool, compiles: bool) -> None:
        self._flat = flat
        self._bf16 = bf16
        self.compiled = compiles
        gradient = grad_and_value(self._loss, argnums=(0, 1))
        self._one, self._many = gradient, vmap(gradient)
        self._direct: DirectCalls | None = None
        self._loss_of_groups: Callable[..., Tensor] = self._loss
        self._begin: Callable[..., tuple[Tensor, Tensor]] = _begin_adam
        if compiles:
            keep_checks()
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
            # Beyond the limit torch would silently run the operations one by one, on a module that threads share.
            torch._dynamo.config.fail_on_recompile_limit_hit = True
            # Use the number of threads of the process: cached code may come from a process with more threads.
            options: dict[str, str | int | bool | Callable[..., object]] = {"cpp.dynamic_threads": True}
            self._direct = DirectCalls(torch.compile(self._gradients, dynamic=True, options=options))
            self._loss_of_groups = torch.compile(self._loss, dynamic=True, options=options)
            self._begin = torch.compile(_begin_adam, dynamic=True, options=options)

    def of_thread(self) -> "DenseStep":
        """The step for another thread: the same if compiled, else a copy, as calls replace the module's parameters."""
        if self.compiled:
            return self
        return DenseStep(FlatModule(copy.deepcopy(self._flat.module)), self._bf16, compiles=False)

    def gradients(self, state: DenseState, batch: PaddedBatch) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Gradients at the values of `state`.

        The gradient of a trajectory whose loss is not finite is zero. If torch cannot compile the structure of a user,
        its operations run one by one from then on, with a warning.

        Args:
            state: at least the trajectories of the batch, which are its first ones.
            batch: the rows.

        Returns:
            Losses [G], gradients of the dense parameters [G, P], and gradients of `batch.embedded`.
        """
        beat()
        if not self._flat.module.training:
            self._flat.module.train()
        differentiate = self._gradients_of_groups if SIZES in batch.constant else self._differentiate
        try:
            loss_G, gradient_GP, *to_embedded = differentiate(state.values[: len(batch.keys)], batch)
        except Exception as error:
            if self.compiled and remove_truncated_library(error):
                return self.gradients(state, batch)
            # For structures of users the compiler raises errors of any type; errors of the structure are raised again.
            may_be_compilers = self.compiled and (is_checked(self._flat.module) or _is_at_limit(error))
            if not may_be_compilers or is_to_compile_alone(error):
                raise
            structure = getattr(self._flat.module, "structure", self._flat.module)
            logger.warning(
                "torch cannot compile %s, whose steps run one operation after another instead: %s",
                type(structure).__name__, " ".join(str(error).split())[:300],
            )  # fmt: skip
            self._direct, self._loss_of_groups, self.compiled = None, self._loss, False
            return self.gradients(state, batch)
        return loss_G, gradient_GP, to_embedded

    def move(self, state: DenseState, gradient: Tensor, count: Tensor, lr: float, weight_decay: float = 0.0) -> None:
        """Update the values of `state`.

        Args:
            state: updated in place for its first G trajectories.
            gradient: [G, P].
            count: number of the step, 1 for the first, a float32 scalar on the device.
            lr: learning rate.
            weight_decay: decoupled weight decay.
        """
        values = state.values[: len(gradient)]
        if weight_decay:
            values.mul_(1 - lr * weight_decay)
        if not state.adam:
            values.sub_(gradient, alpha=lr)
        elif state.first is None:
            state.first, state.second = self._begin_moments(values, gradient, lr)
        else:
            assert state.second is not None
            first, second = state.first[: len(values)], state.second[: len(values)]
            move_by_adam([values], [gradient], [first], [second], count, lr)

    def _begin_moments(self, values: Tensor, gradient: Tensor, lr: float) -> tuple[Tensor, Tensor]:
        """Make Adam's first step; returns its moments."""
        try:
            return self._begin(values, gradient, lr)
        except Exception as error:
            if remove_truncated_library(error):
                return self._begin_moments(values, gradient, lr)
            if not _is_at_limit(error):
                raise
            self._begin = _begin_adam
            return self._begin(values, gradient, lr)

    def _differentiate(self, values: Tensor, batch: PaddedBatch) -> Sequence[Tensor]:
        """`_gradients`, compiled unless torch cannot compile them."""
        if self._direct is None:
            return self._gradients(values, batch)
        others = (batch.labels, batch.base, batch.weights, batch.keys)
        tensors = (values, *batch.embedded, *batch.constant.values(), *others)
        names = (torch.get_num_threads(), *batch.names, *batch.constant)
        return self._direct(names, tensors, values, batch)

    def _gradients(self, values: Tensor, batch: PaddedBatch) -> tuple[Tensor, ...]:
        """See `gradients`; `values` are [G, P]. The list is part of the tuple."""
        # Flat tensors are cut before differentiating: the backward pass of a cut inside vmap specialises the compiled
        # graph to the number of trajectories (torch 2.9).
        named, fields, others = self._flat.named(values), _embedded_fields(batch), _other_inputs(batch)
        if len(values) == 1:  # plain matrix products, not batched ones
            (to_named, to_fields), loss = self._one(_only(named), _only(fields), *map(_first, others))
            to_named, to_fields, loss = _as_stack(to_named), _as_stack(to_fields), loss[None]
        else:
            (to_named, to_fields), loss = self._many(named, fields, *others)
        gradient = torch.cat([to_named[name].flatten(1) for name in named], dim=1)
        good = loss.isfinite()
        gradient = torch.where(good[:, None], gradient, 0)
        to_embedded = [_join_fields(own, to_fields) for own in batch.names]
        return loss, gradient, *[torch.where(good[:, None, None], each, 0) for each in to_embedded]

    def _gradients_of_groups(self, values: Tensor, batch: PaddedBatch) -> tuple[Tensor, ...]:
        """`_gradients` of one trajectory whose batch contains several domains, by autograd.

        torch.func cannot differentiate a custom operator (torch 2.9).
        """
        named, fields = (
            {name: own.detach().requires_grad_() for name, own in _only(stacked).items()}
            for stacked in (self._flat.named(values), _embedded_fields(batch))
        )
        loss = self._loss_of_groups(named, fields, *map(_first, _other_inputs(batch)))
        learned = [*named.values(), *fields.values()]
        found = torch.autograd.grad(loss, learned, allow_unused=True, materialize_grads=True)
        if not loss.isfinite():
            found = tuple(torch.zeros_like(gradient) for gradient in found)
        gradient_P = torch.cat([gradient.flatten() for gradient in found[: len(named)]])
        to_fields = _as_stack(dict(zip(fields, found[len(named) :], strict=True)))
        return loss.detach()[None], gradient_P[None], *[_join_fields(own, to_fields) for own in batch.names]

    def _loss(
        self,
        named: Fields,
        embedded: Fields,
        constant: Fields,
        labels_B: Tensor,
        base_B: Tensor,
        weights_B: Tensor,
        key: Tensor,
    ) -> Tensor:
        fields = {**embedded, **constant}
        if self._bf16:
            named = {name: values.bfloat16() for name, values in named.items()}
            fields = {name: field.bfloat16() if field.is_floating_point() else field for name, field in fields.items()}
        state = {**named, **self._flat.keyed(key)}
        logits_B = functional_call(self._flat.module, state, (fields,)).to(labels_B.dtype) + base_B
        return (binary_cross_entropy_with_logits(logits_B, labels_B, reduction="none") * weights_B).sum()


def _embedded_fields(batch: PaddedBatch) -> Fields:
    fields: Fields = {}
    for names, together in zip(batch.names, batch.embedded, strict=True):
        fields |= cut_fields(names, together)
    return fields


def _other_inputs(batch: PaddedBatch) -> tuple[Fields | Tensor, ...]:
    """The arguments of `_loss` that are not differentiated."""
    return batch.constant, batch.labels, batch.base, batch.weights, batch.keys


def cut_fields(names: tuple[str, ...], together: Tensor) -> Fields:
    """Split concatenated fields, [G, F * B, D]: by name [G, B, D], or [G, B, L, D] for a field of several ids.

    Args:
        names: see `PaddedBatch`.
        together: the concatenated fields.
    """
    if not any(name.endswith(SEVERAL) for name in names):
        return dict(zip(names, together.unflatten(1, (len(names), -1)).unbind(1), strict=True))
    own = tuple(dict.fromkeys(names))
    sizes = [names.count(name) for name in own]
    fields: Fields = {}
    for name, size, part in zip(own, sizes, together.unflatten(1, (len(names), -1)).split(sizes, dim=1), strict=True):
        if name.endswith(SEVERAL):
            fields[name.removesuffix(SEVERAL)] = part.flatten(1, 2).unflatten(1, (-1, size))
        else:
            fields[name] = part.squeeze(1)
    return fields


def _join_fields(names: tuple[str, ...], fields: Fields) -> Tensor:
    """The inverse of `cut_fields`; that of a single field is not a copy."""
    if len(names) == 1 and names[0] in fields:
        return fields[names[0]].contiguous()
    if not any(name.endswith(SEVERAL) for name in names):
        return torch.stack([fields[name] for name in names], dim=1).flatten(1, 2)
    own = tuple(dict.fromkeys(names))
    parts = [fields[n.removesuffix(SEVERAL)].flatten(1, 2) if n.endswith(SEVERAL) else fields[n] for n in own]
    return torch.cat(parts, dim=1)


def _begin_adam(values: Tensor, gradient: Tensor, lr: float) -> tuple[Tensor, Tensor]:
    """Make Adam's first step without reading moments, which are zero; returns the moments after it.

    All operations are elementwise, so no value can be read after its update.
    """
    first, second = gradient * (1 - BETA1), gradient * gradient * (1 - BETA2)
    values.sub_(gradient / (gradient.abs() + EPSILON) * lr)  # the bias-corrected moments are g and g^2
    return first, second


def _is_at_limit(error: Exception) -> bool:
    from torch._dynamo.exc import FailOnRecompileLimitHit  # takes a second to import

    return isinstance(error, FailOnRecompileLimitHit)


def _first(stacked: Fields | Tensor) -> Fields | Tensor:
    """What belongs to the first of G trajectories."""
    return _only(stacked) if isinstance(stacked, dict) else stacked[0]


def _only(stacked: Fields) -> Fields:
    return {name: values[0] for name, values in stacked.items()}


def _as_stack(single: Fields) -> Fields:
    return {name: values[None] for name, values in single.items()}
