"""Timed parts of bench_cuda: torch's products, DN's steps, DR's stacks, prediction."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from itertools import pairwise

import torch
from cuda_cases import (
    WIDTHS,
    Machine,
    Model,
    Shape,
    counting_shapes,
    draw_columns,
    median_after_first,
    regularization,
    specific_of,
    visits_of,
)  # fmt: skip
from cuda_report import Cases, Row

from mamdr_core.engine.columns import Columns, Visit
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.optimizers import InnerState
from mamdr_core.engine.parameters import Shared, Theta
from mamdr_core.engine.prediction import predict_runs

DN_ROWS, DR_ROWS, SUPPORTS = (33, 137, 512, 1024), (64, 137, 1024), 5
SHAPES: list[Shape] = [(1, 40), (1, 144), (1, 512), (1, 1024), (64, 64), (64, 1024)]
FIELDS = {"trained embeddings": True, "fixed vectors": False}
FAST_STEPS, EAGER_STEPS, EAGER_DOMAINS = 256, 32, 8


@contextmanager
def matmul_precision(precision: str) -> Iterator[torch.dtype]:
    """The type and torch's setting for products of a precision; the setting before is restored."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield torch.bfloat16 if precision == "bf16" else torch.float32
    finally:
        torch.set_float32_matmul_precision(before)


class Products:
    """Seconds of torch's own matrix products of a step, forward and backward, each shape measured once."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._seconds: dict[tuple[Shape, str], float] = {}

    def seconds(self, shape: Shape, precision: str) -> float:
        """Of one step."""
        if (shape, precision) not in self._seconds:
            with matmul_precision(precision) as dtype:
                self._seconds[shape, precision] = self._measure(shape, dtype)
        return self._seconds[shape, precision]

    def of_steps(self, shapes: Counter[Shape], precision: str) -> float:
        """Of all steps of some shapes."""
        return sum(steps * self.seconds(shape, precision) for shape, steps in shapes.items())

    def _measure(self, shape: Shape, dtype: torch.dtype) -> float:
        together, rows = shape
        lead = () if together == 1 else (together,)
        like = {"device": self._machine.device, "dtype": dtype}
        x = [torch.randn(*lead, rows, width, **like) for width in WIDTHS]
        w = [torch.randn(*lead, wide, narrow, **like) for wide, narrow in pairwise(WIDTHS)]

        def steps(times: int) -> None:
            for _ in range(times):
                for (wide, narrow), weight in zip(pairwise(x), w, strict=True):
                    torch.matmul(wide, weight)
                    torch.matmul(wide.transpose(-1, -2), narrow)
                    torch.matmul(narrow, weight.transpose(-1, -2))

        one = min(self._machine.seconds(partial(steps, 3), 2)[1:]) / 3
        times = max(1, round(0.03 * min(1.0, self._machine.scale * 10) / max(one, 1e-7)))
        return median_after_first(self._machine.seconds(partial(steps, times), self._machine.repeats)) / times


def products(machine: Machine, cases: Cases, measured: Products) -> None:
    """Rates of the products of the network's shapes: single ones, and a stack of 64."""
    for precision in machine.precisions:
        for shape in SHAPES[:1] if machine.is_check else SHAPES:

            def case(shape: Shape = shape, precision: str = precision) -> Row:
                seconds = measured.seconds(shape, precision)
                weights = sum(wide * narrow for wide, narrow in pairwise(WIDTHS))
                rows = shape[0] * shape[1]
                return {
                    "precision": precision, "trajectories": shape[0], "rows of each": shape[1],
                    "rows/s": rows / seconds, "us a step": 1e6 * seconds, "TFLOP/s": 6e-12 * rows * weights / seconds,
                }  # fmt: skip

            cases.run(f"{precision} {shape}", case)
        machine.release()


class Trial:
    """One engine; it is made, and steps are compiled, when it is first used.

    Args:
        machine: where.
        model: of the engine.
        fields: whether users and items have trained embeddings or fixed vectors, in words.
        precision: of the fast engine; None: the eager engine, in fp32.
    """

    def __init__(self, machine: Machine, model: Model, fields: str, precision: str | None) -> None:
        self.machine, self.model, self.fields = machine, model, fields
        self.is_fast, self.precision = precision is not None, precision or "fp32"
        self.name = f"{fields}, {'fast' if self.is_fast else 'eager'} {self.precision}"

    @cached_property
    def engine(self) -> EagerEngine:
        """The engine."""
        return self.model.engine(self.machine, self.precision if self.is_fast else None)

    def head(self) -> Row:
        """What a row of a table begins with."""
        return {"fields": self.fields, "engine": "fast" if self.is_fast else "eager", "precision": self.precision}

    def columns(self, rows: int, domains: int) -> Columns:
        """Domains of as many rows each, on the device."""
        return draw_columns([rows] * domains, self.model.users, self.model.items).to(self.machine.device)


