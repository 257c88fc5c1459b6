"""The profile part of bench_cuda: the longest kernels, the idle time of the GPU, and the lines that wait for it."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from cuda_cases import Machine, Model, draw_columns, regularization, visits_of
from cuda_report import Cases, Row
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from mamdr_core.engine.optimizers import InnerState
from mamdr_core.engine.parameters import Theta

DN_STEPS, DN_ROWS, DR_DOMAINS, DR_ROWS, SUPPORTS = 64, 512, 128, 137, 5
KERNELS = 8


def profiles(machine: Machine, cases: Cases) -> None:
    """Profile one round of DN and one of DR, and count by line where the host waits for the GPU."""
    model = Model(machine.scaled(200_000, 50), machine.scaled(40_000, 50), DR_DOMAINS, True)
    loops: dict[str, Callable[[], object]] = {}

    def prepare() -> Row:
        engine, shared = model.engine(machine, machine.precisions[-2]), model.shared(machine.device)
        columns = draw_columns([DN_ROWS] * machine.scaled(DN_STEPS), model.users, model.items).to(machine.device)
        state = InnerState.zeros_like(shared)
        loops["DN"] = partial(engine.descend, Theta(shared), visits_of(columns), 1e-3, "adam", state)
        own = draw_columns([DR_ROWS] * machine.scaled(DR_DOMAINS), model.users, model.items).to(machine.device)
        loops["DR"] = partial(engine.descend_many, *regularization(own, shared, SUPPORTS))
        for loop in loops.values():
            machine.seconds(loop, 1)
        return {"loop": "both", "what": f"compiled and warm, {machine.precisions[-2]}"}

    if not cases.run("preparation", prepare):
        return
    for name, loop in loops.items():
        rows: list[Row] = []
        cases.run(f"{name}, profile", partial(profiled, machine, name, loop, rows))
        for row in rows:
            cases.run(f"{name}, kernel", partial(dict, row))
        if machine.device.type == "cuda":
            cases.run(f"{name}, waits", partial(waits, name, loop))


def profiled(machine: Machine, name: str, loop: Callable[[], object], rows: list[Row]) -> Row:
    """The share of idle time; `rows` gets the kernels (on a CPU: operations) that take longest."""
    on_gpu = machine.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities) as profiler:
        loop()
        machine.wait()
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    events = [
        event
        for event in profiler.events()
        if event.device_type == kind and not getattr(event, "is_user_annotation", False)
    ]
    took: Counter[str] = Counter()
    for event in events:
        took[event.name] += event.time_range.elapsed_us() if on_gpu else event.self_cpu_time_total
    calls = Counter(event.name for event in events)
    total = sum(took.values())
    for kernel, microseconds in took.most_common(KERNELS):
        rows.append(
            {"loop": name, "what": kernel[:90], "calls": calls[kernel], "ms": microseconds / 1e3,
             "share": microseconds / max(total, 1)}
        )  # fmt: skip
    if not on_gpu:
        return {"loop": name, "what": "all operations", "ms": total / 1e3, "calls": len(events)}
    spans = [(event.time_range.start, event.time_range.end) for event in events]
    busy, window = busy_time(spans)
    return {
        "loop": name, "what": "all kernels; share: of the time in which the GPU was idle", "calls": len(events),
        "ms": busy / 1e3, "share": 1 - busy / max(window, 1e-9),
    }  # fmt: skip


def busy_time(spans: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """How long at least one of some spans lasts, and from the first one's start to the last one's end."""
    ordered = sorted(spans)
    if not ordered:
        return 0.0, 0.0
    busy, end = 0.0, ordered[0][0]
    for start, stop in ordered:
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return busy, end - ordered[0][0]


def waits(name: str, loop: Callable[[], object]) -> Row:
    """How often the host waits for the GPU in one call of a loop, by the line that does."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loop()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    lines = Counter(f"{Path(each.filename).name}:{each.lineno}" for each in caught if "synchroniz" in str(each.message))
    text = ", ".join(f"{line} {count}" for line, count in lines.most_common(12))
    return {"loop": name, "what": f"the host waits for the GPU: {text or 'nowhere'}", "calls": sum(lines.values())}
