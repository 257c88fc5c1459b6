"""train_mamdr --dry-run: what a run would need is reported, one step is made, and the lake stays as it is."""

import math
from pathlib import Path

import numpy as np
import pytest
from pyspark import cloudpickle

from mamdr_core.config.job_config import with_values
from mamdr_core.parallel.collective import run_simulated
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.shards.pinned import pin_examples
from mamdr_core.training.dry_run import dry_run
from mamdr_core.training.dry_worker import few_domains


@pytest.mark.parametrize(
    ("rows", "own", "few"),
    [
        ([9, 0, 5, 3, 7, 1, 8], [1, 1, 1, 1, 1, 1, 1], [2, 3, 4, 6]),  # around the median, none that is empty
        ([9, 0, 5, 3, 7, 1, 8], [1, 1, 0, 0, 0, 1, 0], [0, 5]),
        ([60_000, 70_000, 80_000], [1, 1, 1], [0]),  # as many rows as are few
        ([400_000, 500_000], [1, 1], [0]),  # at least one
        ([4, 5], [0, 0], []),
    ],
)
def test_a_few_domains_of_median_size_are_read(rows, own, few):
    found = few_domains(np.array(rows), np.array(own, dtype=bool))
    assert np.flatnonzero(found).tolist() == few


def files(root):
    """Every file of a lake with its size and time."""
    states = {path: path.stat() for path in Path(root).rglob("*") if path.is_file()}
    return {path: (state.st_size, state.st_mtime_ns) for path, state in states.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("method", "ranks"), [("mamdr", 1), ("mixed", 2)])
def test_a_dry_run_reports_what_a_run_needs_and_writes_nothing(
    spark, trained_config, method, ranks, tmp_path, monkeypatch
):
    """Two ranks are in this process, and get the task as launched ones do: pickled."""
    if ranks > 1:
        monkeypatch.setattr(
            "mamdr_core.training.dry_run.run_ranks",
            lambda spark, task, ranks, *_: run_simulated(cloudpickle.loads(cloudpickle.dumps(task)), ranks),
        )
    trackers = {"tracking.tensorboard": str(tmp_path / "events"), "tracking.mlflow": f"sqlite:///{tmp_path}/runs.db"}
    values = {"train.method": method, "train.ranks": ranks, "train.dr.rows": "touched"}
    config = with_values(trained_config, values | trackers)
    before = files(config.lake.root)
    found = dry_run(spark, config)
    assert files(config.lake.root) == before
    assert not list(tmp_path.iterdir())
    pinned = pin_examples(spark, config.lake, config.features)
    assert (found["status"], found["method"], found["ranks"], found["domains"]) == ("dry_run", method, ranks, 5)
    assert found["rows"] == {split: int(counts.sum()) for split, counts in pinned.counts.items()}
    assert 0 < found["rows_read"] <= sum(found["rows"].values())
    sizes = {name: (facts["rows"], facts["width"], facts["trained"]) for name, facts in found["tables"].items()}
    assert sizes == {
        **{name: (pinned.sizes[name] + 1, 4, True) for name in ("user", "item", "domain")},
        "weekday": (pinned.sizes["weekday"] + 1, 2, True),
        **{f"{name}_vector": (pinned.sizes[name] + 1, 6, False) for name in ("user", "item")},
    }
    trained = sum(rows * width for rows, width, is_trained in sizes.values() if is_trained)
    dense = 27 * 8 + 8 + 8 + 1  # 4 + 4 + 4 + 2 + 6 + 6 + 1 inputs
    parameters = {"dense": dense, "tables": trained, "specific": 5 * dense if method == "mamdr" else 0}
    assert found["parameters"] == parameters
    assert found["memory"]["theta_S"] == 4 * (trained + dense)
    assert found["memory"]["total"] < found["memory_available"]
    assert ("rows of theta_i" in found["memory"]) == (method == "mamdr")
    assert found["loss"] == pytest.approx(math.log(2), abs=0.3)
    assert found["loss_after"] < found["loss"]
    assert {"pin", "ranks", "read", "build", "step"} <= set(found["seconds"])


@pytest.mark.slow
def test_it_builds_no_examples(spark, trained_config, tmp_path):
    with pytest.raises(MamdrError, match="has no examples yet, and a dry run builds none: run build_examples first"):
        dry_run(spark, with_values(trained_config, {"lake.root": str(tmp_path / "lake")}))
    assert not (tmp_path / "lake").exists()
