"""What tasks of ranks saved, and whether it is the same."""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from mamdr_core.training.package import load_shared


def parameters(task):
    """Everything that the ranks of a task saved, theta_i by domain and the mixed model by file."""
    shared = load_shared(Path(task.package))
    found = {"dense": shared.dense, **shared.tables}
    for file in sorted(Path(task.package).glob("specific-*")):
        saved = load_file(file)
        found |= {
            f"theta_{domain}": dense for domain, dense in zip(saved["domains"].tolist(), saved["dense"], strict=True)
        }
    for file in sorted(Path(task.package).glob("mixed-*")):
        found |= {f"{file.stem}.{name}": values for name, values in load_file(file).items()}
    return found


def assert_same(left, right, exactly=False, rtol=1e-4):
    assert left.keys() == right.keys()
    for name in left:
        if exactly:
            assert torch.equal(left[name], right[name]), name
        else:
            torch.testing.assert_close(left[name], right[name], rtol=rtol, atol=1e-5, msg=name)


def over_rows(task):
    """The task with fresh moments, in which alone sharded tables differ, and theta_i that also covers rows."""
    train = task.config.train
    train = replace(train, inner=replace(train.inner, state="fresh"), dr=replace(train.dr, rows="touched"))
    return replace(task, config=replace(task.config, train=train))
