"""Which cells a configuration names, and the mistakes that are told before anything is read."""

import pytest

from mamdr_core.comparing.cells import compared_pairs, make_cell
from mamdr_core.config import load_config
from mamdr_core.errors import MamdrError


def test_pairs_are_models_by_methods_or_those_given():
    assert compared_pairs(load_config()) == [("mlp", "joint"), ("mlp", "mamdr")]
    config = load_config(overrides=["compare.pairs=[mlp/dn, mlp/joint, mlp/dn]"])
    assert compared_pairs(config) == [("mlp", "dn"), ("mlp", "joint")]


def test_options_stay_with_the_structure_and_the_method_that_they_were_configured_for():
    own = load_config(
        None, ["model.name=a.b:C", "model.options.scale=2", "train.method=a.b:m", "train.options.rounds=1"]
    )
    cell = make_cell(own, ("a.b:C", "joint"), 0, {}, {}).config
    assert (cell.model.options, cell.train.options) == ({"scale": 2}, {})
    cell = make_cell(own, ("mlp", "a.b:m"), 0, {}, {}).config
    assert (cell.model.options, cell.train.options) == ({}, {"rounds": 1})


def test_a_dry_run_is_for_train_mamdr():
    with pytest.raises(MamdrError, match=r"train\.dry_run is for train_mamdr"):
        make_cell(load_config(overrides=["train.dry_run=true"]), ("mlp", "dn"), 0, {}, {})


def test_overrides_of_a_pair_go_over_its_methods_and_these_over_its_models():
    overrides = {
        "mlp/dn": {"train.dr.k": 3},
        "dn": {"train.dr.k": 2, "train.epochs": 2},
        "mlp": {"train.dr.k": 1, "train.epochs": 1, "train.patience": 1},
        "joint": {"train.dr.k": 9},
    }
    train = make_cell(load_config(), ("mlp", "dn"), 4, {}, overrides).config.train
    assert (train.method, train.seed, train.dr.k, train.epochs, train.patience) == ("dn", 4, 3, 2, 1)
    train = make_cell(load_config(), ("mlp", "dn"), 4, {"train.dr.k": 8}, overrides).config.train
    assert train.dr.k == 8


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("compare.methods=[joint, mamdrr]", "compare: unknown method mamdrr; known: joint, alternate"),
        ("compare.models=[mlp, mpl]", "compare: unknown model mpl; known: "),
        ("compare.pairs=[mpl/joint]", "compare: unknown model mpl; known: "),
        ("compare.baseline=dn", "compare.baseline 'dn' is not compared; give one of joint, mamdr, mlp/joint"),
        ("compare.overrides={dn: {train.dr.k: 3}}", "compare.overrides: dn is not among what is compared: mlp, joint"),
        ("compare.overrides={mamdr: {train.seed: 3}}", "compare.overrides.mamdr: train.seed cannot be set for a cell"),
        ("compare.overrides={mamdr: {lake.root: x}}", "compare.overrides.mamdr: lake.root cannot be set for a cell"),
        ("compare.seeds=[1, 1]", "compare.seeds must name something, and nothing twice: [1, 1]"),
        ("compare.methods=[]", "compare.methods must name something"),
        ("compare.pairs=[joint]", "compare.pairs: expected model/method, got 'joint'"),
        ("compare.name=a/b", "compare.name 'a/b': use letters"),
        ("compare.parallel=-1", "compare.parallel must be >= 0, got -1"),
    ],
)
def test_a_mistake_is_named(override, message):
    with pytest.raises(MamdrError) as error:
        compared_pairs(load_config(overrides=[override]))
    assert message in str(error.value)
