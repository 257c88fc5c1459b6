"""Calls of compiled functions without torch's checks of inputs, which take longer than the kernels of a small step.

In every call torch 2.9 checks the assumptions of its tracing, prepares inputs and outputs for autograd, and records the
call for profilers. If all else is fixed, only the shapes, strides and types of the inputs determine which generated
code runs. For inputs like those of an earlier call, this code is called directly with the new tensors, and gives the
same numbers.
"""

import contextlib
import threading
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, NamedTuple

from torch import Tensor

MOST_SHAPES = 1 << 13
"""Maximum number of combinations of shapes that are kept for a function, about 5 kB each."""
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
    """Generated code, its constant inputs, and for each other input its place and its position among the tensors."""

    code: Callable[[list[Any]], Sequence[Tensor]]
    inputs: list[Any]
    places: list[tuple[int, int]]


class DirectCalls:
    """A function compiled by torch that is called without torch's checks for shapes that it was called with before.

    The function must depend only on its tensors, a key, and values that do not change between calls. Devices must not
    change, nothing may require gradients, and nothing may be changed in place. If torch divides the function into
    several graphs, or the generated code reads or returns other tensors than the function, every call has all checks.

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
            key: everything else that the function depends on.
            tensors: all tensors among the arguments.
            arguments: arguments of the function.
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
        """How to repeat a call directly; None: it needs more than one call of generated code."""
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
    """Make torch record calls of generated code for `DirectCalls`; without its private names every call is checked."""
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

        CompiledFxGraph.__call__ = recorded  # type: ignore[method-assign, assignment]  # replaced on purpose
