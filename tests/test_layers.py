"""Dependencies point one way: what runs on a machine with torch alone imports nothing else, data jobs no torch."""

import re
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
    below = {"core": "core", "ingest": "core|ingest", "examples": "core|examples",
             "maintenance": "core|examples|maintenance"}  # fmt: skip
    lake = Path(__file__).parents[1] / "mamdr_core" / "lake"
    for package, allowed in below.items():
        files = sorted((lake / package).glob("*.py"))
        assert len(files) > 5
        for file in files:
            others = re.findall(rf"mamdr_core\.lake\.(?!settings\b)(?!(?:{allowed})\.)\w+", file.read_text())
            assert not others, file


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