def engines(machine: Machine, domains: int) -> Iterator[Trial]:
    """The engines to time; the eager one last."""
    users, items = machine.scaled(200_000, 50), machine.scaled(40_000, 50)
    for precision in [*machine.precisions, None]:
        for fields, trains in FIELDS.items():
            yield Trial(machine, Model(users, items, domains, trains), fields, precision)
        machine.release()


def negotiation(machine: Machine, cases: Cases, measured: Products) -> None:
    """DN: one trajectory, a step for each visit, Adam's moments carried."""
    for trial in engines(machine, FAST_STEPS):
        for rows in DN_ROWS[:1] if machine.is_check else DN_ROWS:
            cases.run(f"{trial.name}, {rows} rows", partial(negotiate, trial, rows, measured))


def negotiate(trial: Trial, rows: int, measured: Products) -> Row:
    """DN with steps of some rows."""
    steps = trial.machine.scaled(FAST_STEPS if trial.is_fast else EAGER_STEPS)
    columns, shared = trial.columns(rows, steps), trial.model.shared(trial.machine.device)
    state = InnerState.zeros_like(shared)
    loop = partial(trial.engine.descend, Theta(shared), visits_of(columns), 1e-3, "adam", state)
    return (
        trial.head() | {"rows a step": rows} | timed(trial, loop, len(columns), Counter({(1, rows): steps}), measured)
    )


def stacks(machine: Machine, cases: Cases, measured: Products) -> None:
    """DR: trajectories of a support's and a target's step in stacks, fresh moments."""
    for trial in engines(machine, 512):
        for rows in DR_ROWS[:1] if machine.is_check else DR_ROWS:
            cases.run(f"{trial.name}, {rows} rows", partial(regularize, trial, rows, measured))


def regularize(trial: Trial, rows: int, measured: Products) -> Row:
    """DR with visits of some rows."""
    domains = trial.machine.scaled(min(512, (1 << 18) // rows) if trial.is_fast else EAGER_DOMAINS)
    columns, count = trial.columns(rows, domains), SUPPORTS * domains
    loop = partial(
        trial.engine.descend_many, *regularization(columns, trial.model.shared(trial.machine.device), SUPPORTS)
    )
    head = trial.head() | {"rows a visit": rows, "trajectories": count}
    return head | timed(trial, loop, 2 * SUPPORTS * len(columns), Counter({(1, rows): 2 * count}), measured)


def timed(trial: Trial, loop: Callable[[], object], rows: int, alone: Counter[Shape], measured: Products) -> Row:
    """Figures of a loop.

    Args:
        trial: whose engine runs it.
        loop: is called some times.
        rows: that it descends on, without padding.
        alone: the shapes of its steps where the engine makes no stacks.
        measured: products to compare with.
    """
    machine, engine = trial.machine, trial.engine
    on_gpu = machine.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    with counting_shapes() as counted:
        (first,) = machine.seconds(loop, 0)
    waited = engine.waited
    took = machine.seconds(loop, machine.repeats)
    seconds = median_after_first(took)
    waited = (engine.waited - waited) / sum(took)
    peak = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else 0.0
    shapes = counted or alone
    steps = sum(shapes.values())
    return {
        "largest stack": max(together for together, _ in shapes),
        "rows/s": rows / seconds,
        "us a step": 1e6 * seconds / steps,
        "share of products": measured.of_steps(shapes, trial.precision) / seconds,
        "waited for layout": waited,
        "steps": steps,
        "first call s": first,
        "peak GB": peak,
    }


def prediction(machine: Machine, cases: Cases) -> None:
    """Domains of 8 to 256 rows, each at its own theta_i: in stacks, and by one call of the eager engine each."""
    model = Model(machine.scaled(200_000, 50), machine.scaled(40_000, 50), machine.scaled(4000), False)

    def case(in_stacks: bool) -> Row:
        domains = model.domains if in_stacks else min(model.domains, 200)
        sizes = [8 << (domain % 6) for domain in range(domains)]
        columns = draw_columns(sizes, model.users, model.items).to(machine.device)
        engine, shared = model.engine(machine, None), model.shared(machine.device)
        specific = dict(enumerate(specific_of(shared, domains)))
        call = partial(in_runs if in_stacks else one_by_one, engine, shared, specific, columns)
        seconds = median_after_first(machine.seconds(call, machine.repeats))
        name = "in stacks" if in_stacks else "one by one"
        return {"how": name, "domains": domains, "rows/s": len(columns) / seconds, "domains/s": domains / seconds}

    for in_stacks in (True, False):
        cases.run("in stacks" if in_stacks else "one by one", partial(case, in_stacks))
        machine.release()


def in_runs(engine: EagerEngine, shared: Shared, specific: dict, columns: Columns) -> torch.Tensor:
    """All logits by `predict_runs`."""
    edges = columns.offsets.numpy()
    return predict_runs(engine, shared, specific, columns, range(len(edges) - 1), edges)


def one_by_one(engine: EagerEngine, shared: Shared, specific: dict, columns: Columns) -> torch.Tensor:
    """All logits, a call for each domain."""
    visits: list[Visit] = visits_of(columns)
    return torch.cat([engine.predict(Theta(shared, specific[d]), visit) for d, visit in enumerate(visits)])
