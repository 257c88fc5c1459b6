"""Dependencies point one way: what runs on a machine with torch alone imports nothing else, data jobs no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
JOBS, PACKAGE = ROOT / "jobs", ROOT / "mamdr_core"
LAYERS = (
    "runtime",
    "config",
    "models",
    "engine",
    "learning",
    "parallel",
    "mixed",
    "lake",
    "datasets",
    "shards",
    "training",
    "serving",
    "promotion",
    "reports",
    "experiments",
)
"""The packages, from the bottom up: each imports those before it alone."""
ENTRIES = {PACKAGE / "config" / "__main__.py"}
"""Files that only people start, and nothing imports; they may import every package."""
BLOCKED = ("pyspark", "delta", "petastorm", "horovod", "pyarrow", "pandas", "pydantic", "yaml", "safetensors")
CHECK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
import importlib, pkgutil
package = importlib.import_module("{package}")
for module in pkgutil.iter_modules(package.__path__):
    importlib.import_module("{package}." + module.name)
"""


@pytest.mark.parametrize("package", ["mamdr_core.learning", "mamdr_core.engine", "mamdr_core.models"])
def test_the_layer_needs_torch_alone(package):
    code = CHECK.format(blocked=BLOCKED, package=package)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_packages_import_those_below_them_alone():
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(LAYERS)
    assert [path.name for path in PACKAGE.glob("*.py")] == ["__init__.py"]
    for package in LAYERS:
        allowed = set(LAYERS[: LAYERS.index(package) + 1])
        files = set((PACKAGE / package).rglob("*.py")) - ENTRIES
        assert files
        for file in files:
            assert imported_names(file, "mamdr_core.", 1) <= allowed, file
            assert "config.__main__" not in file.read_text(), file


def test_packages_of_the_lake_import_those_below_them_alone():
    below = {"core": {"core"}, "ingest": {"core", "ingest"}, "examples": {"core", "examples"},
             "maintenance": {"core", "examples", "maintenance"}}  # fmt: skip
    for package, allowed in below.items():
        files = sorted((PACKAGE / "lake" / package).glob("*.py"))
        assert len(files) > 5
        for file in files:
            assert imported_names(file, "mamdr_core.lake.", 2) <= allowed, file


def imported_names(file, prefix, position):
    """What a file imports below a package: the names at this position of the dotted path."""
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, file
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[position] for name in names if name.startswith(prefix)}


def test_every_job_prints_its_configuration_without_torch_and_spark():
    """Importing them takes seconds, and --help, --print-config and mistakes in a config need neither."""
    code = f"""
import pathlib, sys
sys.path.insert(0, {str(JOBS)!r})
from mamdr_core.config.command_line import run_job
jobs = sorted(path.stem for path in pathlib.Path({str(JOBS)!r}).glob("[!_]*.py"))
assert len(jobs) >= 17
for job in jobs:
    assert run_job(getattr(__import__(job), job), ["--print-config"]) == 0
    loaded = {{"torch", "pyspark", "pandas", "scipy", "petastorm"}} & set(sys.modules)
    assert not loaded, (job, loaded)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


JOBS_WITHOUT_TORCH = (
    "build_examples",
    "convert_amazon",
    "convert_taobao",
    "domain_stats",
    "forget_users",
    "generate_logs",
    "ingest_clicks",
    "maintain_lake",
    "promote",
    "report",
)


def test_jobs_that_only_use_tables_run_without_torch():
    """Importing it takes seconds at every start of a job that does not need it."""
    code = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    assert not {"torch", "scipy"} & set(sys.modules), name
"""
    modules = [name for job in JOBS_WITHOUT_TORCH for name in modules_of_job(JOBS / f"{job}.py")]
    assert len(modules) >= 2 * len(JOBS_WITHOUT_TORCH)
    done = subprocess.run([sys.executable, "-c", code, *modules], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def modules_of_job(file):
    """What a job's function imports before it starts."""
    found = [node.module for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
    return [module for module in found if module.startswith("mamdr_core.")]
