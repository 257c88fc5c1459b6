"""The job export_model: its figures, and errors for wrong input."""

import json
from pathlib import Path

import pytest

from mamdr_core.config.job_config import with_values
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.serving import exporting
from mamdr_core.serving.exporting import export_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exported(spark, trained_config, run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    values = {"export.run_id": run["run_id"], "export.folder": str(folder)}
    return export_model(spark, with_values(trained_config, values))


def test_the_job_reports_files_differences_and_latency(exported):
    assert set(exported["files"]) == {"model.pt2", "model.onnx", "signature.json"}
    assert exported["domains"] == 5
    assert max(exported["largest_difference"].values()) < 1e-6
    assert {"median", "p99"} == set(exported["latency_ms"]["model.onnx"])
    assert not list(Path(exported["folder"]).parent.glob(".model*"))
    assert json.loads(json.dumps(exported)) == exported


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"export.max_gb": 1e-9}, r"export\.max_gb is 1e-09: raise it, list the domains to include"),
        ({"export.domains": ["no such"]}, "has no theta_i of no such"),
        ({"export.run_id": "no-such"}, "has no run no-such"),
    ],
)
def test_user_errors_name_the_setting(spark, trained_config, run, tmp_path, change, message):
    values = {"export.run_id": run["run_id"], "export.folder": str(tmp_path / "model")}
    with pytest.raises(MamdrError, match=message):
        export_model(spark, with_values(trained_config, values | change))
    assert not list(tmp_path.iterdir())


def test_export_replaces_an_earlier_export_but_no_other_folder(spark, trained_config, run, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    values = {"export.run_id": run["run_id"], "export.folder": str(tmp_path), "export.onnx": False}
    with pytest.raises(MamdrError, match=r"export\.folder: .* holds files that export_model did not write"):
        export_model(spark, with_values(trained_config, values))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "thesis.tex").rename(tmp_path / "signature.json")
    (tmp_path / "model.onnx").touch()
    figures = export_model(spark, with_values(trained_config, values))
    assert set(figures["files"]) == {path.name for path in tmp_path.iterdir()} == {"model.pt2", "signature.json"}
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}.*"))


def test_files_with_different_predictions_are_not_kept(spark, trained_config, run, tmp_path, monkeypatch):
    values = {"export.run_id": run["run_id"], "export.folder": str(tmp_path / "model"), "export.onnx": False}
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    with pytest.raises(RuntimeError, match="predictions of the exported files differ from those of the run"):
        export_model(spark, with_values(trained_config, values))
    assert not list(tmp_path.iterdir())
