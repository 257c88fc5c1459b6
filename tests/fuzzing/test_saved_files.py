"""A damaged package is one clear error, a damaged checkpoint is passed over for the one before it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mamdr_core.config.learning import DRSettings
from mamdr_core.config.mixed import MixedSettings
from mamdr_core.learning.domain_negotiation import DomainNegotiation
from mamdr_core.learning.domain_regularization import DomainRegularization
from mamdr_core.learning.learner import Round
from mamdr_core.learning.weighted_loss import Uncertainty
from mamdr_core.mixed.mixed_model import MixedModel
from mamdr_core.runtime.errors import MamdrError
from mamdr_core.training.checkpoint.checkpoints import find_checkpoint
from mamdr_core.training.checkpoint.position import Position
from mamdr_core.training.checkpoint.state import STATE, RunState, restore, take, write
from mamdr_core.training.early_stop import EarlyStop
from mamdr_core.training.files.manifest import hash_files, write_manifest, write_texts
from mamdr_core.training.package import load_package, publish_package, save_rank
from tests.fuzzing.damage import damage
from tests.fuzzing.examples import examples
from tests.learning.test_structures import make_learner, run_one_round
from tests.mixed.drawn_rows import ITEMS, USERS, draw_columns, make_model

ROWS = draw_columns([6, 4, 5], [0.0, 0.5], [0.5, 0.5])[0]
STRUCTURE = "shared_bottom"  # its towers give theta_i rows of tables


@pytest.fixture(scope="module")
def learner():
    learner = make_learner(STRUCTURE, 3)
    run_one_round(learner, "mamdr")
    return learner


@pytest.fixture(scope="module")
def first(learner):
    """theta_S of the first checkpoint."""
    return learner.shared.copy()


@pytest.fixture(scope="module")
def package(tmp_path_factory, learner):
    folder = tmp_path_factory.mktemp("package")
    texts = {
        "config.yaml": "model: {name: mlp}\n",
        "pinned.json": json.dumps(
            {"versions": {"examples": 1}, "sizes": {"user": 9, "domain": 3}, "numeric": {"age": [0.0, 1.0]}}
        ),
        "metrics.json": json.dumps({"run_id": "r", "test_auc": 0.7, "seconds": {"inner": 1.0}}),
    }
    mixed = make_model(ROWS)
    mixed.fit(ROWS)
    files = save_rank(str(folder), 0, learner.shared, learner.specific, mixed)
    publish_package(str(folder), f"{folder}-complete", files, texts)
    return Path(f"{folder}-complete")


def predict_mixed(loaded):
    """Logits of the mixed model of a package."""
    model = MixedModel.from_state(MixedSettings(), (), {}, 1, {"user": USERS, "item": ITEMS, "domain": 3}, loaded.mixed)
    return model.predict(ROWS)


def state_of(learner, done=0):
    """A run of MAMDR that has dealt a round to DR, before its first validation."""
    learner.settings = replace(learner.settings, dr=DRSettings(schedule="rounds", every=3))
    negotiate, regularize = DomainNegotiation(learner), DomainRegularization(learner)
    stateful = {
        "theta_S": learner,
        "early_stop": EarlyStop(3, learner),
        "shared": negotiate,
        "specific": regularize,
        "weights": Uncertainty(torch.zeros(3)),
    }
    return RunState(Position(done=done), stateful, learner.specific, torch.ones(3).bool(), learner.shared.dense)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, learner, first):
    """Two intact checkpoints of one rank, the second with a best."""
    folder = tmp_path_factory.mktemp("checkpoints")
    run = state_of(learner)
    round_ = Round(0, 0, {1: torch.arange(9, 13), 0: torch.arange(2)}, torch.arange(6))
    for number in (1, 2):
        run.position.done = number
        snapshot, own = take(run), folder / str(number)
        texts = {STATE: json.dumps({"ranks": [snapshot.facts]})}
        write_manifest(own, hash_files(own, write(own, 0, snapshot)) | write_texts(own, texts))
        learner.specific.release()
        if number == 1:
            for name in ("shared", "specific"):
                run.stateful[name](round_)
            run.stateful["weights"].step(1, 0.5, 0.01)
            run.stateful["early_stop"].record(0.5, number)
    return folder


def copied(source, tmp_path_factory):
    place = tmp_path_factory.getbasetemp() / "damaged" / source.name
    shutil.rmtree(place.parent, ignore_errors=True)
    shutil.copytree(source, place)
    return place


def is_one_line(error):
    message = str(error.value if hasattr(error, "value") else error)
    assert message
    assert "\n" not in message
    message.encode()


@examples(60)
@given(data=st.data())
def test_a_damaged_package_is_one_line_or_still_whole(tmp_path_factory, package, data):
    folder = copied(package, tmp_path_factory)
    damage(data, folder)
    try:
        loaded = load_package(str(folder))
        found_N = predict_mixed(loaded) if loaded.mixed else None
    except MamdrError as error:
        is_one_line(error)
        return
    expected = load_package(str(package))
    assert loaded.shared.dense.shape == expected.shared.dense.shape
    for change in loaded.specific.values():
        assert change.dense.shape == expected.shared.dense.shape
    assert found_N is None or found_N.shape == (len(ROWS),)


@pytest.mark.parametrize("name", ["shared", "rows-00000", "domains-00000", "own-00000"])
def test_a_package_that_lacks_a_file_of_its_mixed_model_is_an_error(tmp_path_factory, package, name):
    folder = copied(package, tmp_path_factory)
    (folder / f"mixed-{name}.safetensors").unlink()
    with pytest.raises(MamdrError, match=rf"mixed-{name}\.safetensors is missing"):
        load_package(str(folder))
    left = [file.name for file in folder.iterdir() if file.name != "manifest.json"]
    write_manifest(folder, hash_files(folder, left))
    with pytest.raises(MamdrError, match=rf"model package .*: its manifest lists no mixed-{name}\.safetensors"):
        load_package(str(folder))


@examples(60)
@given(data=st.data())
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path_factory, checkpoints, first, data):
    folder = copied(checkpoints, tmp_path_factory)
    damage(data, folder / "2")
    found = find_checkpoint(folder)
    assert found.newest in (1, 2)
    assert found.next_number == 3
    fresh = make_learner(STRUCTURE, 3)
    run = state_of(fresh)
    try:
        restore(folder / str(found.newest), run, 0, 1)
    except MamdrError as error:
        assert found.newest == 2
        is_one_line(error)
        return
    if found.newest == 1:
        assert run.position.done == 1
        assert torch.equal(fresh.shared.dense, first.dense)


def test_intact_ones_are_taken(package, checkpoints, learner):
    loaded = load_package(str(package))
    assert loaded.specific.keys() == {0, 1, 2}
    assert predict_mixed(loaded).abs().max() > 0.1
    assert find_checkpoint(checkpoints).newest == 2
    fresh = make_learner(STRUCTURE, 3)
    run = state_of(fresh)
    restore(checkpoints / "2", run, 0, 1)
    assert run.position.done == 2
    assert torch.equal(fresh.shared.dense, learner.shared.dense)
    assert run.stateful["early_stop"].best_round == 1
    assert {domain: torch.cat(rows).tolist() for domain, rows in run.stateful["specific"].pending.items()} == {
        0: [0, 1],
        1: [9, 10, 11, 12],
    }
    assert run.stateful["weights"].counts_n.tolist() == [0, 1, 0]


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "..", "a/b"])
def test_a_manifest_cannot_name_what_is_not_in_its_folder(tmp_path_factory, package, name):
    folder = copied(package, tmp_path_factory)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": 0, "sha256": ""}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(MamdrError, match="which is not a file of the folder"):
        load_package(str(folder))


def test_a_link_in_a_package_is_not_followed(tmp_path_factory, package):
    folder = copied(package, tmp_path_factory)
    (folder / "metrics.json").unlink()
    (folder / "metrics.json").symlink_to(package / "metrics.json")
    with pytest.raises(MamdrError, match=r"metrics\.json is missing"):
        load_package(str(folder))
