"""bench_cuda runs where there is torch and numpy alone, and fails where numbers are not the CPU's."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
WITHOUT = """
import runpy, sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {refused} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
sys.argv = {arguments}
sys.path[0] = {folder!r}  # as Python does for a script
runpy.run_path(sys.argv[0], run_name="__main__")
"""
REFUSED = {
    "pyspark", "delta", "pydantic", "pydantic_core", "petastorm", "horovod", "pyarrow", "pandas", "psutil", "yaml",
    "safetensors", "sklearn", "scipy",
}  # fmt: skip
PARTS = ["equality", "products", "DN", "DR", "prediction", "profile"]


@pytest.fixture
def load(monkeypatch):
    """Imports a module of the benchmarks, which are scripts."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    precision = torch.get_float32_matmul_precision()
    yield importlib.import_module
    torch.set_float32_matmul_precision(precision)


def run_without_packages(folder: Path, *options: str) -> subprocess.CompletedProcess:
    arguments = [str(BENCHMARKS / "bench_cuda.py"), "--out", str(folder / "found.md"), *options]
    code = WITHOUT.format(refused=REFUSED, arguments=arguments, folder=str(BENCHMARKS))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, env=environment)


@pytest.mark.slow
def test_all_parts_run_with_torch_and_numpy_alone_and_give_the_cpus_numbers(tmp_path):
    options = ("--device", "cpu", "--scale", ".001", "--no-compile", "--minutes", "60")
    done = run_without_packages(tmp_path, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["notes"] == {}
    assert found["differences"] == []
    assert list(found["parts"]) == ["facts", *PARTS]
    compared = {(row["what"], row["engine"]): row for row in found["parts"]["equality"]}
    engines = ["eager, fp64", "fast, fp64", "fast, fp32", "fast, bf16"]
    ways = [(way, engine) for engine in engines for way in ("DN", "DR", "prediction")]
    ways = [each for each in ways if each not in (("prediction", "fast, fp64"), ("prediction", "fast, bf16"))]
    assert list(compared) == [("dropout masks", "layer"), *ways]
    assert compared["DN", "fast, bf16"]["difference"] > compared["DN", "fast, fp32"]["difference"] > 1e-9
    for part in ("DN", "DR"):
        ran = [(row["engine"], row["precision"], row["fields"]) for row in found["parts"][part]]
        fields = ("trained embeddings", "fixed vectors")
        expected = [("fast", "fp32"), ("fast", "bf16"), ("eager", "fp32")]
        assert ran == [(*engine, each) for engine in expected for each in fields]
        assert all(row["rows/s"] > 0 and row["share of products"] > 0 for row in found["parts"][part])
    assert max(row["largest stack"] for row in found["parts"]["DR"]) == 10  # five supports of two domains
    text = (tmp_path / "found.md").read_text()
    assert all(f"\n## {part}\n" in text for part in PARTS)
    assert "| dropout masks | layer | 0 | 0 | True |" in text


def test_parts_without_time_are_skipped_and_missing_equality_fails_the_run(tmp_path):
    done = run_without_packages(tmp_path, "--device", "cpu", "--scale", ".001", "--no-compile", "--minutes", "1e-9")
    assert done.returncode == 1, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found["parts"]) == ["facts", *PARTS]
    for part in PARTS:
        assert found["parts"][part] == []
        assert "skipped, the time of this part is over" in found["notes"][part][0]
    assert found["differences"] == ["11 comparisons did not run, see the notes of this part"]


def test_an_error_of_one_case_is_noted_and_the_next_one_runs(load, tmp_path):
    report = load("cuda_report")
    found = report.Report(tmp_path / "found.md", "# Head")
    budget = report.Budget(60.0, {"DN": 1.0}, load("time").perf_counter())
    assert 50 < budget.open("DN") <= 60
    released = []
    cases = report.Cases("DN", found, budget, lambda: released.append(True))

    def no_memory():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried\nto allocate")

    assert not cases.run("1024 rows", no_memory)
    assert cases.run("33 rows", lambda: {"rows": 33, "rate": 12345.6})
    assert released == [True]
    assert (tmp_path / "found.md").read_text().splitlines() == [
        "# Head", "", "## DN", "", "| rows | rate |", "|---|---|", "| 33 | 12,346 |", "",
        "- 1024 rows: OutOfMemoryError: CUDA out of memory. Tried",
    ]  # fmt: skip


def test_time_that_a_part_leaves_goes_to_those_after_it(load):
    report = load("cuda_report")
    budget = report.Budget(90.0, {"DN": 1.0, "DR": 2.0}, load("time").perf_counter())
    assert budget.open("DN") == pytest.approx(30, abs=1)
    assert budget.open("DR") == pytest.approx(90, abs=1)


def test_other_numbers_or_other_rows_than_the_cpus_are_a_difference(load, tmp_path):
    equality, report = load("cuda_equality"), load("cuda_report")
    parameters = importlib.import_module("mamdr_core.engine.parameters")
    found = report.Report(tmp_path / "found.md", "")

    def change(dense: list[float], ids: list[int]):
        rows = parameters.Rows(torch.tensor(ids), torch.ones(len(ids), 2, dtype=torch.float64))
        return parameters.Change(torch.tensor(dense, dtype=torch.float64), {"user": rows})

    expected = [change([3.0, 4.0], [1, 5])]
    for dense, ids, difference in (
        ([3.0, 4.0], [1, 5], 0.0),
        ([3.0, 4.5], [1, 5], 0.1),
        ([3.0, 4.0], [1, 6], float("inf")),
    ):
        row = equality.compared(found, "DN", "fast", lambda: [change(dense, ids)], lambda: expected, 0.05)  # noqa: B023 - called at once
        assert row["difference"] == pytest.approx(difference)
        assert row["equal"] == (not difference)
    nan = equality.compared(found, "DN", "NaN", lambda: [change([float("nan"), 4.0], [1, 5])], lambda: expected, 0.05)
    assert not nan["equal"]
    assert len(found.differences) == 3


def test_the_share_of_idle_time_counts_kernels_that_overlap_once(load):
    busy_time = load("cuda_profile").busy_time
    assert busy_time([(10.0, 12.0), (0.0, 4.0), (3.0, 5.0), (3.5, 3.7)]) == (7.0, 12.0)
    assert busy_time([]) == (0.0, 0.0)
