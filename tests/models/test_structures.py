"""Every structure: shapes over any features, parameters by formula, a gradient everywhere, settings."""

import runpy
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from mamdr_core.config.features import Feature
from mamdr_core.config.job_config import load_config
from mamdr_core.config.models import ModelSettings
from mamdr_core.models.fields import join_fields
from mamdr_core.models.layers import DomainPerceptron, tables_of
from mamdr_core.models.structures import MODELS, build_model, declare_inputs
from mamdr_core.models.tables import Inputs
from mamdr_core.runtime.errors import MamdrError
from tests.models.small_structures import MULTI_DOMAIN, small_inputs, small_settings

SIZES = {"user": 10, "item": 20, "domain": 3}


def random_fields(inputs: Inputs, rows: int) -> dict[str, torch.Tensor]:
    """Fields of one domain's rows, that take a gradient."""
    torch.manual_seed(0)
    shapes = {table.name: (1 if table.per_domain else rows, table.width) for table in inputs.tables}
    if inputs.numeric:
        shapes["numeric"] = (rows, inputs.numeric)
    return {name: torch.randn(shape, requires_grad=True) for name, shape in shapes.items()}


def fully_connected(*widths: int) -> int:
    return sum(before * after + after for before, after in pairwise(widths))


@pytest.mark.parametrize("train_ids", [True, False])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_any_declared_features_give_logits_and_gradients_of_all_parameters(name, train_ids):
    """Wide layers, so that no unit is idle for every row."""
    settings = ModelSettings(name=name, embedding_dim=16, train_ids=train_ids, dropout=0.0)
    inputs = small_inputs(settings, domains=3)
    assert inputs.names == (*(("user", "item") if train_ids else ()), "domain", "city", "values", "numeric")
    model, fields = build_model(settings, inputs), random_fields(inputs, 50)
    logits = model(fields)
    assert logits.shape == (50,)
    logits.sigmoid().sum().backward()
    for key, value in (*model.named_parameters(), *fields.items()):
        assert value.grad is not None, key
        assert value.grad.abs().max() > 0, key


@pytest.mark.parametrize("name", sorted(MODELS))
def test_the_score_of_a_row_does_not_depend_on_other_rows(name):
    settings = small_settings(name)
    inputs = small_inputs(settings, domains=3)
    model, fields = build_model(settings, inputs), random_fields(inputs, 6)
    alone = {key: field if len(field) == 1 else field[4:5] for key, field in fields.items()}
    torch.testing.assert_close(model(alone)[0], model(fields)[4])


@pytest.mark.parametrize("name", sorted(MODELS))
def test_parameters_and_tables_of_zeros_give_the_logit_zero(name):
    """So a mixed model alone is a package whose theta_S is zeros; features still vary."""
    settings = small_settings(name)
    inputs = small_inputs(settings, domains=3)
    model, fields = build_model(settings, inputs).eval(), random_fields(inputs, 6)
    fields |= {table.name: torch.zeros_like(fields[table.name]) for table in inputs.tables if table.trainable}
    zeros = {key: torch.zeros_like(value) for key, value in model.named_parameters()}
    logits = torch.func.functional_call(model, zeros, (fields,))
    assert logits.tolist() == [0.0] * 6


MASKED = fully_connected(384, 768, 384) + 384 * 64 + 2 * 64  # a block: mask, hidden layer, its normalisation
PRUNERS = [(128 + width) * width + width for width in (256, 256, 128, 64)]  # the other features, and hidden layers
ADAPTERS = sum(2 * 16 * (width + 32) + 32 + 3 * width for width in (128, 64))
VECTORS = {"hamur": 2 * (128 + 64), "m3oe": 384 + 2 * 256 + 4}
"""Numbers of a domain that are read for every row."""


