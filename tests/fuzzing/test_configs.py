"""Whatever a configuration holds, it is a valid one or one clear line."""

import json
from datetime import date

import yaml
from hypothesis import given
from hypothesis import strategies as st

from mamdr_core.config.job_config import Config, _known_keys, dump_config, load_config, parse_config, plain_config
from mamdr_core.runtime.errors import MamdrError
from tests.fuzzing.examples import examples

KEYS = sorted({*_known_keys(Config, ""), "features.0.name", "sweep.space.x.low", "compare.overrides.mamdr.train.dr.k"})
NAMES = sorted({part for key in KEYS for part in key.split(".")})

numbers = st.one_of(
    st.integers(-3, 300),
    st.integers(),
    st.sampled_from([2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**400]),
    st.floats(),
    st.sampled_from([float("nan"), float("inf"), 1e308, 5e-324, 0.5]),
)
texts = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["", "nan", "inf", "1e999", "1" * 30, "../..", "a\0b", "\ud800", "newest", "adam", "2026-01-01"]),
)
leaves = st.one_of(st.none(), st.booleans(), numbers, texts, st.dates(), st.datetimes(), st.binary(max_size=3))
keys = st.one_of(st.sampled_from(NAMES), st.text(max_size=6), st.integers(0, 9), st.none(), st.dates())
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8
)

HOSTILE = [
    "!!python/object/apply:os.system ['true']",
    "!!python/name:os.system",
    "!!int x",
    "!!timestamp x",
    "!!bool x",
    "!!binary x",
    "!!set {a, b}",
    "2026-13-45",
    "{[a]: b}",
    "&a [*a]",
    "&a {train: *a}",
    "[" * 3000,
    "{a: " * 500 + "1" + "}" * 500,
    "9" * 5000,
    '"\\ud800"',
    ".nan",
    "-.inf",
    "a: b: c",
    "\t- x",
    "? - a\n: b",
]


def is_valid_or_one_line(read):
    """Either a Config that JSON holds and YAML gives back, or one line (then None)."""
    try:
        config = read()
    except MamdrError as error:
        message = str(error)
        assert message
        assert "\n" not in message
        message.encode()
        return None
    json.dumps(plain_config(config), allow_nan=False)
    assert dump_config(parse_config(yaml.safe_load(dump_config(config)))) == dump_config(config)
    return config


def nested(key, value):
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


@examples(400)
@given(key=st.sampled_from(KEYS), value=trees)
def test_any_value_of_any_key(key, value):
    is_valid_or_one_line(lambda: parse_config(nested(key, value)))


@examples(150)
@given(tree=st.dictionaries(keys, trees, max_size=4))
def test_any_tree_of_values_in_a_file(tmp_path_factory, tree):
    file = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    file.write_bytes(yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass"))
    is_valid_or_one_line(lambda: load_config(str(file)))


@examples(100)
@given(content=st.binary(max_size=60) | st.text(alphabet="ab:-[]{}&*!|>?#%@`\"' \n\t0.1e", max_size=60).map(str.encode))
def test_any_bytes_in_a_file(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    file.write_bytes(content)
    is_valid_or_one_line(lambda: load_config([str(file), str(file)]))


@examples(200)
@given(
    key=st.sampled_from(KEYS) | st.text(max_size=10) | st.builds("{}.{}".format, st.sampled_from(KEYS), texts),
    value=st.sampled_from(HOSTILE) | texts | numbers.map(str) | trees.map(lambda tree: yaml.safe_dump(tree)),
)
def test_any_override(key, value):
    is_valid_or_one_line(lambda: load_config(overrides=[f"{key}={value}"]))


def test_hostile_yaml_is_refused_or_taken_for_text():
    for text in HOSTILE:
        assert is_valid_or_one_line(lambda text=text: load_config(overrides=[f"train={text}"])) is None, text


def test_aliases_cannot_make_a_tree_without_end():
    laughs = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    laughs += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    assert is_valid_or_one_line(lambda: load_config(overrides=["train={" + ", ".join(laughs) + "}"])) is None


def test_a_day_and_plain_values_are_taken():
    config = is_valid_or_one_line(lambda: load_config(overrides=["examples.until=2026-01-02", "train.seed=-5"]))
    assert (config.examples.until, config.train.seed) == (date(2026, 1, 2), -5)
