"""One inner step of the dense parameters for G trajectories at once, compiled."""

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.functional import binary_cross_entropy_with_logits

from mamdr_core.engine.bags import SEVERAL
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
"""Graphs of one function in a process: some for each engine, where torch stops at 8."""


@dataclass
class DenseState:
    """Dense parameters of G trajectories and their moments, which steps move in place, each [G, P].

    Attributes:
        adam: by Adam; false: by plain gradient descent.
        first, second: Adam's moments, of the trajectories that have a step; None: zero, before the first step.
    """

    values: Tensor
    adam: bool
    first: Tensor | None = None
    second: Tensor | None = None


@dataclass(frozen=True)
class PaddedBatch:
    """The rows of a step of G trajectories.

    Attributes:
        embedded: trained fields of one width one after another, [G, F * B, D], or [G, F, D] of tables per domain;
            [1, F * groups, D] of these where the batch, of one trajectory, holds several domains.
        names: of each of these tensors, its F fields; one that the model pools stands for as many as a row has ids,
            with `SEVERAL` behind its name.
        constant: all other fields by name, [G, B, D]; of a batch of several domains also [1, B] and [1, groups], see
            `mamdr_core.models.groups`.
        labels: [G, B].
        base: base logits [G, B].
        weights: [G, B]; of one trajectory they sum to 1, or are all 0; 0 for padding.
        keys: dropout's, int32 [G].
    """

    embedded: list[Tensor]
    names: list[tuple[str, ...]]
    constant: Fields
    labels: Tensor
    base: Tensor
    weights: Tensor
    keys: Tensor


