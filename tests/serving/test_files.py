"""Exported files predict as the run, called without this package as in docs/serving.md."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mamdr_core.serving.files import compare, measure_latency, signature_of, write_files
from mamdr_core.serving.network import ServedNetwork
from mamdr_core.serving.scorer import Scorer
from mamdr_core.training.package import load_shared
from tests.serving.saved_run import VECTORS, make_served

pytestmark = pytest.mark.slow  # torch.export and the conversion to ONNX take ten seconds

DOCS = Path(__file__).resolve().parents[2] / "docs/serving.md"
WITHOUT_THIS_CODE = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("mamdr_core", "schemas", "pyspark"):
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
"""


def blocks(containing):
    """The Python code blocks of the page that contain a text."""
    return [block for block in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S) if containing in block]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run, its folder, and the functions of its files."""
    folder = tmp_path_factory.mktemp("exported")
    served = make_served(folder / "package", name="star")
    network = ServedNetwork(served, load_shared(folder / "package"), served.specific(), VECTORS).eval()
    (folder / "model").mkdir()
    return served, folder, write_files(network, served, folder / "model", onnx=True)


@pytest.mark.parametrize("name", ["model.pt2", "model.onnx"])
def test_exported_files_predict_as_the_run(exported, name):
    served, folder, called = exported
    assert (folder / "model" / name).stat().st_size > 1000
    assert compare(called[name], Scorer(served, VECTORS), served, [-1, 0, 3, 5]) < 1e-6
    latency = measure_latency(called[name], served, 3)
    assert 0 < latency["median"] <= latency["p99"]


def test_documented_code_calls_exported_files_without_this_package(exported):
    """With the declared features of the signature added, and an existing domain."""
    served, folder, _ = exported
    (torch_lines,) = blocks("torch.export.load")
    (onnx_lines,) = blocks("onnxruntime")
    assert len(torch_lines.strip().splitlines()) <= 10
    assert list(signature_of(served)["features"]) == ["user", "item", "weekday", "hour"]
    more = 'features |= {"weekday": torch.full((500,), 2), "hour": torch.full((500,), 5.0)}\n'
    torch_lines = torch_lines.replace("domain = torch.tensor([7])", more + "domain = torch.tensor([3])")
    onnx_lines = onnx_lines.replace(
        "np.array([7])", 'np.array([3]), "weekday": np.full(500, 2), "hour": np.full(500, 5, np.float32)'
    )
    code = WITHOUT_THIS_CODE + torch_lines + "by_torch = probability.tolist()\n" + onnx_lines
    code += "import json; print(json.dumps([by_torch, probability.tolist()]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    items = np.where(np.arange(500) < served.sizes["item"], np.arange(500), -1)
    ids = {"user": np.full(500, 42), "item": items, "domain": np.full(500, 3), "weekday": np.full(500, 2)}
    mean, deviation = served.numeric["hour"]
    hours = np.full((500, 1), (5.0 - mean) / deviation, dtype=np.float32)
    indices = {name: column.astype(np.int32) for name, column in ids.items()}
    ours = Scorer(served, VECTORS).predict(indices, hours).sigmoid().numpy()
    for theirs in json.loads(done.stdout):
        np.testing.assert_allclose(theirs, ours, atol=1e-6)


def test_documented_code_reads_theta_i_of_one_domain_from_the_package(exported):
    served, folder, _ = exported
    (lines,) = blocks("safe_open")
    names = {}
    exec(lines.replace("packages/RUN", str(folder / "package")).replace("index(7)", "index(3)"), names)  # noqa: S102
    assert names["theta_i"].tolist() == served.specific()[3].dense.tolist()
