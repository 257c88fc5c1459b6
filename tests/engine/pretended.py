"""A device that is not there: tensors that belong to it and compute on the CPU, for tests of device code without a GPU.

Torch calls the device `meta`, the only type without a backend on which autograd runs. As on CUDA, an operation on
tensors of two devices is an error. Every operation for which the host would wait for a GPU is recorded.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from mamdr_core.engine import pieces, specific_store, stacking

DEVICE = torch.device("meta")
WAITS = {
    "_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "unique_consecutive", "masked_select", "bincount",
    "isin", "equal",
}  # fmt: skip
"""Operations whose result, or its size, CUDA sends to the host; `isin` calls `unique` where it sorts."""
COPIES = {"_to_copy", "copy_"}
PACKAGE = str(Path(stacking.__file__).parents[1])
make_tensor = torch.tensor


class OnDevice(Tensor):
    """A tensor of the device, whose values `held` are on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnDevice":
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        made = Tensor._make_wrapper_subclass(cls, held.size(), device=DEVICE, **layout)
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), named=None):
        raise AssertionError(f"{function} of a tensor of the device outside the block in which there is one")

    def tolist(self) -> list:
        """Through a copy to the host: torch has no list of a subclass."""
        return self.cpu().tolist()


class Pinned(Tensor):
    """A tensor in the host's pinned memory, from which the device copies while the host works."""


class Dispatch(TorchDispatchMode):
    """Runs operations of the device on the CPU.

    Attributes:
        waits: how often the host would have waited, by (operation, file:function of the package).
        operations: number of operations on the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[tuple[str, str]] = Counter()
        self.operations = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        named = dict(named or {})
        tensors = [each for each in tree_leaves((arguments, named)) if isinstance(each, Tensor)]
        has_ours = any(isinstance(tensor, OnDevice) for tensor in tensors)
        asked = named.get("device")
        gives_ours = has_ours if asked is None else torch.device(asked).type == DEVICE.type
        if has_ours or gives_ours:
            self.operations += 1
            self._check(function._schema.name.removeprefix("aten::"), tensors, arguments, named, gives_ours)
        if asked is not None:
            named["device"] = "cpu"
        held = function(*tree_map(held_by, arguments), **tree_map(held_by, named))
        if function._schema.is_mutable:
            return held if held is None else named.get("out", arguments[0])
        return tree_map(lambda each: OnDevice(each) if gives_ours and isinstance(each, Tensor) else each, held)

    def _check(self, name: str, tensors: list[Tensor], arguments, named, gives_ours: bool) -> None:
        """Refuse tensors of two devices; record what a GPU's host would wait for."""
        if name in COPIES:
            target, source = (gives_ours, tensors[0]) if name == "_to_copy" else (is_ours(arguments[0]), tensors[1])
            waits = is_ours(source) != target and not isinstance(source, Pinned)
        else:
            strangers = [list(each.shape) for each in tensors if not is_ours(each) and each.dim()]
            if strangers and any(map(is_ours, tensors)):
                raise RuntimeError(f"{name}: a tensor {strangers[0]} of the CPU and one of the device")
            by_mask = name.startswith("index") and any(each.dtype == torch.bool for each in tensors[1:2])
            without_size = name == "repeat_interleave" and named.get("output_size") is None
            waits = name in WAITS or by_mask or without_size
        if waits:
            self.waits[name, place_in_package()] += 1


def is_ours(tensor: Tensor) -> bool:
    """Whether a tensor belongs to the device."""
    return isinstance(tensor, OnDevice)


def held_by(value: object) -> object:
    """The CPU's tensor of one of the device; anything else unchanged."""
    return value.held if isinstance(value, OnDevice) else value


def place_in_package() -> str:
    """The innermost function of the package that is being executed, as file:function."""
    frame = sys._getframe()
    while frame and not frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}" if frame else "elsewhere"


class Inline:
    """A pool that runs what is submitted at once: what intercepts operations belongs to a thread."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __enter__(self) -> "Inline":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, call: Callable[..., object], *arguments: Iterable[object]) -> Iterator[object]:
        """One after another, when it is asked for."""
        return map(call, *arguments)


@contextmanager
def pretended_device() -> Iterator[Dispatch]:
    """In the block, `DEVICE` exists for the engine, with a GPU's padding and sizes of stacks."""

    def tensor(data: object, *, device: torch.device | str | None = None, **named: object) -> Tensor:
        made = make_tensor(data, **named)
        return made if device is None else made.to(device)

    like_cuda = [stacking.PADDING, pieces.STACK_ROWS, specific_store.GROUP_BYTES]
    with (
        patch.dict(like_cuda[0], {DEVICE.type: like_cuda[0]["cuda"]}),
        patch.dict(like_cuda[1], {DEVICE.type: like_cuda[1]["cuda"]}),
        patch.dict(like_cuda[2], {DEVICE.type: like_cuda[2]["cuda"]}),
        patch.object(pieces, "ThreadPoolExecutor", Inline),
        patch.object(torch, "tensor", tensor),
        patch.object(Tensor, "pin_memory", lambda self: self.as_subclass(Pinned)),
        patch.object(torch.cuda, "mem_get_info", lambda device: (1 << 33, 1 << 34)),
        Dispatch() as dispatch,
    ):
        yield dispatch
