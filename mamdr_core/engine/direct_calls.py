"""Calls of compiled functions without torch's checks of inputs, which take longer than the kernels of a small step.

For every call torch 2.9 checks what its tracing relied on, prepares inputs and outputs for autograd, and records the
call for profilers. Which generated code runs depends only on the shapes, strides and types of the inputs once all else
is fixed. For inputs like those of an earlier call, it is called directly, with the same numbers and the new tensors.
"""

import contextlib
import threading
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, NamedTuple

from torch import Tensor

MOST_SHAPES = 1 << 13
"""Maximum number of combinations of shapes that are kept for a function, some 5 kilobytes each."""
_recording = threading.local()


class Call(NamedTuple):
    """A call of generated code.

    Attributes:
        code: takes a list of inputs, which it empties, and returns a sequence of tensors.
        inputs: tensors and sizes.
        outputs: what it returned.
    """

    code: Callable[[list[Any]], Sequence[Tensor]]
    inputs: list[Any]
    outputs: Sequence[Tensor]


class _Prepared(NamedTuple):
    """Generated code, its inputs that are the same in every call, and the places of the others: (own, in the call)."""

    code: Callable[[list[Any]], Sequence[Tensor]]
    inputs: list[Any]
    places: list[tuple[int, int]]


class DirectCalls:
    """A function compiled by torch that is called without torch's checks for shapes that it has been called with.

    It must depend only on its tensors, whose devices are always the same, on a key, and on what does not change between
    calls, not require gradients, and change nothing. A function that torch divides into several graphs, or whose code
    reads other tensors or returns others than it does, is always called with all checks.

    Args:
        function: returns tensors in a flat tuple.
    """

    def __init__(self, function: Callable[..., tuple[Tensor, ...]]) -> None:
        record_calls()
        self._function = function
        self._prepared: dict[object, _Prepared | None] = {}

    def __call__(self, key: object, tensors: Sequence[Tensor], *arguments: object) -> Sequence[Tensor]:
        """Call the function.

        Args:
            key: what it depends on besides tensors.
            tensors: all tensors of the arguments.
            arguments: of the function.
        """
        # Generated code has one input for a tensor that is given twice.
        distinct = len({id(tensor) for tensor in tensors})
        shapes = (key, distinct, *[(tensor.shape, tensor.stride(), tensor.dtype) for tensor in tensors])
        prepared = self._prepared.get(shapes)
        if prepared is not None:
            inputs = prepared.inputs.copy()
            for place, source in prepared.places:
                inputs[place] = tensors[source]
            return prepared.code(inputs)
        if shapes in self._prepared:
            return self._function(*arguments)
        calls: list[Call] = []
        _recording.calls = calls
        try:
            outputs = self._function(*arguments)
        finally:
            _recording.calls = None
        if len(self._prepared) >= MOST_SHAPES:
            self._prepared.clear()
        self._prepared[shapes] = self._prepare(calls, tensors, outputs)
        return outputs

    def _prepare(self, calls: list[Call], tensors: Sequence[Tensor], outputs: Sequence[Tensor]) -> _Prepared | None:
        """How to repeat a call; None: not by generated code alone."""
        if len(calls) != 1 or list(map(id, calls[0].outputs)) != list(map(id, outputs)):
            return None
        code, inputs, _ = calls[0]
        sources = {id(tensor): number for number, tensor in enumerate(tensors)}
        places = [(place, sources[id(own)]) for place, own in enumerate(inputs) if id(own) in sources]
        constant = [None if id(own) in sources else own for own in inputs]
        if not all(own is None or isinstance(own, int) for own in constant):
            return None
        return _Prepared(code, constant, places)


def record_calls() -> None:
    """Record calls of generated code for `DirectCalls`. If torch lacks the private names, every call is checked."""
    with contextlib.suppress(ImportError, AttributeError):
        from torch._inductor.output_code import CompiledFxGraph  # takes a second, which only compiled steps need

        call = CompiledFxGraph.__call__
        if hasattr(call, "__wrapped__"):
            return

        @wraps(call)
        def recorded(graph: CompiledFxGraph, inputs: Sequence[Any]) -> Any:
            calls: list[Call] | None = getattr(_recording, "calls", None)
            given = list(inputs)
            outputs = call(graph, inputs)
            if calls is not None and graph.current_callable is not None:
                calls.append(Call(graph.current_callable, given, outputs))
            return outputs

        # A replaced method is what mypy is there to find.
        CompiledFxGraph.__call__ = recorded  # type: ignore[method-assign, assignment]
