"""A team's own package, shipped by --py-files: trained on two ranks, recorded, scored and exported."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from pyspark.sql import functions as F

from mamdr_core.config.job_config import dump_config, with_values
from mamdr_core.lake.core.tables import Lake
from mamdr_core.parallel.collective import run_simulated
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.serving.exporting import export_model
from mamdr_core.serving.scoring import score
from mamdr_core.shards.pinned import pin_examples
from mamdr_core.training.driver import train_mamdr
from mamdr_core.training.own_code import check_on_ranks
from mamdr_core.training.runs import fingerprint_of
from tests.jobs.killing import QUICK

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "tests/plugin_package"
MODEL, METHOD = "click_models.residual:Residual", "click_models.largest_first:method"
MODULES = ("click_models", "click_models.residual", "click_models.largest_first")


@pytest.fixture(scope="module")
def own_config(trained_config):
    values = {"model.name": MODEL, "model.options": {"scale": 2}, "train.method": METHOD, "train.ranks": 2,
              "train.options": {"random_rounds": 1}}  # fmt: skip
    return with_values(trained_config, values)


@pytest.fixture(scope="module")
def trained(own_config, tmp_path_factory):
    """What train_mamdr, submitted with the package as a zip file, reports."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.yaml").write_text(dump_config(own_config))
    zipped = shutil.make_archive(str(folder / "click_models"), "zip", PACKAGE, "click_models")
    environment = {name: value for name, value in os.environ.items() if name != "PYSPARK_SUBMIT_ARGS"}
    done = subprocess.run(
        [ROOT / ".venv/bin/spark-submit", *QUICK, "--py-files", zipped, ROOT / "jobs/train_mamdr.py",
         "--config", "own.yaml"],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.rstrip().rpartition("\n")[2])


@pytest.fixture
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(PACKAGE))
    yield
    for name in MODULES:
        sys.modules.pop(name, None)


def test_the_run_is_recorded_with_the_sources_of_both(spark, trained, own_config):
    files = {MODEL: "residual.py", METHOD: "largest_first.py"}
    sources = {
        name: hashlib.sha256((PACKAGE / "click_models" / file).read_bytes()).hexdigest() for name, file in files.items()
    }
    assert (trained["model"], trained["method"], trained["ranks"]) == (MODEL, METHOD, 2)
    assert trained["plugins"] == sources
    assert "-click_models_largest_first_method-" in trained["run_id"]
    lake = Lake(spark, own_config.lake.root)
    row = lake.read("training_runs").where(F.col("run_id") == trained["run_id"]).first()
    assert row["plugins"] == sources
    assert json.loads((Path(trained["package"]) / "metrics.json").read_text())["plugins"] == sources


def test_scoring_and_exporting_need_the_packages_module_and_name_it(spark, trained, own_config, tmp_path, monkeypatch):
    values = {"score.run_id": trained["run_id"], "score.batch": "own", "export.run_id": trained["run_id"],
              "export.folder": str(tmp_path / "export"), "export.onnx": True}  # fmt: skip
    config = with_values(own_config, values)
    named = rf"package {trained['package']} needs a plugin: model.name is {MODEL}: module click_models.residual "
    for job in (score, export_model):
        with pytest.raises(MamdrError, match=named + "cannot be imported"):
            job(spark, config)
    shutil.copytree(PACKAGE / "click_models", tmp_path / "code/click_models")
    (tmp_path / "code/click_models/largest_first.py").unlink()  # a method is not needed any more
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    try:
        scored, exported = score(spark, config), export_model(spark, config)
    finally:
        for name in MODULES:
            sys.modules.pop(name, None)
    assert scored["rows"] > 100
    assert scored["specific_rows"] == scored["rows"]
    assert set(exported["largest_difference"]) == {"model.pt2", "model.onnx"}
    assert max(exported["largest_difference"].values()) < 1e-5


def test_another_source_is_another_cell_and_an_error_on_a_rank_that_has_it(
    spark, own_config, importable, tmp_path, monkeypatch
):
    pinned = pin_examples(spark, own_config.lake.root, own_config.features, None)
    before = fingerprint_of(own_config, pinned)
    assert before == fingerprint_of(replace(own_config), pinned)
    sources = {MODEL: "0" * 64, METHOD: "1" * 64}
    monkeypatch.setattr("mamdr_core.training.runs.sources_of", lambda config: sources)
    assert fingerprint_of(own_config, pinned) != before

    def on_ranks(collective):
        other = {} if collective.rank == 0 else {METHOD: "1" * 64}
        check_on_ranks(own_config, other, collective)

    with pytest.raises(MamdrError, match=rf"{METHOD} has other source code than on the driver.* \(rank 1\)"):
        run_simulated(on_ranks, 2)


def test_a_structure_of_the_wrong_shape_is_an_error_before_anything_is_trained(
    spark, own_config, tmp_path, monkeypatch
):
    (tmp_path / "flat_models.py").write_text(
        "from torch import nn\n\n\nclass Flat(nn.Module):\n    def __init__(self, inputs, settings):\n"
        "        super().__init__()\n        self.linear = nn.Linear(inputs.tables[0].width, 1)\n\n"
        "    def forward(self, fields):\n        return self.linear(fields['user'])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    values = {"model.name": "flat_models:Flat", "model.options": {}, "train.method": "dn", "train.options": {}}
    lake = Lake(spark, own_config.lake.root)
    runs = lake.newest("training_runs")
    with pytest.raises(MamdrError, match=r"forward of 2 rows returned \[2, 1\] torch.float32, expected \[2\] logits"):
        train_mamdr(spark, with_values(own_config, values))
    assert lake.newest("training_runs") == runs
