"""Measures a GPU with one command of ten minutes, with torch and numpy alone.

    python benchmarks/bench_cuda.py --out bench_cuda.md

Writes bench_cuda.md, a table for each part, and bench_cuda.json. The parts are, in order: facts about the machine;
equality with the CPU's numbers; torch's own matrix products; DN's steps; DR's stacks; prediction in stacks; a profile.
Each part has a share of the time; cases without time left are skipped and listed, and an error in one case does not
end the others. "share of products" is the time of torch's own products of the same padded shapes, in the same run and
precision, over the time of the loop.

Exit code 1: numbers differ from the CPU's, or a comparison did not run. 2: there is no such device.
"""

import argparse
import platform
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import cuda_timing
from cuda_cases import Machine
from cuda_equality import BOUNDS, equality
from cuda_profile import profiles
from cuda_report import Budget, Cases, Report

from mamdr_core.engine.compiler import compiler_trouble
from mamdr_core.engine.device import cuda_trouble

STARTED = time.perf_counter()
SHARES = {"equality": 34, "products": 5, "DN": 21, "DR": 23, "prediction": 7, "profile": 10}
"""Of the time of a run, in percent."""


def facts(machine: Machine) -> list[tuple[str, object]]:
    """What the figures were measured on."""
    found: list[tuple[str, object]] = [
        ("torch", torch.__version__),
        ("python", platform.python_version()),
        ("numpy", np.__version__),
        ("platform", platform.platform()),
        ("host threads", torch.get_num_threads()),
        ("compiles", machine.compiles),
        ("scale", machine.scale),
        ("float32 products before any engine", torch.get_float32_matmul_precision()),
    ]
    if machine.device.type == "cuda":
        properties = torch.cuda.get_device_properties(machine.device)
        free, total = torch.cuda.mem_get_info(machine.device)
        found += [
            ("device", properties.name),
            ("compute capability", f"{properties.major}.{properties.minor}"),
            ("multiprocessors", properties.multi_processor_count),
            ("memory, GB", total / 1e9),
            ("free at the start, GB", free / 1e9),
            ("CUDA of torch", torch.version.cuda),
            ("driver", driver_version()),
            ("allow_tf32 of matmul", torch.backends.cuda.matmul.allow_tf32),
        ]
    return found


def driver_version() -> str:
    """Of the kernel's module, where the kernel shows it."""
    path = Path("/proc/driver/nvidia/version")
    return path.read_text().splitlines()[0].strip() if path.exists() else "not shown by the kernel"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="of the run; a case that has begun is not cut")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu: to check this script")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="of steps, domains, tables; below .1: a check of the script"
    )
    parser.add_argument("--no-compile", action="store_true", help="run steps without torch.compile")
    parser.add_argument(
        "--parts", nargs="+", choices=SHARES, default=list(SHARES), metavar="PART", help=", ".join(SHARES)
    )
    parser.add_argument("--out", type=Path, default=Path("bench_cuda.md"), help="the markdown file")
    options = parser.parse_args()
    if not 0 < options.scale <= 1:
        parser.error(f"--scale must be in (0, 1], got {options.scale}")
    if options.minutes <= 0:
        parser.error(f"--minutes must be > 0, got {options.minutes}")
    if options.device == "cuda" and (trouble := cuda_trouble()):
        parser.error(f"--device cuda: {trouble}")
    return options


def main() -> int:
    options = parse()
    machine = Machine(torch.device(options.device), not options.no_compile, options.scale)
    bounds = ", ".join(f"{precision} {bound:.0e}" for precision, bound in BOUNDS.items())
    head = (
        f"# bench_cuda on {options.device}\n\n`python benchmarks/bench_cuda.py {' '.join(sys.argv[1:])}`\n\n"
        f"Equality: largest relative difference of a change from the CPU's eager engine in fp64; bounds: {bounds}."
    )
    report = Report(options.out, head)
    for what, value in facts(machine):
        report.add("facts", {"what": what, "value": value})
    trouble = compiler_trouble(machine.device)
    if machine.compiles and trouble:
        machine.compiles = False
        report.note("facts", f"steps are not compiled: {trouble}")
    budget = Budget(60 * options.minutes, {part: SHARES[part] for part in SHARES if part in options.parts}, STARTED)
    measured = cuda_timing.Products(machine)
    parts = {
        "equality": lambda cases: equality(machine, cases, report),
        "products": lambda cases: cuda_timing.products(machine, cases, measured),
        "DN": lambda cases: cuda_timing.negotiation(machine, cases, measured),
        "DR": lambda cases: cuda_timing.stacks(machine, cases, measured),
        "prediction": lambda cases: cuda_timing.prediction(machine, cases),
        "profile": lambda cases: profiles(machine, cases),
    }
    for part in (part for part in SHARES if part in options.parts):
        print(f"\n{part}: at most {budget.open(part):.0f} s", flush=True)
        run_part(part, partial(parts[part], Cases(part, report, budget, machine.release)), report)
        machine.release()
    seconds = time.perf_counter() - STARTED
    report.add("facts", {"what": "seconds of the run", "value": seconds})
    print(f"\n{options.out}: {len(report.differences)} differences, {seconds:.0f} s", flush=True)
    return 1 if report.differences else 0


def run_part(part: str, measure: partial[None], report: Report) -> None:
    """A part; an error outside of its cases ends it alone, and fails the run where equality is not shown."""
    try:
        measure()
    except Exception as error:
        text = f"the part ended: {type(error).__name__}: {str(error)[:300]}"
        report.differ(text) if part == "equality" else report.note(part, text)


if __name__ == "__main__":
    sys.exit(main())
