"""train.profile: which steps are recorded, and what a trace and the table hold."""

import gzip
import json
import threading

import pytest
import torch

from mamdr_core.runtime import heartbeat
from mamdr_core.training.profiling import ROUNDS, STEPS, WARM_STEPS, Profiler
from mamdr_core.training.stages import Stage

STAGE = Stage(True, False, 0, epochs=1, rounds_per_epoch=8, validate_every=8, patience=1)


def step():
    """What an engine does in a step, with one matrix product."""
    heartbeat.beat()
    torch.ones(2, 2) @ torch.ones(2, 2)


def names(path):
    """Names of the spans of a trace."""
    with gzip.open(path) as file:
        return [event["name"] for event in json.load(file)["traceEvents"] if event.get("ph") == "X"]


@pytest.mark.parametrize(
    ("rounds", "steps", "recorded"),
    [
        (8, 10, 10 * ROUNDS),  # the first round warms up
        (2, 1000, STEPS),  # or the first steps, where rounds are long
        (2, 10, 10),  # the stage ends first
        (1, WARM_STEPS + 7, 7),
        (1, 10, None),
    ],
)
def test_some_rounds_after_the_first_are_recorded_and_no_more_than_the_bound(tmp_path, rounds, steps, recorded):
    profiler = Profiler(str(tmp_path / "reports"))
    with profiler.stage(STAGE):
        for _ in range(rounds):
            with profiler.mark("inner"):
                for _ in range(steps):
                    step()
            profiler.after_round()
    for _ in range(3 * WARM_STEPS):
        step()
    *traces, table = profiler.finish({"inner": 3.0, "read": 1.0})
    text = (tmp_path / "reports" / "profile.txt").read_text()
    assert table == str(tmp_path / "reports" / "profile.txt")
    assert "75.0%" in text
    if recorded is None:
        assert traces == []
        assert "nothing was recorded" in text
        return
    assert traces == [str(tmp_path / "reports" / "profile-shared.json.gz")]
    assert abs(names(traces[0]).count("aten::matmul") - recorded) <= 1  # begins or ends within a step
    assert "aten::mm" in text


def test_signs_of_other_threads_are_no_steps(tmp_path):
    profiler = Profiler(str(tmp_path))
    with profiler.stage(STAGE):
        other = threading.Thread(target=lambda: [heartbeat.beat() for _ in range(2 * WARM_STEPS)])
        other.start()
        other.join()
    assert len(profiler.finish({"inner": 1.0})) == 1


def test_a_folder_that_cannot_be_written_costs_the_profile_alone(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    profiler = Profiler(str(tmp_path / "file" / "reports"))
    with profiler.stage(STAGE):
        for _ in range(WARM_STEPS + 5):
            step()
    assert profiler.finish({"inner": 1.0}) == []
    assert "train.profile" in caplog.text
    assert heartbeat.listener is None