def formula(name: str) -> tuple[int, int, int]:
    """Dense parameters, parameters of each domain, first-order weights of each id; as docs/models.md has them."""
    mlp = fully_connected(384, 256, 128, 64, 1)
    expert, tower, gate = (384, 512, 256, 128), (128, 64, 1), (384, 64)
    star = (384, 256, 128, 64, 1)
    interacting = 4 * 128 * 32 + 2 * 4 * 32 * 32 + 3 * 32 + 1  # three layers of 4 matrices; three fields of 4 heads
    return {
        "mlp": (mlp, 0, 0),
        "wdl": (mlp, 0, 1),
        "deepfm": (mlp, 0, 1),
        "neurfm": (fully_connected(128, 256, 128, 64, 1), 0, 1),
        "autoint": (mlp + interacting, 0, 0),
        "raw": (mlp + fully_connected(384, 64, 384), 0, 1),
        "shared_bottom": (fully_connected(*expert), fully_connected(*tower), 0),
        "mmoe": (2 * fully_connected(*expert), fully_connected(*tower) + fully_connected(*gate, 2), 0),
        "cgc": (
            fully_connected(*expert),
            fully_connected(*expert) + fully_connected(*tower) + fully_connected(*gate, 2),
            0,
        ),
        "ple": (
            2 * fully_connected(384, 64),
            10 * fully_connected(384, 64) + fully_connected(64, 256, 1) + fully_connected(*gate, 12),
            0,
        ),
        "dcnv2": (mlp + 2 * (384 * 384 + 384) + 384, 0, 0),
        "masknet": (3 * MASKED + 2 * 384 + fully_connected(3 * 64, 256, 128, 64, 1), 0, 0),
        "pepnet": (
            mlp
            + fully_connected(128 + 384, 64, 384)
            + sum(fully_connected(384 + 384, 64, width) for width in (256, 128, 64)),
            0,
            0,
        ),
        "adasparse": (mlp + sum(PRUNERS), 0, 0),
        "hamur": (mlp + fully_connected(384, 64, 16 * 16) + ADAPTERS, 0, 0),
        "m3oe": (
            fully_connected(384, 256)
            + 256 * 4
            + 4
            + 128 * 4  # representation; gate
            + 8 * fully_connected(256, 128, 64)
            + 2
            + fully_connected(64, 64, 1),
            0,
            0,
        ),
        "star": (fully_connected(*star) + 2 * 384 + fully_connected(384, 64, 1), fully_connected(*star) + 2 * 384, 0),
    }[name]


@pytest.mark.parametrize("name", sorted(MODELS))
def test_with_the_papers_sizes_a_structure_has_the_parameters_of_its_formula(name):
    settings = ModelSettings(name=name)
    inputs = declare_inputs(settings, (), SIZES)
    dense, own, by_id = formula(name)
    assert sum(p.numel() for p in build_model(settings, inputs).parameters()) == dense
    assert sum(table.width for table in inputs.tables if table.per_domain) == own
    weights = [table for table in inputs.tables if not table.feature and not table.per_domain]
    by_domain = [table for table in weights if name in VECTORS]
    assert {table.column for table in by_domain} <= {"domain"}
    assert sum(table.width for table in by_domain) == VECTORS.get(name, 0)
    by_row = [table for table in weights if table not in by_domain]
    assert [table.column for table in by_row] == ["user", "item", "domain"] * by_id
    assert {table.width for table in by_row} <= {1}
    assert inputs.width == 3 * 128
    assert (own > 0) == (name in MULTI_DOMAIN)


def test_what_each_structure_holds_at_the_papers_sizes():
    """Dense parameters and those of a domain, in numbers that docs/models.md repeats."""
    assert {name: formula(name)[:2] for name in sorted(MODELS)} == {
        "adasparse": (382_145, 0),
        "autoint": (164_450, 0),
        "cgc": (361_344, 394_435),
        "dcnv2": (435_841, 0),
        "deepfm": (139_777, 0),
        "hamur": (189_889, 0),
        "m3oe": (433_543, 0),
        "masknet": (1_938_433, 0),
        "mlp": (139_777, 0),
        "mmoe": (722_688, 33_091),
        "neurfm": (74_241, 0),
        "pepnet": (374_337, 0),
        "ple": (49_280, 288_717),
        "raw": (189_377, 0),
        "shared_bottom": (361_344, 8_321),
        "star": (165_250, 140_545),
        "wdl": (139_777, 0),
    }


