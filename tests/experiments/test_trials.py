"""Which trials a configuration selects, and configuration errors that are found before data are read."""

from pathlib import Path

import pytest

from mamdr_core.config.job_config import load_config
from mamdr_core.experiments.trials import compared_pairs, make_trial
from mamdr_core.runtime.errors import MamdrError

PACKAGE = Path(__file__).parents[1] / "plugin_package"


def test_pairs_are_models_by_methods_or_those_given():
    assert compared_pairs(load_config()) == [("mlp", "joint"), ("mlp", "mamdr")]
    config = load_config(overrides=["compare.pairs=[mlp/dn, mlp/joint, mlp/dn]"])
    assert compared_pairs(config) == [("mlp", "dn"), ("mlp", "joint")]


def test_options_apply_only_to_the_configured_structure_and_method(monkeypatch):
    monkeypatch.syspath_prepend(PACKAGE)
    model, method = "click_models.residual:Residual", "click_models.largest_first:method"
    own = load_config(
        None,
        [f"model.name={model}", "model.options.scale=2", f"train.method={method}", "train.options.random_rounds=1"],
    )
    trial = make_trial(own, (model, "joint"), 0, {}, {}).config
    assert (trial.model.options, trial.train.options) == ({"scale": 2}, {})
    trial = make_trial(own, ("mlp", method), 0, {}, {}).config
    assert (trial.model.options, trial.train.options) == ({}, {"random_rounds": 1})


def test_dry_runs_are_rejected():
    with pytest.raises(MamdrError, match=r"train\.dry_run works only in train_mamdr"):
        make_trial(load_config(overrides=["train.dry_run=true"]), ("mlp", "dn"), 0, {}, {})


def test_settings_that_the_method_does_not_support_are_rejected():
    config = load_config(overrides=["train.only_domains=[d0]", "train.warm_start=r1"])
    assert make_trial(config, ("mlp", "mamdr"), 0, {}, {}).config.train.only_domains == ("d0",)
    with pytest.raises(MamdrError, match=r"train\.only_domains trains only theta_i, and train\.method dn has none"):
        make_trial(config, ("mlp", "dn"), 0, {}, {})
    with pytest.raises(MamdrError, match=r"train\.refit_last_layer is for methods without theta_i"):
        make_trial(load_config(), ("mlp", "mamdr"), 0, {}, {"mamdr": {"train.refit_last_layer": True}})


def test_overrides_of_pairs_precede_those_of_methods_and_models():
    overrides = {
        "mlp/dn": {"train.dr.k": 3},
        "dn": {"train.dr.k": 2, "train.epochs": 2},
        "mlp": {"train.dr.k": 1, "train.epochs": 1, "train.patience": 1},
        "joint": {"train.dr.k": 9},
    }
    train = make_trial(load_config(), ("mlp", "dn"), 4, {}, overrides).config.train
    assert (train.method, train.seed, train.dr.k, train.epochs, train.patience) == ("dn", 4, 3, 2, 1)
    train = make_trial(load_config(), ("mlp", "dn"), 4, {"train.dr.k": 8}, overrides).config.train
    assert train.dr.k == 8


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("compare.methods=[joint, mamdrr]", "compare: unknown method mamdrr; known: joint, alternate"),
        ("compare.models=[mlp, mpl]", "compare: unknown model mpl; known: "),
        ("compare.pairs=[mpl/joint]", "compare: unknown model mpl; known: "),
        ("compare.baseline=dn", "compare.baseline 'dn' is not compared; give one of joint, mamdr, mlp/joint"),
        ("compare.overrides={dn: {train.dr.k: 3}}", "compare.overrides: dn is not compared; known: mlp, joint"),
        ("compare.overrides={mamdr: {train.seed: 3}}", "compare.overrides.mamdr: train.seed cannot be set for a trial"),
        ("compare.overrides={mamdr: {lake.root: x}}", "compare.overrides.mamdr: lake.root cannot be set for a trial"),
        ("compare.seeds=[1, 1]", "compare.seeds needs distinct values, got [1, 1]"),
        ("compare.methods=[]", "compare.methods needs distinct values, got []"),
        ("compare.pairs=[joint]", "compare.pairs: expected model/method, got 'joint'"),
        ("compare.name=a/b", "compare.name 'a/b': use letters"),
        ("compare.parallel=-1", "compare.parallel must be >= 0, got -1"),
    ],
)
def test_configuration_errors_are_named(override, message):
    with pytest.raises(MamdrError) as error:
        compared_pairs(load_config(overrides=[override]))
    assert message in str(error.value)
