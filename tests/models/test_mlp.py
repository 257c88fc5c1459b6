"""The MLP: shapes, parameter count, gradients."""

from itertools import pairwise

import pytest
import torch

from mamdr_core.config.features import Feature
from mamdr_core.config.models import ModelSettings
from mamdr_core.models.structures import build_model, declare_inputs

FEATURES = (
    Feature(name="age", kind="numeric"),
    Feature(name="city", kind="categorical", size=4),
    Feature(name="taste", kind="vector", of="user", size=6, path="x"),
)
SIZES = {"user": 10, "item": 20, "domain": 3, "city": 5}


def test_declared_features_become_fields_in_order():
    inputs = declare_inputs(ModelSettings(embedding_dim=8), FEATURES, SIZES)
    assert inputs.names == ("user", "item", "domain", "city", "taste", "numeric")
    assert inputs.width == 3 * 8 + 4 + 6 + 1
    assert [table.rows for table in inputs.tables] == [11, 21, 4, 6, 11]
    assert [table.trainable for table in inputs.tables] == [True, True, True, True, False]


def test_without_id_embeddings_only_declared_features_and_the_domain_are_left():
    inputs = declare_inputs(ModelSettings(train_ids=False), FEATURES, SIZES)
    assert inputs.names == ("domain", "city", "taste", "numeric")


def test_the_mlp_of_the_paper_has_the_parameters_of_its_formula():
    inputs = declare_inputs(ModelSettings(), (), SIZES)
    model = build_model(ModelSettings(), inputs)
    widths = [384, 256, 128, 64, 1]
    expected = sum(before * after + after for before, after in pairwise(widths))
    assert sum(p.numel() for p in model.parameters()) == expected == 139_777
    logits = model({name: torch.randn(5, 128) for name in inputs.names})
    assert logits.shape == (5,)
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_one_seed_one_model():
    inputs = declare_inputs(ModelSettings(), (), SIZES)
    first, second, other = (build_model(ModelSettings(), inputs, seed) for seed in (1, 1, 2))
    assert torch.equal(first.layers[0].weight, second.layers[0].weight)
    assert not torch.equal(first.layers[0].weight, other.layers[0].weight)


def test_an_unknown_structure_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"model.name is 'mpl'; known: adasparse, autoint, cgc, .*wdl"):
        build_model(ModelSettings(name="mpl"), declare_inputs(ModelSettings(), (), SIZES))