class DenseStep:
    """A step of dense parameters: gradients of G models side by side by torch.func, and their optimizer.

    Two graphs and not one: where one graph both reads parameters and moves them in place, torch 2.9 may schedule the
    products for the fields' gradients behind the update, and takes them at the new parameters.

    Args:
        flat: the model.
        bf16: compute logits and gradients in bfloat16; parameters, moments and losses keep their type.
        compiles: run through torch.compile; false: the same operations one by one.

    Attributes:
        compiled: whether gradients are compiled.
    """

    def __init__(self, flat: FlatModule, bf16: bool, compiles: bool) -> None:
        self._flat = flat
        self._bf16 = bf16
        self.compiled = compiles
        gradient = grad_and_value(self._loss, argnums=(0, 1))
        self._one, self._many = gradient, vmap(gradient)
        self._differentiate: Callable[..., tuple[Tensor, Tensor, list[Tensor]]] = self._gradients
        self._loss_of_groups: Callable[..., Tensor] = self._loss
        self._begin: Callable[..., tuple[Tensor, Tensor]] = _begin_adam
        if compiles:
            keep_checks()
            torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
            # Beyond it torch would run the same operations one by one without a word, and threads share the module.
            torch._dynamo.config.fail_on_recompile_limit_hit = True
            # As many threads as the process has: what is compiled is cached, and a rank among others has fewer.
            options: dict[str, str | int | bool | Callable[..., object]] = {"cpp.dynamic_threads": True}
            self._differentiate = torch.compile(self._gradients, dynamic=True, options=options)
            self._loss_of_groups = torch.compile(self._loss, dynamic=True, options=options)
            self._begin = torch.compile(_begin_adam, dynamic=True, options=options)

    def of_thread(self) -> "DenseStep":
        """The step for another thread: what is compiled is shared; else a call replaces its module's parameters."""
        if self.compiled:
            return self
        return DenseStep(FlatModule(copy.deepcopy(self._flat.module)), self._bf16, compiles=False)

    def gradients(self, state: DenseState, batch: PaddedBatch) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Gradients at `state`.

        A trajectory whose loss is not finite counts as one of zero gradient. A user's own structure that torch cannot
        compile runs the same operations one by one from then on, with a warning.

        Args:
            state: of the first trajectories, as many as the batch has.
            batch: the rows.

        Returns:
            Losses [G], gradients of the dense parameters [G, P], and of `batch.embedded`.
        """
        beat()
        if not self._flat.module.training:
            self._flat.module.train()
        values = state.values[: len(batch.keys)]
        arguments = (
            values, batch.embedded, batch.names, batch.constant, batch.labels, batch.base, batch.weights, batch.keys,
        )  # fmt: skip
        differentiate = self._gradients_of_groups if SIZES in batch.constant else self._differentiate
        try:
            return differentiate(*arguments)
        except Exception as error:
            # Of a user's own structure torch raises errors of any kind where it cannot compile; its own come again.
            may_be_compilers = self.compiled and (is_checked(self._flat.module) or _is_at_limit(error))
            if not may_be_compilers or is_to_compile_alone(error):
                raise
            structure = getattr(self._flat.module, "structure", self._flat.module)
            logger.warning(
                "torch cannot compile %s, whose steps run one operation after another instead: %s",
                type(structure).__name__, " ".join(str(error).split())[:300],
            )  # fmt: skip
            self._differentiate, self._loss_of_groups, self.compiled = self._gradients, self._loss, False
            return self.gradients(state, batch)

    def move(self, state: DenseState, gradient: Tensor, count: Tensor, lr: float, weight_decay: float = 0.0) -> None:
        """Move `state` along gradients.

        Args:
            state: moved in place, of the first trajectories: as many as have a gradient.
            gradient: [G, P].
            count: 1 at the first step, a float32 scalar on the device.
            lr: learning rate.
            weight_decay: decoupled.
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
            move_by_adam(values, gradient, state.first[: len(values)], state.second[: len(values)], count, lr)

    def _begin_moments(self, values: Tensor, gradient: Tensor, lr: float) -> tuple[Tensor, Tensor]:
        """Adam's first step, and its moments."""
        try:
            return self._begin(values, gradient, lr)
        except Exception as error:
            if not _is_at_limit(error):
                raise
            self._begin = _begin_adam
            return self._begin(values, gradient, lr)

    def _gradients(
        self,
        values: Tensor,
        embedded: list[Tensor],
        names: list[tuple[str, ...]],
        constant: Fields,
        labels: Tensor,
        base: Tensor,
        weights: Tensor,
        keys: Tensor,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Losses [G], gradients of dense parameters [G, P] and of `embedded`; zero where a loss is not finite."""
        # What is flat is cut before differentiating: the backward pass of a cut inside vmap fixes the number of
        # trajectories in what is compiled (torch 2.9).
        named = self._flat.named(values)
        fields: Fields = {}
        for own, together in zip(names, embedded, strict=True):
            fields |= cut_fields(own, together)
        if len(values) == 1:  # plain matrix products, not batched ones
            (to_named, to_fields), loss = self._one(
                _only(named), _only(fields), _only(constant), labels[0], base[0], weights[0], keys[0]
            )
            to_named, to_fields, loss = _as_stack(to_named), _as_stack(to_fields), loss[None]
        else:
            (to_named, to_fields), loss = self._many(named, fields, constant, labels, base, weights, keys)
        gradient = torch.cat([to_named[name].flatten(1) for name in named], dim=1)
        good = loss.isfinite()
        gradient = torch.where(good[:, None], gradient, 0)
        to_embedded = [_join_fields(own, to_fields) for own in names]
        return loss, gradient, [torch.where(good[:, None, None], each, 0) for each in to_embedded]

    def _gradients_of_groups(
        self,
        values: Tensor,
        embedded: list[Tensor],
        names: list[tuple[str, ...]],
        constant: Fields,
        labels: Tensor,
        base: Tensor,
        weights: Tensor,
        keys: Tensor,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """`_gradients` of one trajectory whose batch holds several domains, by autograd.

        torch.func cannot differentiate an operator of our own (torch 2.9).
        """
        named = {name: own.detach().requires_grad_() for name, own in _only(self._flat.named(values)).items()}
        fields: Fields = {}
        for own, together in zip(names, embedded, strict=True):
            fields |= {
                name: field.detach().requires_grad_() for name, field in _only(cut_fields(own, together)).items()
            }
        loss = self._loss_of_groups(named, fields, _only(constant), labels[0], base[0], weights[0], keys[0])
        learned = [*named.values(), *fields.values()]
        found = torch.autograd.grad(loss, learned, allow_unused=True, materialize_grads=True)
        if not loss.isfinite():
            found = tuple(torch.zeros_like(gradient) for gradient in found)
        gradient_P = torch.cat([gradient.flatten() for gradient in found[: len(named)]])
        to_fields = _as_stack(dict(zip(fields, found[len(named) :], strict=True)))
        return loss.detach()[None], gradient_P[None], [_join_fields(own, to_fields) for own in names]

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


def cut_fields(names: tuple[str, ...], together: Tensor) -> Fields:
    """Fields by name, [G, B, D] or [G, B, L, D], of what holds them one after another, [G, F * B, D].

    Args:
        names: see `PaddedBatch`.
        together: the fields.
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
    """What `cut_fields` cuts."""
    if not any(name.endswith(SEVERAL) for name in names):
        return torch.stack([fields[name] for name in names], dim=1).flatten(1, 2)
    own = tuple(dict.fromkeys(names))
    parts = [fields[n.removesuffix(SEVERAL)].flatten(1, 2) if n.endswith(SEVERAL) else fields[n] for n in own]
    return torch.cat(parts, dim=1)


def _begin_adam(values: Tensor, gradient: Tensor, lr: float) -> tuple[Tensor, Tensor]:
    """Adam's first step: moments of zero need be neither filled nor read. Returns the moments after it.

    Elementwise and in place: nothing can be read after it has been moved.
    """
    first, second = gradient * (1 - BETA1), gradient * gradient * (1 - BETA2)
    values.sub_(gradient / (gradient.abs() + EPSILON) * lr)  # without their bias the moments are g and g^2
    return first, second


def _is_at_limit(error: Exception) -> bool:
    from torch._dynamo.exc import FailOnRecompileLimitHit  # a second to import, and only needed once it has been used

    return isinstance(error, FailOnRecompileLimitHit)


def _only(stacked: Fields) -> Fields:
    return {name: values[0] for name, values in stacked.items()}


def _as_stack(single: Fields) -> Fields:
    return {name: values[None] for name, values in single.items()}
