"""Dependencies point one way: what runs on a machine with torch alone imports nothing else, data jobs no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

JOBS = Path(__file__).parents[1] / "jobs"
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


def test_packages_of_the_lake_import_those_below_them_alone():
    below = {"core": {"core"}, "ingest": {"core", "ingest"}, "examples": {"core", "examples"},
             "maintenance": {"core", "examples", "maintenance"}}  # fmt: skip
    lake = Path(__file__).parents[1] / "mamdr_core" / "lake"
    for package, allowed in below.items():
        files = sorted((lake / package).glob("*.py"))
        assert len(files) > 5
        for file in files:
            assert imports_of_the_lake(file) <= allowed | {"settings"}, file


def imports_of_the_lake(file):
    """What a file imports of mamdr_core.lake, by the name that follows."""
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, file
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[2] for name in names if name.startswith("mamdr_core.lake.")}


DATA_JOBS = (
    "build_examples",
    "convert_amazon",
    "convert_taobao",
    "domain_stats",
    "forget_users",
    "generate_logs",
    "ingest_clicks",
    "maintain_lake",
)


def test_data_jobs_start_without_torch():
    """Importing it takes seconds at every start of a job that does not need it."""
    code = f"""
import importlib, sys
sys.path.insert(0, {str(JOBS)!r})
for job in {DATA_JOBS!r}:
    importlib.import_module(job)
    assert "torch" not in sys.modules, job
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