@pytest.mark.parametrize("name", sorted(MODELS))
def test_one_seed_one_structure_and_declaring_inputs_draws_nothing(name):
    settings = small_settings(name)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    inputs = small_inputs(settings, 3)
    models = [build_model(settings, inputs, seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.rand(3), expected)
    first, same, other = (torch.cat([p.detach().flatten() for p in model.parameters()]) for model in models)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_tower_starts_with_the_spread_of_a_linear_layer():
    settings = ModelSettings(name="shared_bottom")
    tables = {table.name: table for table in declare_inputs(settings, (), SIZES).tables}
    weight = tables["tower.0.weight"]
    assert (weight.column, weight.rows, weight.width) == ("domain", 4, 128 * 64)
    assert weight.std == pytest.approx(torch.nn.Linear(128, 4000).weight.std().item(), rel=0.01)
    assert tables["tower.0.bias"].std == 0
    assert tables["user"].std == 0.01


@pytest.mark.parametrize("name", ["wdl", "star"])
def test_inputs_that_lack_a_structures_tables_are_refused(name):
    inputs = declare_inputs(ModelSettings(), (), SIZES)
    with pytest.raises(ValueError, match=rf"inputs of {name} lack tables .*: create them by declare_inputs"):
        build_model(ModelSettings(name=name), inputs)


def test_tables_of_a_structure_never_take_a_features_name():
    features = (Feature(name="tower", kind="numeric"), Feature(name="gate", kind="categorical"))
    inputs = declare_inputs(ModelSettings(name="mmoe"), features, {**SIZES, "gate": 2})
    names = [table.name for table in inputs.tables]
    assert len(set(names)) == len(names)
    own = tables_of(build_model(ModelSettings(name="mmoe"), inputs))
    assert all("." in table.name for table in own)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.autoint.heads=0", "model.autoint: heads must be >= 1, got 0"),
        ("model.mmoe.tower=[64, -1]", "model.mmoe: tower must be >= 1, got (64, -1)"),
        ("model.cgc.shared_experts=0", "model.cgc: shared_experts must be >= 1, got 0"),
        ("model.ple.levels=0", "model.ple: levels must be >= 1, got 0"),
        ("model.ple.expert_hidden=[]", "model.ple: expert_hidden needs at least one hidden layer, got []"),
        ("model.shared_bottom.hidden=[]", "model.shared_bottom: hidden needs at least one hidden layer, got []"),
        ("model.star.auxiliary=[0]", "model.star: auxiliary must be >= 1, got (0,)"),
        ("model.raw.gate=[0]", "model.raw: gate must be >= 1, got (0,)"),
        ("model.mmoe.expert=3", "unknown config key model.mmoe.expert; did you mean model.mmoe.experts?"),
    ],
)
def test_a_wrong_size_is_named(override, message):
    with pytest.raises(MamdrError) as error:
        load_config(overrides=[override])
    assert str(error.value) == message


def test_the_structure_that_the_docs_add_is_one(tmp_path):
    text = (Path(__file__).resolve().parents[2] / "docs/models.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    names = {
        "nn": torch.nn,
        "Inputs": Inputs,
        "ModelSettings": ModelSettings,
        "Mapping": Mapping,
        "Tensor": torch.Tensor,
    }
    names |= {"DomainPerceptron": DomainPerceptron, "join_fields": join_fields}
    (tmp_path / "tower.py").write_text(code)
    names = runpy.run_path(str(tmp_path / "tower.py"), names)
    settings = small_settings("tower")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "tower", names["Tower"])
        inputs = small_inputs(settings, 3)
        assert build_model(settings, inputs)(random_fields(inputs, 5)).shape == (5,)
    assert sum(table.width for table in inputs.tables if table.per_domain) == fully_connected(inputs.width, 5, 3, 1)
