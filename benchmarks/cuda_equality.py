"""The equality part of bench_cuda: the device's numbers are those of the CPU's eager engine in fp64."""

from collections.abc import Callable
from functools import cache, partial

import torch
from cuda_cases import Machine, Model, draw_columns, regularization, specific_of, visits_of
from cuda_report import Cases, Report, Row

from mamdr_core.engine.columns import Columns, Visit
from mamdr_core.engine.eager import EagerEngine
from mamdr_core.engine.optimizers import InnerState
from mamdr_core.engine.parameters import Change, Theta
from mamdr_core.engine.prediction import predict_runs
from mamdr_core.models.dropout import Dropout

BOUNDS = {"fp64": 1e-9, "fp32": 1e-3, "tf32": 0.1, "bf16": 0.5}
"""Largest relative difference of a change, |x - cpu| / |cpu| of the dense parameters or of a table's rows.

Those of tf32 and bf16 find gross errors alone: rounding turns a trajectory with Adam a long way."""
ROWS = [33, 1, 137, 30, 9, 64]
STEP_ROWS = 32
CPU = torch.device("cpu")
WAYS = "DN", "DR", "prediction"
PREDICTS = "eager, fp64", "fast, fp32", "fast, tf32"
"""Of these engines prediction is compared; it does not depend on anything else that differs between them."""


def equality(machine: Machine, cases: Cases, report: Report) -> None:
    """Compare DN, DR and prediction in fp64 and in the device's precisions, and dropout's masks; see `BOUNDS`."""
    cpu = Machine(CPU, False, machine.scale)
    tried = {"eager, fp64": (None, torch.float64, False), "fast, fp64": ("fp32", torch.float64, False)}
    if machine.compiles:
        tried["fast compiled, fp64"] = ("fp32", torch.float64, True)
    for precision in machine.precisions:
        tried[f"fast, {precision}"] = (precision, torch.float32, machine.compiles)
    passed = [cases.run("dropout masks", partial(masks, machine, report))]
    wanted = cache(lambda way: changes(cpu, way, None, torch.float64, False))
    for name, (precision, dtype, compiles) in tried.items():
        bound = BOUNDS["fp64" if dtype == torch.float64 else str(precision)]
        for way in WAYS if name in PREDICTS else WAYS[:2]:
            find = partial(changes, machine, way, precision, dtype, compiles)
            case = partial(compared, report, way, name, find, partial(wanted, way), bound)
            passed.append(cases.run(f"{way}, {name}", case))
        machine.release()
    if not all(passed):
        report.differ(f"{passed.count(False)} comparisons did not run, see the notes of this part")


def masks(machine: Machine, report: Report) -> Row:
    """Dropout's masks of some keys and layers, on the CPU and on the device."""
    different, total = 0, 0
    for rate in (0.2, 0.5):
        for key in (0, 1, -5, 2**31 - 1, -(2**31)):
            kept = []
            for device in (CPU, machine.device):
                dropout = Dropout(rate).to(device)
                dropout.layer = 3
                dropout.key.fill_(key)
                kept.append(dropout(torch.ones(1000, 257, device=device)).cpu())
            different += int((kept[0] != kept[1]).sum())
            total += kept[0].numel()
    if different:
        report.differ(f"{different} of {total} values that dropout gives are not those of the CPU")
    return {"what": "dropout masks", "engine": "layer", "difference": different, "bound": 0, "equal": not different}


def compared(
    report: Report,
    way: str,
    name: str,
    find: Callable[[], list[Change]],
    wanted: Callable[[], list[Change]],
    bound: float,
) -> Row:
    """The largest relative difference of what is found from what is wanted."""
    difference = max(relative_difference(*pair) for pair in zip(find(), wanted(), strict=True))
    is_equal = difference <= bound  # false for NaN
    if not is_equal:
        report.differ(f"{way}, {name}: {difference:.3g}, more than {bound:.0e}")
    return {"what": way, "engine": name, "difference": difference, "bound": bound, "equal": is_equal}


def relative_difference(found: Change, expected: Change) -> float:
    """Largest over the dense parameters and tables; infinite where other rows changed."""
    pairs = [(found.dense, expected.dense)]
    if found.rows.keys() != expected.rows.keys():
        return float("inf")
    for name, rows in expected.rows.items():
        if not torch.equal(found.rows[name].ids.cpu(), rows.ids):
            return float("inf")
        pairs.append((found.rows[name].values, rows.values))
    gaps = [float((x.cpu().double() - y).norm() / y.norm().clamp_min(1e-300)) for x, y in pairs if y.numel()]
    return max(gaps) if all(gap == gap for gap in gaps) else float("nan")


def changes(machine: Machine, way: str, precision: str | None, dtype: torch.dtype, compiles: bool) -> list[Change]:
    """What DN, DR or prediction gives on a device; logits as the dense part of a change."""
    model = Model(300, 200, len(ROWS), True, dtype)
    columns = draw_columns(ROWS, model.users, model.items)
    columns.labels, columns.numeric = columns.labels.to(dtype), columns.numeric.to(dtype)
    columns = columns.to(machine.device)
    engine, shared = model.engine(machine, precision, compiles), model.shared(machine.device)
    engine.batch_size = STEP_ROWS
    if way == "DN":
        return [negotiate(engine, columns, Theta(shared))]
    if way == "DR":
        return engine.descend_many(*regularization(columns, shared, 2))
    specific = dict(enumerate(specific_of(shared, len(ROWS) - 1)))  # the last domain has none
    edges = columns.offsets.numpy()
    return [Change(predict_runs(engine, shared, specific, columns, range(len(ROWS)), edges))]


def negotiate(engine: EagerEngine, columns: Columns, theta: Theta) -> Change:
    """Two rounds of DN with carried moments; the sum of their changes."""
    visits: list[Visit] = visits_of(columns)
    state = InnerState.zeros_like(theta.shared)
    first = engine.descend(theta, visits, 1e-3, "adam", state, seed=7)
    return first.add(engine.descend(theta, visits[::-1], 1e-3, "adam", state, seed=8), 1.0)
