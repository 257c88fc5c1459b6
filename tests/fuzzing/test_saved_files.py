"""A damaged package is one clear error, a damaged checkpoint is passed over for the one before it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mamdr_core.errors import MamdrError
from mamdr_core.training.checkpoints import find_checkpoint
from mamdr_core.training.early_stop import EarlyStop
from mamdr_core.training.package import load_package, save_rank, seal_package
from mamdr_core.training.sealed import facts_of, seal, write_texts
from mamdr_core.training.state import STATE, Position, restore, take, write
from tests.fuzzing.damage import damage
from tests.fuzzing.examples import examples
from tests.learning.test_structures import make_learner, run_one_round

STRUCTURE = "shared_bottom"  # its towers give theta_i rows of tables
PATIENCE = {0: 3, 1: 3}


@pytest.fixture(scope="module")
def learner():
    learner = make_learner(STRUCTURE, 3)
    run_one_round(learner, "mamdr")
    return learner


@pytest.fixture(scope="module")
def package(tmp_path_factory, learner):
    folder = tmp_path_factory.mktemp("package")
    texts = {
        "config.yaml": "model: {name: mlp}\n",
        "pinned.json": json.dumps({"versions": {"examples": 1}, "sizes": {"user": 9}, "numeric": {"age": [0.0, 1.0]}}),
        "metrics.json": json.dumps({"run_id": "r", "test_auc": 0.7, "seconds": {"inner": 1.0}}),
    }
    seal_package(str(folder), f"{folder}-sealed", save_rank(str(folder), 0, learner.shared, learner.specific), texts)
    return Path(f"{folder}-sealed")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, learner):
    """Two intact checkpoints of one rank, the second with a best."""
    folder = tmp_path_factory.mktemp("checkpoints")
    stop = EarlyStop(3)
    for number in (1, 2):
        taken = take(learner, Position(stop, done=number))
        own = folder / str(number)
        facts = facts_of(own, write(own, 0, taken)) | write_texts(own, {STATE: json.dumps({"ranks": [taken.facts]})})
        seal(own, facts)
        learner.specific.release()
        stop.validated(0.5, number, learner.shared, learner.specific)
    return folder


def copied(source, tmp_path_factory):
    place = tmp_path_factory.getbasetemp() / "damaged" / source.name
    shutil.rmtree(place.parent, ignore_errors=True)
    shutil.copytree(source, place)
    return place


def is_one_line(error):
    told = str(error.value if hasattr(error, "value") else error)
    assert told
    assert "\n" not in told
    told.encode()


@examples(60)
@given(data=st.data())
def test_a_damaged_package_is_one_line_or_still_whole(tmp_path_factory, package, data):
    folder = copied(package, tmp_path_factory)
    damage(data, folder)
    try:
        loaded = load_package(str(folder))
    except MamdrError as error:
        is_one_line(error)
        return
    expected = load_package(str(package))
    assert loaded.shared.dense.shape == expected.shared.dense.shape
    for change in loaded.specific.values():
        assert change.dense.shape == expected.shared.dense.shape


@examples(60)
@given(data=st.data())
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path_factory, checkpoints, learner, data):
    folder = copied(checkpoints, tmp_path_factory)
    damage(data, folder / "2")
    found = find_checkpoint(folder)
    assert found.newest in (1, 2)
    assert found.next_number == 3
    fresh = make_learner(STRUCTURE, 3)
    try:
        at = restore(folder / str(found.newest), fresh, 0, 1, PATIENCE)
    except MamdrError as error:
        assert found.newest == 2
        is_one_line(error)
        return
    if found.newest == 1:
        assert at.done == 1
        assert torch.equal(fresh.shared.dense, learner.shared.dense)


def test_intact_ones_are_taken(package, checkpoints, learner):
    assert load_package(str(package)).specific.keys() == {0, 1, 2}
    assert find_checkpoint(checkpoints).newest == 2
    fresh = make_learner(STRUCTURE, 3)
    assert restore(checkpoints / "2", fresh, 0, 1, PATIENCE).done == 2
    assert torch.equal(fresh.shared.dense, learner.shared.dense)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "..", "a/b"])
def test_a_manifest_cannot_name_what_is_not_in_its_folder(tmp_path_factory, package, name):
    folder = copied(package, tmp_path_factory)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": 0, "sha256": ""}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(MamdrError, match="which is no file of it"):
        load_package(str(folder))


def test_a_link_in_a_package_is_not_followed(tmp_path_factory, package):
    folder = copied(package, tmp_path_factory)
    (folder / "metrics.json").unlink()
    (folder / "metrics.json").symlink_to(package / "metrics.json")
    with pytest.raises(MamdrError, match=r"metrics\.json is missing"):
        load_package(str(folder))
