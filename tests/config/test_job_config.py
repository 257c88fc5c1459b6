"""Configuration: precedence, unknown keys, wrong values, the generated reference."""

from pathlib import Path

import pytest
import yaml

from mamdr_core.config.__main__ import config_reference
from mamdr_core.config.job_config import dump_config, load_config, parse_config, with_values
from mamdr_core.config.yaml_values import parse_yaml
from mamdr_core.runtime.errors import MamdrError

ROOT = Path(__file__).resolve().parents[2]


def test_defaults_give_way_to_the_file_and_the_file_to_set(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("train: {epochs: 3, dr: {k: 2}}\n")
    config = load_config(str(file), ["train.dr.k=5", "examples.until=2026-01-02", "lake.root=a=b"])
    assert (config.train.epochs, config.train.dr.k, config.train.batch_size) == (3, 5, 1024)
    assert str(config.examples.until) == "2026-01-02"
    assert config.lake.root == "a=b"


def test_a_later_file_overrides_an_earlier_one_key_by_key_and_lists_whole(tmp_path):
    data, table = tmp_path / "data.yaml", tmp_path / "table.yaml"
    data.write_text("lake: {root: here}\nmodel: {hidden: [8, 4], dropout: 0.1}\ntrain: {dr: {k: 2, gamma: 0.5}}\n")
    table.write_text("model: {hidden: [16]}\ntrain: {dr: {k: 7}}\n")
    config = load_config([str(data), str(table)], ["train.dr.gamma=0.25"])
    assert config.lake.root == "here"
    assert (config.model.hidden, config.model.dropout) == ((16,), 0.1)
    assert (config.train.dr.k, config.train.dr.gamma) == (7, 0.25)
    assert load_config([str(table), str(data)]).train.dr.k == 2


def test_keys_of_a_config_can_be_changed_and_mistakes_in_them_are_named():
    config = with_values(load_config(), {"train.dr.k": 5, "model.hidden": [4]})
    assert (config.train.dr.k, config.model.hidden, config.train.dr.gamma) == (5, (4,), load_config().train.dr.gamma)
    with pytest.raises(MamdrError, match=r"unknown config key train\.dr\.kk; did you mean train\.dr\.k\?"):
        with_values(config, {"train.dr.kk": 5})
    with pytest.raises(MamdrError, match=r"train\.seed\.x: seed is a value, not a section"):
        with_values(config, {"train.seed.x": 5})


@pytest.mark.parametrize("path", sorted((ROOT / "conf").glob("*.yaml")), ids=lambda path: path.name)
def test_every_config_of_ours_is_valid_and_survives_a_round_trip(path):
    config = load_config(str(path))
    assert parse_config(yaml.safe_load(dump_config(config))) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.dr.kk=3", "unknown config key train.dr.kk; did you mean train.dr.k?"),
        ("tarin.ranks=2", "unknown config key tarin; did you mean train?"),
        ("synthetic.row=2", "did you mean synthetic.rows?"),
        ("features=[{nam: a, kind: numeric}]", "unknown config key features.0.nam"),
        ("train.ranks=x", "train.ranks: Input should be a valid integer"),
        ("train.ranks=0", "train.ranks must be >= 1, got 0"),
        ("features=[{name: a, kind: vector}]", "feature 'a' is a vector: it needs `size`"),
        ("features=[{name: a, kind: numeric, pooling: max}]", "pooling is for bag and sequence features, this one is"),
        ("features=[{name: a, kind: sequence, weights: w}]", "weights is for bag features, this one is sequence"),
        ("features=[{name: a, kind: numeric, project: 4}]", "project is for vector features, this one is numeric"),
        ("features=[{name: a, kind: bag, length: 0}]", "length must be in [1, 10000], got 0"),
        ("features=[{name: a, kind: bag, table: item, buckets: 9}]", "buckets and size are those of its table 'item'"),
        ("features=[{name: a, kind: bag, table: domain}]", "table is 'domain', expected user, item or"),
        ("features=[{name: a, kind: bag, table: b}]", "features.0.table is 'b', expected one of user, item"),
        ("features=[{name: a, kind: bag, table: item, pooling: attention}]", "attention needs a sequence with `table`"),
        ("features=[{name: a, kind: sequence, history: true}]", "a history is of items: set table: item (it is '')"),
        (
            "features=[{name: a, kind: sequence, table: item, history: true, expression: b}]",
            "remove expression and separator",
        ),
        ("features=[{name: a, kind: categorical, quantiles: 1}]", "quantiles must be in [2, 1000], got 1"),
        ("features=[{name: a, kind: categorical, quantiles: 4, buckets: 9}]", "quantiles and buckets exclude each"),
        ("train.ranks", "--set train.ranks: expected a.b=value"),
        ("train.ranks=[", "not valid YAML"),
        ("examples.split.fractions=[0.5, 0.2, 0.2]", "fractions must be"),
        ("examples.negatives.ctr_ratio=[0.5, 0.2]", "ctr_ratio must be > 0 and ordered, got (0.5, 0.2)"),
        ("examples.negatives.ctr_ratio={a: 0, b: 1}", "must map domains to ratios > 0, got {'a': 0.0}"),
        ("examples.negatives.ctr_ratio={}", "must map domains to ratios > 0, got {}"),
        ("examples.negatives.ctr_ratio={a: 0.2, b: x}", ".b: Input should be a valid number"),
    ],
)
def test_a_mistake_is_named(override, message):
    with pytest.raises(MamdrError) as error:
        load_config(overrides=[override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "ratio"),
    [
        ("examples.negatives.ctr_ratio=0.3", 0.3),
        ("examples.negatives.ctr_ratio=[0.2, 0.4]", (0.2, 0.4)),
        ("examples.negatives.ctr_ratio={model: 0.3, 7: 1}", {"model": 0.3, "7": 1.0}),
        ("examples.negatives.ctr_ratio.Video_Games=0.21", {"Video_Games": 0.21}),
    ],
)
def test_a_ratio_is_a_number_a_range_or_a_mapping_by_domain(override, ratio):
    config = load_config(overrides=[override])
    assert config.examples.negatives.ctr_ratio == ratio
    assert parse_config(yaml.safe_load(dump_config(config))) == config


