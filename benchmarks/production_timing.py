"""Seconds of a run by part, the shapes of its steps, and the time of torch's own matrix products of these shapes."""

import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from itertools import pairwise
from unittest.mock import patch

import torch
from torch import Tensor

import mamdr_core.engine.layout
import mamdr_core.training.checkpoint.checkpoints
from mamdr_core.engine.optimizers import OuterOptimizer
from mamdr_core.engine.steps import Steps
from mamdr_core.learning.domain_negotiation import DomainNegotiation
from mamdr_core.learning.domain_regularization import DomainRegularization
from mamdr_core.learning.learner import Learner, Round
from mamdr_core.runtime.clock import Clock
from mamdr_core.training.checkpoint.checkpoints import Checkpoints
from mamdr_core.training.early_stop import EarlyStop

Shape = tuple[int, int]
"""Trajectories G, and padded rows B of each."""
BINS, SECONDS = 12, 0.05


class Parts:
    """Times parts of a run from outside.

    Args:
        clock: counts the seconds; a part inside another is counted in both.

    Attributes:
        shapes: by update (dn, dr), how many steps had a shape.
        rows: by update, rows of these steps without padding.
        compiled: by update, seconds in which steps of shapes that were new to torch.compile were compiled.
        waited: by update, seconds in which steps waited for their rows to be laid out.
        moved: by direction, bytes of theta_i that were read and written.
        calls: by part, how often a function of it was called.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.shapes: dict[str, Counter[Shape]] = {"dn": Counter(), "dr": Counter()}
        self.rows: Counter[str] = Counter()
        self.compiled: Counter[str] = Counter()
        self.waited: Counter[str] = Counter()
        self.moved: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._update = ""

    def call(self, function: Callable, part: str) -> Callable:
        """The function, whose seconds are counted."""

        @wraps(function)
        def timed(*arguments: object, **named: object) -> object:
            self.calls[part] += 1
            with self.clock.phase(part):
                return function(*arguments, **named)

        return timed

    def items(self, function: Callable, part: Callable[..., str]) -> Callable:
        """A generator, the making of whose items is counted."""

        @wraps(function)
        def timed(*arguments: object, **named: object) -> Iterator:
            items = function(*arguments, **named)
            while True:
                with self.clock.phase(part(*arguments, **named)):
                    item = next(items, None)
                if item is None:
                    return
                yield item

        return timed

    @contextmanager
    def timing(self, learner: Learner) -> Iterator[None]:
        """Time the parts of whatever trains the learner in the block."""
        store, training = learner.specific, mamdr_core.training
        calls = [
            (OuterOptimizer, "step", "outer update"),
            (DomainRegularization, "draw_supports", "drawing supports"),
            (EarlyStop, "record", "keeping the best"),
            (Checkpoints, "close", "checkpoint, waited for at the end"),
            (training.checkpoint.checkpoints, "write", "checkpoint, written in the background"),
            (training.checkpoint.checkpoints, "hash_files", "checkpoint, hashed in the background"),
        ]
        with ExitStack() as stack:
            for owner, name, part in calls:
                stack.enter_context(patch.object(owner, name, self.call(getattr(owner, name), part)))
            groups = self.items(store.groups, lambda _, changes=True: f"theta_i, {'DR' if changes else 'validation'}")
            stack.enter_context(patch.object(store, "groups", groups))
            for name in ("read", "write"):
                stack.enter_context(patch.object(store.buffer, name, self._moving(getattr(store.buffer, name), name)))
            lay_steps = mamdr_core.engine.layout.lay_steps
            stack.enter_context(patch.object(mamdr_core.engine.layout, "lay_steps", self._counting(lay_steps)))
            yield

    def updates(self) -> dict[str, type]:
        """The updates of `shared` and `specific`, timed."""
        parts = self

        def run(name: str, learner: Learner, call: Callable[[Round], None], round_: Round) -> None:
            parts._update, waited, compiled = name, learner.engine.waited, compile_seconds()
            with parts.clock.phase(name):
                call(round_)
            parts.waited[name] += learner.engine.waited - waited
            parts.compiled[name] += compile_seconds() - compiled

        class Negotiation(DomainNegotiation):
            def __call__(self, round_: Round) -> None:
                run("dn", self._learner, super().__call__, round_)

        class Regularization(DomainRegularization):
            def __call__(self, round_: Round) -> None:
                run("dr", self._learner, super().__call__, round_)

        return {"shared": Negotiation, "specific": Regularization}

    def _moving(self, move: Callable[[int, Tensor], None], name: str) -> Callable[[int, Tensor], None]:
        def moved(entry: int, vector_P: Tensor) -> None:
            of_training = not threading.current_thread().name.startswith("checkpoint")
            with self.clock.phase(f"theta_i, {name}" if of_training else "theta_i, read for checkpoints"):
                move(entry, vector_P)
            self.moved[name] += vector_P.nbytes * of_training

        return moved

    def _counting(self, lay_steps: Callable[..., Steps]) -> Callable[..., Steps]:
        def counted(*arguments: object) -> Steps:
            steps = lay_steps(*arguments)
            self.shapes[self._update].update(steps.shapes)
            self.rows[self._update] += sum(map(len, steps.flat()))
            return steps

        return counted


def compile_seconds() -> float:
    """Seconds that torch.compile has taken in this process so far."""
    return float(torch._dynamo.utils.calculate_time_spent().get("total_wall_time", 0.0))


def products_seconds(shapes: Counter[Shape], widths: list[int], device: torch.device) -> float:
    """What torch's products of these steps take, forward and backward: one of each of some bins of like size is timed.

    Args:
        shapes: how many steps have a shape.
        widths: of the network's input, hidden layers and output.
        device: where.
    """
    ordered = sorted(shapes, key=lambda shape: (shape[0] * shape[1], shape))
    rows = [shape[0] * shape[1] * shapes[shape] for shape in ordered]
    total, done, seconds = sum(rows), 0, 0.0
    bins: list[list[int]] = [[] for _ in range(BINS)]
    for place, each in enumerate(rows):
        bins[min(BINS - 1, int(BINS * (done + each / 2) / total))].append(place)
        done += each
    for places in filter(None, bins):
        middle = places[len(places) // 2]
        seconds += sum(rows[place] for place in places) / products_rate(ordered[middle], widths, device)
    return seconds


def products_rate(shape: Shape, widths: list[int], device: torch.device) -> float:
    """Rows a second of torch's products of one step's shape: 6 FLOPs a row and weight."""
    together, rows = shape
    multiply = torch.mm if together == 1 else torch.bmm
    lead = () if together == 1 else (together,)
    x = [torch.randn(*lead, rows, width, device=device) for width in widths]
    layers = list(pairwise(x))
    weights = [torch.randn(*lead, wide.shape[-1], narrow.shape[-1], device=device) for wide, narrow in layers]

    def step() -> None:
        for (wide, narrow), weight in zip(layers, weights, strict=True):
            multiply(wide, weight)
            multiply(wide.transpose(-1, -2), narrow)
            multiply(narrow, weight.transpose(-1, -2))

    def seconds(times: int) -> float:
        started = time.perf_counter()
        for _ in range(times):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    seconds(2)
    times = max(1, round(SECONDS / max(seconds(3) / 3, 1e-7)))
    return together * rows * times / statistics.median(seconds(times) for _ in range(5))
