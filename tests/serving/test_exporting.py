"""export_model: files that predict as the run does, called as docs/serving.md says, without this code."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mamdr_core.config import with_values
from mamdr_core.errors import MamdrError
from mamdr_core.lake.tables import Lake
from mamdr_core.serving import exporting
from mamdr_core.serving.exporting import export_model
from mamdr_core.serving.opening import find_served, read_vectors
from mamdr_core.serving.scorer import Scorer
from mamdr_core.training.package import load_package

pytestmark = pytest.mark.slow

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
    """The Python blocks of the page that hold a text."""
    return [block for block in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S) if containing in block]


@pytest.fixture(scope="module")
def exported(spark, trained_config, run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    values = {"export.run_id": run["run_id"], "export.folder": str(folder)}
    return export_model(spark, with_values(trained_config, values))


def test_the_job_says_what_the_files_are_worth(exported):
    assert set(exported["files"]) == {"model.pt2", "model.onnx", "signature.json"}
    assert exported["domains"] == 5
    assert max(exported["largest_difference"].values()) < 1e-6
    assert {"median", "p99"} == set(exported["latency_ms"]["model.onnx"])
    assert not list(Path(exported["folder"]).parent.glob(".model*"))
    assert json.loads(json.dumps(exported)) == exported


def test_the_ten_lines_of_the_docs_run_without_this_code(spark, trained_config, run, exported):
    """With the run's declared features added, as signature.json lists them, and ids that exist."""
    (torch_lines,) = blocks("torch.export.load")
    (onnx_lines,) = blocks("onnxruntime")
    assert len(torch_lines.strip().splitlines()) <= 10
    signature = json.loads((Path(exported["folder"]) / "signature.json").read_text())
    assert list(signature["features"]) == ["user", "item", "weekday", "hour"]
    more = 'features |= {"weekday": torch.full((500,), 2), "hour": torch.full((500,), 5.0)}\n'
    torch_lines = torch_lines.replace("domain = torch.tensor([7])", more + "domain = torch.tensor([3])")
    onnx_lines = onnx_lines.replace(
        "np.array([7])", 'np.array([3]), "weekday": np.full(500, 2), "hour": np.full(500, 5, np.float32)'
    )
    code = WITHOUT_THIS_CODE + torch_lines + "by_torch = probability.tolist()\n" + onnx_lines
    code += "import json; print(json.dumps([by_torch, probability.tolist()]))"
    place = Path(exported["folder"]).parent
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    by_torch, by_onnx = json.loads(done.stdout)
    lake = Lake(spark, trained_config.lake.root)
    served = find_served(lake, run["run_id"])
    items = np.arange(500, dtype=np.int32)
    ids = {"user": np.full(500, 42), "item": np.where(items < served.sizes["item"], items, -1)}
    ids |= {"domain": np.full(500, 3), "weekday": np.full(500, 2)}
    mean, deviation = served.numeric["hour"]
    hours = np.full((500, 1), (5.0 - mean) / deviation, dtype=np.float32)
    scorer = Scorer(served, read_vectors(lake, served))
    ours = scorer.predict({name: column.astype(np.int32) for name, column in ids.items()}, hours).sigmoid().numpy()
    np.testing.assert_allclose(by_torch, ours, atol=1e-6)
    np.testing.assert_allclose(by_onnx, ours, atol=1e-6)


def test_one_domains_theta_i_is_read_from_the_package_as_the_docs_say(run):
    (lines,) = blocks("safe_open")
    code = lines.replace("packages/RUN", run["package"]).replace("index(7)", "index(3)")
    code = WITHOUT_THIS_CODE + code + "print(theta_i.tolist())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = load_package(run["package"]).specific[3].dense
    assert json.loads(done.stdout) == expected.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"export.max_gb": 1e-9}, r"export\.max_gb is 1e-09: raise it, name the domains to include"),
        ({"export.domains": ["no such"]}, "has no theta_i of no such"),
        ({"export.run_id": "no-such"}, "has no run no-such"),
    ],
)
def test_mistakes_are_named(spark, trained_config, run, tmp_path, change, message):
    values = {"export.run_id": run["run_id"], "export.folder": str(tmp_path / "model")}
    with pytest.raises(MamdrError, match=message):
        export_model(spark, with_values(trained_config, values | change))
    assert not list(tmp_path.iterdir())


def test_files_that_predict_otherwise_are_not_kept(spark, trained_config, run, tmp_path, monkeypatch):
    values = {"export.run_id": run["run_id"], "export.folder": str(tmp_path / "model"), "export.onnx": False}
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    with pytest.raises(RuntimeError, match="predict otherwise than the run itself"):
        export_model(spark, with_values(trained_config, values))
    assert not list(tmp_path.iterdir())
