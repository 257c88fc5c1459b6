"""Dependencies point one way: what runs on a machine with torch alone imports nothing else."""

import subprocess
import sys

import pytest

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