@pytest.mark.parametrize("content", [b"- a\n- b\n", b"\xff\xfe\x00", b"a: [", None])
def test_a_config_file_that_cannot_be_read_is_a_clear_error(tmp_path, content):
    file = tmp_path / "run.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(MamdrError, match=r"--config .*run\.yaml"):
        load_config(str(file))


def test_an_empty_file_means_the_defaults(tmp_path):
    (tmp_path / "run.yaml").write_text("")
    assert load_config(str(tmp_path / "run.yaml")) == load_config()


def test_the_reference_in_docs_is_the_codes():
    page = (ROOT / "docs/config.md").read_text()
    assert page == config_reference(), "run: .venv/bin/python -m mamdr_core.config > docs/config.md"


def test_the_demo_runs_mamdr_with_the_papers_settings():
    demo = load_config(str(ROOT / "conf/demo.yaml"))
    paper = load_config([str(ROOT / "conf/demo.yaml"), str(ROOT / "conf/paper.yaml")])
    assert with_values(demo, {**demo.compare.overrides["mamdr"], "train.method": "mamdr"}).train == paper.train


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lake: {root: a}\ntrain: {}\nlake: {root: b}\n", r"the key 'lake' is given twice in line 3"),
        ("train: {epochs: 1, lr: 2, epochs: 3}", r"the key 'epochs' is given twice in line 1"),
        (
            "a0: &a0 {x: 1}\n"
            + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 9)),
            r"merge keys give more than 10,000 keys",
        ),
    ],
)
def test_yaml_that_hides_a_key_or_grows_without_bound_is_refused(text, message):
    with pytest.raises(MamdrError, match=message):
        parse_yaml(text, "run.yaml")


def test_a_mapping_that_others_merge_keeps_its_own_values():
    found = parse_yaml("d: &d {a: 1, b: 2}\ne: &e {<<: *d, a: 3}\nf: {<<: [*e, *d]}\ng: {<<: *e, b: 4}", "run.yaml")
    assert found == {"d": {"a": 1, "b": 2}, "e": {"a": 3, "b": 2}, "f": {"a": 3, "b": 2}, "g": {"a": 3, "b": 4}}
